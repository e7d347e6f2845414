"""Exact k-means in production: fits, versioned snapshots, reports.

Public names load on first use, so that ``import gpukm`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpukm.core.result import FitResult, StopReason
    from gpukm.errors import GpukmError
    from gpukm.estimator import KMeans
    from gpukm.functional import assign, kmeans

_HOMES = {
    "FitResult": "gpukm.core.result",
    "GpukmError": "gpukm.errors",
    "KMeans": "gpukm.estimator",
    "StopReason": "gpukm.core.result",
    "assign": "gpukm.functional",
    "kmeans": "gpukm.functional",
}

try:
    __version__ = version("gpukm")
except PackageNotFoundError:
    # Run from a checkout that is not installed.
    __version__ = "0+unknown"

__all__ = ["FitResult", "GpukmError", "KMeans", "StopReason", "__version__", "assign", "kmeans"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gpukm' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
