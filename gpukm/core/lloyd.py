"""Lloyd's algorithm as a generator of states (Lloyd, "Least squares quantization in PCM", 1982)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gpukm.backends.base import Frame
from gpukm.core.exact import fold, to_float
from gpukm.core.result import IterationRecord, StopReason
from gpukm.core.shard import Candidate, Scan, Shard, Step, first_candidates
from gpukm.core.stats import ClusterStats, Grid
from gpukm.executors.local import LocalExecutor


@dataclass(frozen=True)
class Problem:
    """What stays the same during a fit: the shards, what the first look at them told, and the rules to stop."""

    shards: Sequence[Shard]
    executor: LocalExecutor
    scan: Scan
    grid: Grid
    frame: Frame
    reference: np.ndarray
    dtype: np.dtype
    max_iter: int
    tol: float
    spherical: bool

    @property
    def total_weight(self) -> float:
        """Summed sample weight."""
        return to_float(self.scan.weight)


@dataclass(frozen=True)
class LloydState:
    """The loop after one iteration.

    Attributes
    ----------
    centroids : ndarray of shape (n_clusters, n_features)
        What the iteration arrived at.
    record : IterationRecord
    tolerance : float
        Absolute tolerance of the summed squared shift, known once the variance is.
    stop : StopReason or None
        Set in the last state.
    n_scored, n_rechecked : int
        Rows labelled in this iteration, and rows that screening could not settle.
    """

    centroids: np.ndarray
    record: IterationRecord
    tolerance: float
    stop: StopReason | None
    n_scored: int
    n_rechecked: int


def iterate(problem: Problem, centroids: np.ndarray, first_iteration: int = 1) -> Iterator[LloydState]:
    """Iterate from ``centroids`` until nothing moves, little moves, or ``max_iter`` is reached.

    Parameters
    ----------
    problem : Problem
    centroids : ndarray of shape (n_clusters, n_features)
    first_iteration : int
        Number of the first iteration, larger than one when a fit is resumed.

    Yields
    ------
    LloydState
        One an iteration; the last one has ``stop`` set.
    """
    for shard in problem.shards:
        shard.begin(problem.grid)
    tolerance: float | None = None
    for iteration in range(first_iteration, problem.max_iter + 1):
        step: Step = problem.executor.map_reduce(
            lambda shard, c=centroids: shard.step(c, problem.frame),  # type: ignore[misc]
            problem.shards,
            Step.merge,
        )
        stats = step.stats
        sums = stats.sums(problem.grid)
        inertia = display_inertia(problem, stats, sums, centroids)
        if tolerance is None:
            tolerance = problem.tol * mean_variance(problem, stats)
        n_empty = fill_empty(problem, stats, centroids)
        if n_empty:
            sums = stats.sums(problem.grid)
        updated = updated_centroids(problem, stats, sums, centroids)
        shift = fold(row_distances(updated, centroids))
        record = IterationRecord(iteration, inertia, shift, step.n_moved, n_empty)
        stop = None
        if updated.tobytes() == centroids.tobytes():
            stop = StopReason.CONVERGED
        elif shift <= tolerance and problem.tol > 0:
            stop = StopReason.TOLERANCE
        elif iteration == problem.max_iter:
            stop = StopReason.MAX_ITER
        centroids = updated
        yield LloydState(centroids, record, tolerance, stop, step.n_scored, step.n_rechecked)
        if stop is not None:
            return


def fill_empty(problem: Problem, stats: ClusterStats, centroids: np.ndarray) -> int:
    """Give empty clusters, in ascending order, the rows farthest from their centroids; return how many were empty."""
    without_centre = stats.weights(problem.grid) <= 0
    if problem.spherical:
        without_centre |= ~(stats.hi.any(axis=1) | stats.lo.any(axis=1))
    empty = np.flatnonzero(without_centre)
    if not len(empty):
        return 0
    n = len(empty)
    found: list[Candidate] = problem.executor.map_reduce(
        lambda shard: shard.farthest(centroids, problem.frame, n),
        problem.shards,
        lambda a, b: first_candidates(a + b, n),
    )
    # Fewer candidates than empty clusters means fewer distinct rows than clusters: the rest stay as they are.
    for cluster, candidate in zip(empty, found, strict=False):
        stats.move(candidate.x, candidate.weight, candidate.label, int(cluster), problem.grid)
    return n


def updated_centroids(problem: Problem, stats: ClusterStats, sums: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Divide sums by weights, round once to the working dtype; a cluster without weight keeps its centroid."""
    weights = stats.weights(problem.grid)
    used = weights > 0
    if problem.spherical:
        # D to the origin, in the fixed tree, is the squared length.
        lengths = np.sqrt(row_distances(sums, np.zeros_like(sums)))
        used &= lengths > 0
        weights = lengths
    mean = np.divide(sums, weights[:, None], out=np.zeros_like(sums), where=used[:, None])
    return np.where(used[:, None], mean.astype(problem.dtype), previous)


def mean_variance(problem: Problem, stats: ClusterStats) -> float:
    """Mean over features of the weighted variance, from order-free totals."""
    total = ClusterStats(
        stats.hi.sum(0, keepdims=True), stats.lo.sum(0, keepdims=True), stats.counts.sum(keepdims=True)
    )
    total.normalise()
    weight = problem.total_weight
    mean = total.sums(problem.grid)[0] / weight
    offset = float(row_distances(mean[None], problem.reference[None].astype(np.float64))[0])
    return max(to_float(problem.scan.spread) / weight - offset, 0.0) / len(mean)


def display_inertia(problem: Problem, stats: ClusterStats, sums: np.ndarray, centroids: np.ndarray) -> float:
    """Inertia against the centroids that made ``stats``, by the identity over sums: cheap, and for display only."""
    reference = problem.reference.astype(np.float64)
    c = centroids.astype(np.float64) - reference
    weights = stats.weights(problem.grid)
    sums = sums - weights[:, None] * reference
    # Folded, not left to a library's order of summation: the history is part of a snapshot.
    cross = fold((c * sums).ravel())
    squares = fold((c * c * weights[:, None]).ravel())
    return max(to_float(problem.scan.spread) - 2.0 * cross + squares, 0.0)


def row_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """D between rows of equal index, in float64 and in the fixed tree of eight lanes."""
    lanes = np.zeros((8, len(a)))
    for start in range(0, a.shape[1], 8):
        diff = a[:, start : start + 8].astype(np.float64) - b[:, start : start + 8].astype(np.float64)
        lanes[: diff.shape[1]] += (diff * diff).T
    pairs = lanes[:4] + lanes[4:]
    halves = pairs[:2] + pairs[2:]
    return np.asarray(halves[0] + halves[1])
