"""The benchmarks are scripts beside the package; their folder alone is put on the path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"
NAMES = tuple(path.stem for path in FOLDER.glob("*.py"))


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Import the scripts' modules from their folder, and forget them afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in NAMES:
        sys.modules.pop(name, None)


class Parts:
    """``gpu.check`` is the module gpu_check."""

    def __getattr__(self, name: str) -> Any:
        return importlib.import_module(f"gpu_{name}")


@pytest.fixture
def gpu() -> Parts:
    return Parts()


@pytest.fixture
def gpu_bench(gpu: Parts) -> Callable[..., Any]:
    """A bench on the host with peers of the test's own."""
    return lambda **peers: gpu.cases.Bench(clock=gpu.times.Clock(), gpukm={}, peers=peers, seconds_each=0.001)
