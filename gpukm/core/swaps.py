"""Swaps after a fit: centroids are added where the error is, and as many of the least useful ones are taken away.

This is breathing k-means (Fritzke, "The Breathing K-Means Algorithm", arXiv:2006.15666), with additions in proportion
to k. All decisions follow from order-free numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpukm.backends.base import Backend
from gpukm.core.exact import exact_sum_by, to_float
from gpukm.core.lloyd import Fixed, Problem
from gpukm.core.rng import Purpose, uniform
from gpukm.core.shard import Shard
from gpukm.executors.base import Opener

#: Iterations of Lloyd between adding and taking away.
GROWN_ITERATIONS = 10
#: Swaps at most, and the part of the inertia below which a swap's gain makes the next one smaller.
MOST_SWAPS = 20
LEAST_GAIN = 1e-4
#: How far from a centroid another one is put, relative to the root mean squared distance of the rows per feature.
_OFFSET = 0.01


@dataclass(frozen=True)
class Errors:
    """What centroids do for their rows, exact Python integers of shape (k,); mergeable.

    ``inertia`` is the sum of ``w * D``, and ``use`` by how much that would rise at once without the centroid.
    """

    inertia: np.ndarray
    use: np.ndarray

    def merge(self, other: Errors) -> Errors:
        """Both parts together."""
        return Errors(self.inertia + other.inertia, self.use + other.use)


def first_size(problem: Problem, k: int) -> int:
    """Centroids that the first swap exchanges; 0 where there is nothing to gain."""
    return max(0, min(max(5, k // 10), k - 1, problem.scan.n_positive - k))


def grow(problem: Problem, centroids: np.ndarray, size: int, seed: int, number: int) -> np.ndarray | None:
    """Put ``size`` centroids beside those whose rows have the largest inertia; None where it is zero.

    ``number`` tells draws of one seed apart.
    """
    inertia = errors(problem, centroids).inertia
    worst = sorted(range(len(centroids)), key=lambda j: (-inertia[j], j))[:size]
    d = centroids.shape[1]
    length = _OFFSET * math.sqrt(to_float(int(inertia.sum())) / problem.total_weight / d)
    if length == 0:
        return None
    draws = uniform(seed, Purpose.SWAP, number << 32, len(worst) * d).reshape(-1, d)
    beside = (centroids[worst] + length * (2 * draws - 1)).astype(problem.fixed.dtype)
    return np.concatenate([centroids, beside])


def shrink(problem: Problem, centroids: np.ndarray, size: int) -> np.ndarray:
    """Take away the ``size`` centroids without which the inertia would rise the least, but no two neighbours.

    The nearest other centroid of one that goes will get its rows, so its own use says little from then on; it stays.
    """
    executor, uses = problem.executor, errors(problem, centroids).use
    left: np.ndarray = executor.fetch(executor.apply(_without, problem.backend, centroids, uses, size))
    return left


def _without(opener: Opener, centroids: np.ndarray, uses: np.ndarray, size: int) -> np.ndarray:
    """The centroids that stay."""
    backend: Backend = opener.open()
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


def errors(problem: Problem, centroids: np.ndarray) -> Errors:
    """Measure every centroid in one pass over the rows."""
    shared = problem.executor.share(centroids)
    found: Errors = problem.executor.map_reduce(problem.rows, _errors, Errors.merge, problem.shared, shared)
    return found


def _errors(shard: Shard, fixed: Fixed, centroids: np.ndarray) -> Errors:
    """The part of a shard's rows."""
    k = len(centroids)
    # Seconds are certified in every precision.
    backend = shard.backend.certified
    prepared = backend.prepare(centroids, fixed.frame)
    total = Errors(np.zeros(k, dtype=object), np.zeros(k, dtype=object))
    for block in shard.blocks():
        labels, nearest, second = backend.assign_two(block.x, prepared)
        # A centroid that is alone has no second: it is never taken away.
        rise = np.where(np.isfinite(second), second - nearest, 0.0)
        weight = 1.0 if block.weight is None else block.weight
        parts = (exact_sum_by(weight * v, labels, k) for v in (nearest, rise))
        total = total.merge(Errors(*parts))
    return total
