"""Golden rows: rows whose labels are known, checked at publication and at every load."""

from __future__ import annotations

import numpy as np

from gpukm.errors import DataError, SnapshotCorruptError
from gpukm.snapshots.snapshot import Labeller, SnapshotContent


def check_golden(content: SnapshotContent, what: str, labeller: Labeller | None = None) -> None:
    """Label the golden rows again.

    Raises
    ------
    SnapshotCorruptError
        A label differs: the centroids are not those of the fit, or this machine computes other labels.
    """
    golden = content.golden
    if not len(golden.labels):
        return
    labels = np.asarray((labeller or _label)(golden.x, content.centroids))
    wrong = np.flatnonzero(labels != golden.labels)
    if wrong.size:
        i = int(wrong[0])
        raise SnapshotCorruptError(
            f"{what}: {wrong.size} of {len(labels)} golden rows get another label here, the first (row "
            f"{int(golden.row_numbers[i])}) {int(labels[i])} instead of {int(golden.labels[i])}; do not use it on this "
            "machine, and run: gpukm doctor"
        )


def check_shapes(content: SnapshotContent) -> None:
    """Raise DataError unless centroids and golden rows fit together."""
    centroids, golden = content.centroids, content.golden
    if centroids.ndim != 2 or not centroids.size or centroids.dtype.name not in ("float32", "float64"):
        raise DataError(f"centroids are {centroids.dtype} of shape {centroids.shape}; expected floats (n_clusters, d)")
    n = len(golden.labels)
    if golden.x.shape != (n, centroids.shape[1]) or golden.x.dtype.name != centroids.dtype.name:
        raise DataError(
            f"golden rows are {golden.x.dtype} of shape {golden.x.shape}; "
            f"expected {centroids.dtype} of shape {(n, centroids.shape[1])}"
        )
    if golden.labels.shape != (n,) or golden.row_numbers.shape != (n,):
        raise DataError(f"golden rows have {golden.row_numbers.shape} row numbers and {golden.labels.shape} labels")
    if n and (golden.labels.min() < 0 or golden.labels.max() >= len(centroids)):
        raise DataError(f"golden labels reach beyond the {len(centroids)} centroids")


def _label(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Labels as this machine gives them, on the backend it would choose; golden rows have their unit length already."""
    from gpukm.functional import assign

    return assign(x, centroids, metric="euclidean").labels
