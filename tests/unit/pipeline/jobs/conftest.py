"""Stores without any snapshot, wherever a store can be."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from gpukm.snapshots import Store

_names = itertools.count()


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    location = str(tmp_path / "store") if request.param == "local" else f"memory://jobs-{next(_names)}/store"
    made = Store.open(location, create=True)
    made.make_writable()
    return made
