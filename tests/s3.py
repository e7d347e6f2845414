"""S3 as a local server plays it, where s3fs and moto are installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

REGION = "eu-west-1"
needs_s3 = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("s3fs", "moto", "flask")),
    reason="s3fs and moto[server] are not installed",
)


def s3_options(endpoint: str) -> dict[str, Any]:
    """Storage options that reach it."""
    return {
        "key": "testing",
        "secret": "testing",
        "client_kwargs": {"endpoint_url": endpoint, "region_name": REGION},
    }


def make_bucket(endpoint: str, name: str) -> Any:
    """The file system, with this bucket in it."""
    import fsspec

    fs = fsspec.filesystem("s3", **s3_options(endpoint))
    if not fs.exists(name):
        fs.mkdir(name)
    return fs
