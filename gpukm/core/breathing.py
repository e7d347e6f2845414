"""Starting centres by breathing k-means (Fritzke, "The Breathing K-Means Algorithm", arXiv:2006.15666), for a sample.

Lloyd's algorithm cannot move a centre from where two share a cluster to where one serves two. Breathing in adds centres
where the error is, breathing out takes away as many, those missed least; a few Lloyd steps follow both. Fritzke adds
five centres and one fewer after each breath that failed, until every set has converged. Here the first breath adds a
quarter of the centres and each further one half as many, so that the work is a few dozen steps.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gpukm.core.lloyd import Problem, finish_shard, iterate
from gpukm.core.shard import Final
from gpukm.core.swaps import grow, shrink

#: Lloyd steps after centres are added, and after some are taken away.
STEPS = 4
#: Share of the centres that the first breath adds.
FIRST_BREATH = 0.25


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
    best, least = _settle(problem, centroids)
    k = len(best)
    size, breath = max(1, int(FIRST_BREATH * k)), 0
    while size and (more := grow(problem, best, size, seed, breath)) is not None:
        grown, _ = _settle(problem, more)
        found, inertia = _settle(problem, shrink(problem, grown, len(grown) - k))
        if inertia < least:
            best, least = found, inertia
        size, breath = size // 2, breath + 1
    return best


def _settle(problem: Problem, centroids: np.ndarray) -> tuple[np.ndarray, int]:
    """A few Lloyd steps, and the exact inertia after them."""
    for state in iterate(replace(problem, max_iter=STEPS, tol=0.0), centroids):
        centroids = state.centroids
    shared = problem.executor.share(centroids)
    final: Final = problem.executor.map_reduce(problem.rows, finish_shard, Final.merge, problem.shared, shared, False)
    return centroids, final.inertia
