"""Stores without any snapshot, wherever a store can be."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from gpukm.snapshots import Store
from tests.s3 import make_bucket, needs_s3, s3_options

_names = itertools.count()


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=needs_s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    options: dict[str, Any] = {}
    if request.param == "local":
        location = str(tmp_path / "store")
    elif request.param == "memory":
        location = f"memory://jobs-{next(_names)}/store"
    else:
        endpoint = request.getfixturevalue("s3_endpoint")
        make_bucket(endpoint, "bucket")
        location, options = f"s3://bucket/jobs-{next(_names)}/store", s3_options(endpoint)
    made = Store.open(location, create=True, storage_options=options)
    made.make_writable()
    return made
