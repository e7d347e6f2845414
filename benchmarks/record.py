"""Write what a benchmark found, with the machine, the commit and the versions it was found on."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gpukm

HERE = Path(__file__).resolve().parent


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), cpu)
    from gpukm_kernels import native_status

    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "kernels": native_status()[1],
        "commit": commit(),
    }


def commit() -> str:
    """The commit that is measured, marked where files differ from it; GPUKM_COMMIT where git does not tell."""
    with contextlib.suppress(OSError):
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=HERE)
        if head.returncode == 0:
            dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, cwd=HERE)
            return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")
    return os.environ.get("GPUKM_COMMIT", "unknown")


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Of gpukm and of packages; None for what is not installed."""
    found: dict[str, str | None] = {"gpukm": gpukm.__version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def place(name: str, cpu: str, folder: Path | None) -> Path:
    """Path without suffix of a benchmark's results, named by benchmark and processor."""
    slug = re.sub(r"[^a-z0-9]+", "-", cpu.lower()).strip("-") or "unknown"
    folder = folder or HERE / "results"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{slug}"


def record(name: str, found: Mapping[str, Any], packages: Sequence[str], folder: Path | None = None) -> Path:
    """Write one JSON file into ``folder`` (default: results beside this file); what is not installed has no version."""
    where = machine()
    path = place(name, where["cpu"], folder).with_suffix(".json")
    head = {"benchmark": name, "machine": where, "versions": versions(packages)}
    path.write_text(json.dumps({**head, **found}, indent=1) + "\n")
    return path
