"""Lloyd's algorithm as a generator of states (Lloyd, "Least squares quantization in PCM", 1982)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gpukm.backends.base import Effort, Frame, Made
from gpukm.core.exact import fold, row_distances, to_float
from gpukm.core.result import IterationRecord, StopReason
from gpukm.core.shard import Candidate, Scan, Shard, Step, first_candidates, plain
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
    """The loop after an iteration, or after several where a backend makes them by itself.

    Attributes
    ----------
    centroids : ndarray of shape (n_clusters, n_features)
        What the last iteration arrived at.
    records : tuple of IterationRecord
        Of the iterations since the state before.
    tolerance : float
        Absolute tolerance of the summed squared shift, known once the variance is.
    stop : StopReason or None
        Set in the last state.
    n_scored, n_rechecked : int
        Rows labelled in these iterations, and rows that screening could not settle.
    effort : Effort
        How much of the labelling could be avoided.
    """

    centroids: np.ndarray
    records: tuple[IterationRecord, ...]
    tolerance: float
    stop: StopReason | None
    n_scored: int
    n_rechecked: int
    effort: Effort

    @property
    def record(self) -> IterationRecord:
        """Of the last iteration."""
        return self.records[-1]


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
        The last one has ``stop`` set.
    """
    for shard in problem.shards:
        shard.begin(problem.grid)
    tolerance: float | None = None
    done, stop = first_iteration - 1, None
    while stop is None and done < problem.max_iter:
        begun = 0, 0
        if tolerance is not None:
            for made in _made(problem, centroids, tolerance, problem.max_iter - done):
                centroids, begun = made.centroids, made.pending or (0, 0)
                if len(made.lines):
                    state = _state_of(problem, made, tolerance, done)
                    done, stop = state.record.iteration, state.stop
                    yield state
            if stop is not None or done == problem.max_iter:
                return
        step: Step = problem.executor.map_reduce(
            lambda shard, c=centroids: shard.step(c, problem.frame),  # type: ignore[misc]
            problem.shards,
            Step.merge,
        )
        stats = step.stats
        updated, shifts, gains = advance(problem, stats, centroids)
        inertia = display_inertia(problem, fold(gains))
        if tolerance is None:
            tolerance = problem.tol * mean_variance(problem, stats)
        n_empty = fill_empty(problem, stats, centroids)
        if n_empty:
            updated, shifts, _ = advance(problem, stats, centroids)
        shift, done = fold(shifts), done + 1
        record = IterationRecord(done, inertia, shift, begun[0] + step.n_moved, n_empty)
        stop = _stop_reason(problem, updated.tobytes() == centroids.tobytes(), shift, tolerance, done)
        centroids = updated
        rechecked = begun[1] + step.n_rechecked
        yield LloydState(centroids, (record,), tolerance, stop, step.n_scored, rechecked, step.effort)


def _made(problem: Problem, centroids: np.ndarray, tolerance: float, most: int) -> Iterator[Made]:
    """Iterations that the backend makes by itself."""
    if len(problem.shards) > 1 or problem.spherical:
        return iter(())
    least = tolerance if problem.tol > 0 else -1.0
    return problem.shards[0].run(centroids, problem.frame, problem.reference.astype(np.float64), least, most)


def _state_of(problem: Problem, made: Made, tolerance: float, done: int) -> LloydState:
    """Say what a backend made."""
    records = tuple(
        IterationRecord(done + i, display_inertia(problem, gain), shift, int(moved), 0)
        for i, (shift, gain, moved, _) in enumerate(made.lines.tolist(), 1)
    )
    stop = _stop_reason(problem, made.settled, records[-1].shift, tolerance, records[-1].iteration)
    rows, rechecked = len(records) * problem.scan.n_samples, int(made.lines[:, 3].sum())
    return LloydState(made.centroids, records, tolerance, stop, rows, rechecked, made.effort or plain(rows))


def _stop_reason(problem: Problem, settled: bool, shift: float, tolerance: float, iteration: int) -> StopReason | None:
    """Why to stop after an iteration, if at all."""
    if settled:
        return StopReason.CONVERGED
    if shift <= tolerance and problem.tol > 0:
        return StopReason.TOLERANCE
    return StopReason.MAX_ITER if iteration == problem.max_iter else None


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


def advance(problem: Problem, stats: ClusterStats, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Next centroids, their squared shifts, and the gains of :meth:`Backend.means`, each of length n_clusters."""
    backend = problem.shards[0].backend
    updated, shifts, gains = backend.means(stats, problem.grid, centroids, problem.reference.astype(np.float64))
    if problem.spherical:
        updated = _directions(problem, stats, centroids)
        shifts = row_distances(updated, centroids)
    return updated, shifts, gains


def display_inertia(problem: Problem, gain: float) -> float:
    """Inertia from what clusters gained on the spread: cheap, and for display only, since large terms cancel."""
    return max(to_float(problem.scan.spread) + gain, 0.0)


def _directions(problem: Problem, stats: ClusterStats, previous: np.ndarray) -> np.ndarray:
    """Sums at length one, in the working dtype; a cluster without weight or direction keeps its centroid."""
    sums = stats.sums(problem.grid)
    # D to the origin, in the fixed tree, is the squared length.
    lengths = np.sqrt(row_distances(sums, np.zeros_like(sums)))[:, None]
    used = (stats.weights(problem.grid)[:, None] > 0) & (lengths > 0)
    mean = np.divide(sums, lengths, out=np.zeros_like(sums), where=used)
    return np.where(used, mean.astype(problem.dtype), previous)


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
