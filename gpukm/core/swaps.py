"""Swaps after a fit: centroids are added where the error is, and as many of the least useful ones are taken away.

The idea is that of breathing k-means (Fritzke, "The breathing k-means algorithm", 2020), with additions drawn as
k-means++ draws and in proportion to k. All decisions follow from order-free numbers.
"""

from __future__ import annotations

import numpy as np

from gpukm.core.exact import exact_sum_by
from gpukm.core.lloyd import Problem
from gpukm.core.seeding import spread_rows
from gpukm.core.shard import Shard

#: Iterations of Lloyd between adding and taking away.
GROWN_ITERATIONS = 10
#: Swaps at most, and the part of the inertia below which a swap's gain makes the next one smaller.
MOST_SWAPS = 20
LEAST_GAIN = 1e-4


def first_size(problem: Problem, k: int) -> int:
    """Centroids that the first swap exchanges; 0 where there is nothing to gain."""
    return max(0, min(max(5, k // 10), k - 1, problem.scan.n_positive - k))


def grow(problem: Problem, centroids: np.ndarray, size: int, seed: int, number: int) -> np.ndarray | None:
    """Add ``size`` rows drawn in proportion to their part of the inertia; None where the inertia is zero."""
    rows = spread_rows(problem, centroids, size, seed, number)
    return None if rows is None else np.concatenate([centroids, rows])


def shrink(problem: Problem, centroids: np.ndarray, size: int) -> np.ndarray:
    """Take away the ``size`` centroids without which the inertia would rise the least, but no two neighbours.

    A centroid's use is the sum over its rows of ``w * (D to the second nearest - D to the nearest)``. The nearest other
    centroid of one that goes will get its rows, so its own use says little from then on, and it stays.
    """
    uses: np.ndarray = problem.executor.map_reduce(
        lambda shard: _uses(shard, centroids, problem), problem.shards, lambda a, b: a + b
    )
    backend = problem.shards[0].backend
    order = sorted(range(len(centroids)), key=lambda j: (uses[j], j))
    gone = np.zeros(len(centroids), bool)
    stays = gone.copy()
    for respect in (True, False):
        for j in order:
            if gone.sum() == size:
                return np.ascontiguousarray(centroids[~gone])
            if gone[j] or (respect and stays[j]):
                continue
            gone[j] = True
            distances = backend.cross_distances(centroids[j : j + 1], centroids)[0]
            stays[np.where(gone, np.inf, distances).argmin()] = True
    return np.ascontiguousarray(centroids[~gone])


def _uses(shard: Shard, centroids: np.ndarray, problem: Problem) -> np.ndarray:
    """Exact use of each centroid to a shard's rows, Python integers of shape (k,)."""
    prepared = shard.backend.prepare(centroids, problem.frame)
    total = np.zeros(len(centroids), dtype=object)
    for block in shard.blocks():
        labels, nearest, second = shard.backend.assign_two(block.x, prepared)
        rise = second - nearest
        total = total + exact_sum_by(rise if block.weight is None else block.weight * rise, labels, len(centroids))
    return total
