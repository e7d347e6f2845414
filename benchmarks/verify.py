"""Inertia and nearest centroids of all rows in float64, by an implementation that is none of the contenders'."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BLOCK_VALUES = 1 << 22


def inertia(x: np.ndarray, centroids: np.ndarray) -> float:
    """Sum over all rows of the squared distance to the nearest centroid.

    Which is nearest is decided by a matrix product of centred values, so a tie within its rounding may fall to either,
    which changes the sum by no more; the distance itself is a sum of squared differences.
    """
    c = centroids.astype(np.float64)
    return float(sum(((x[at] - c[labels]) ** 2).sum() for at, labels in _blocks(x, c)))


def nearest(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Number of the nearest centroid of each row, int64 (n,)."""
    return np.concatenate([labels for _, labels in _blocks(x, centroids.astype(np.float64))])


def _blocks(x: np.ndarray, c: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of rows and their nearest centroids."""
    center = c.mean(axis=0)
    c = c - center
    half = 0.5 * (c * c).sum(axis=1)
    step = max(1, _BLOCK_VALUES // (len(c) + x.shape[1]))
    for i in range(0, len(x), step):
        at = slice(i, i + step)
        yield at, (half - (x[at] - center) @ c.T).argmin(axis=1)
