"""Exact k-means in production: fits, versioned snapshots, reports.

Public names load on first use, so that ``import gpukm`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpukm.batched import kmeans_batched
    from gpukm.core.batch import BatchedResult
    from gpukm.core.result import FitResult, StopReason
    from gpukm.errors import GpukmError
    from gpukm.estimators import KMeans, MiniBatchKMeans
    from gpukm.functional import assign, kmeans
    from gpukm.minibatch import minibatch_kmeans

    __version__: str

_HOMES = {
    "BatchedResult": "gpukm.core.batch",
    "FitResult": "gpukm.core.result",
    "GpukmError": "gpukm.errors",
    "KMeans": "gpukm.estimators",
    "MiniBatchKMeans": "gpukm.estimators",
    "StopReason": "gpukm.core.result",
    "assign": "gpukm.functional",
    "kmeans": "gpukm.functional",
    "kmeans_batched": "gpukm.batched",
    "minibatch_kmeans": "gpukm.minibatch",
}

__all__ = [
    "BatchedResult",
    "FitResult",
    "GpukmError",
    "KMeans",
    "MiniBatchKMeans",
    "StopReason",
    "__version__",
    "assign",
    "kmeans",
    "kmeans_batched",
    "minibatch_kmeans",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "__version__":
        return _version()
    raise AttributeError(f"module 'gpukm' has no attribute {name!r}; it offers {', '.join(__all__)}")


def _version() -> str:
    """The installed version; reading it takes longer than all the rest of this import."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gpukm")
    except PackageNotFoundError:
        # Run from a checkout that is not installed.
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted(__all__)
