"""Write what a benchmark found, with the machine, the commit and the versions it was found on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cpu import machine

import gpukm


def record(name: str, found: Mapping[str, Any], packages: Sequence[str], folder: Path | None = None) -> Path:
    """Write one JSON file, named by benchmark and processor, into ``folder`` (default: results beside this file)."""
    where = machine()
    slug = re.sub(r"[^a-z0-9]+", "-", where["cpu"].lower()).strip("-") or "unknown"
    folder = folder or Path(__file__).resolve().parent / "results"
    folder.mkdir(parents=True, exist_ok=True)
    versions = {"gpukm": gpukm.__version__, **{package: version(package) for package in packages}}
    path = folder / f"{name}-{slug}.json"
    path.write_text(json.dumps({"benchmark": name, "machine": where, "versions": versions, **found}, indent=1) + "\n")
    return path
