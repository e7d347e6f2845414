"""Starting centres by breathing k-means (Fritzke, "The Breathing K-Means Algorithm", arXiv:2006.15666), for a sample.

Lloyd's algorithm cannot move a centre from where two share a cluster to where one serves two. Breathing in adds centres
beside those with the largest error, breathing out takes away as many, those missed least; a few Lloyd steps follow
both. Fritzke adds five centres and one fewer after each breath that failed, until every set has converged. Here the
first breath adds a quarter of the centres and each further one half as many, so that the work is a few dozen steps.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gpukm.core.exact import fold
from gpukm.core.lloyd import Problem, iterate
from gpukm.core.rng import Purpose, uniform

#: Lloyd steps after centres are added, and after some are taken away.
STEPS = 4
#: Share of the centres that the first breath adds.
FIRST_BREATH = 0.25
#: How far from a centre another one is put, relative to the root mean squared distance of the rows per feature.
OFFSET = 0.01


def breathe(problem: Problem, centroids: np.ndarray, seed: int) -> np.ndarray:
    """Improve centres on few rows in memory.

    Parameters
    ----------
    problem : Problem
        Each breath labels its rows about ten times.
    centroids : ndarray of shape (n_clusters, n_features)
    seed : int

    Returns
    -------
    ndarray of shape (n_clusters, n_features)
        Of no larger inertia than the centres given.
    """
    best = _settle(problem, centroids)
    error, _ = _errors(problem, best)
    k, d = best.shape
    m, draw = max(1, int(FIRST_BREATH * k)), 0
    while m:
        length = OFFSET * math.sqrt(fold(error) / problem.total_weight / d)
        offset = length * (2 * uniform(seed, Purpose.BREATH, draw, m * d).reshape(m, d) - 1)
        draw += m * d
        worst = np.argsort(-error, kind="stable")[:m]
        grown = _settle(problem, np.concatenate([best, (best[worst] + offset).astype(problem.dtype)]))
        _, loss = _errors(problem, grown)
        found = _settle(problem, np.delete(grown, np.argsort(loss, kind="stable")[:m], axis=0))
        found_error, _ = _errors(problem, found)
        if fold(found_error) < fold(error):
            best, error = found, found_error
        m //= 2
    return best


def _settle(problem: Problem, centroids: np.ndarray) -> np.ndarray:
    """A few Lloyd steps."""
    for state in iterate(replace(problem, max_iter=STEPS, tol=0.0), centroids):
        centroids = state.centroids
    return centroids


def _errors(problem: Problem, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each cluster's inertia, and by how much it would grow at once without its centre; float64 (k,)."""
    k = len(centroids)
    error, loss = np.zeros(k), np.zeros(k)
    for shard in problem.shards:
        prepared = shard.backend.prepare(centroids, problem.frame)
        for block in shard.blocks():
            labels, nearest, second = shard.backend.assign_two(block.x, prepared)
            weight = 1.0 if block.weight is None else block.weight
            error += np.bincount(labels, weight * nearest, k)
            loss += np.bincount(labels, weight * np.where(np.isfinite(second), second - nearest, np.inf), k)
    return error, loss
