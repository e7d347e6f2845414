"""The benchmarks are scripts beside the package; their folder alone is put on the path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"
NAMES = ("data", "peers", "quality", "record", "scaling", "turns", "verify", "whole")


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Import the scripts' modules from their folder, and forget them afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in NAMES:
        sys.modules.pop(name, None)
