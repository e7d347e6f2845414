"""Nested mini-batch k-means as a generator of states (Newling and Fleuret, "Nested Mini-Batch K-Means", NIPS 2016).

Batches are nested: each holds the one before and as many rows again, in a random order. Within a batch a step is one
of Lloyd's, so that every row counts once, whatever the number of steps, and a row that changes its cluster leaves one
sum and joins another. The portion that a batch grows by is a shard, with labels and bounds of its own.

When to grow: a centroid made of n rows is off by its sampling error, whose square is the mean squared distance of
these rows divided by n. Added up over all rows it is what sampling costs, `noise`; `gain` is what the last move of the
centroids saved; both are relative to the inertia. A batch is used up when gain <= :data:`GROWTH` * noise. Newling and
Fleuret compare the same lengths cluster by cluster and take the median.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from gpukm.core.exact import fold
from gpukm.core.lloyd import (
    Problem,
    advance,
    display_inertia,
    fill_empty,
)
from gpukm.core.portions import Portions, portion
from gpukm.core.result import IterationRecord, StopReason
from gpukm.core.shard import Scan, Shard, Step
from gpukm.executors.local import LocalPlacement

#: Gain over noise at which a batch is used up.
GROWTH = 0.1


@dataclass(frozen=True)
class NestedState:
    """The loop after one step.

    Attributes
    ----------
    centroids : ndarray of shape (n_clusters, n_features)
    record : IterationRecord
        ``inertia`` is that of the batch, scaled to the weight of all rows.
    batch_rows : int
        Rows of the batch that made the step.
    counts : ndarray of int64 of shape (n_clusters,)
        How many of them each cluster had.
    weights : ndarray of float64 of shape (n_clusters,)
        Their summed weight.
    excess : float
        Estimate of how far, relatively, the inertia lies above the one that all rows and all further steps would
        reach: sampling noise, and what the steps to come would gain. Infinite while the gain does not shrink.
    stop : StopReason or None
        Set in the last state.
    n_scored, n_rechecked : int
        Rows labelled in this step, and rows that screening could not settle.
    """

    centroids: np.ndarray
    record: IterationRecord
    batch_rows: int
    counts: np.ndarray
    weights: np.ndarray
    excess: float
    stop: StopReason | None
    n_scored: int
    n_rechecked: int


def iterate(
    problem: Problem, portions: Portions, first: Shard, centroids: np.ndarray, *, max_excess: float
) -> Iterator[NestedState]:
    """Iterate from ``centroids`` on batches that grow, until the rest is not worth the work.

    Parameters
    ----------
    problem : Problem
        All rows; ``max_iter`` counts passes, a pass being as many labelled rows as there are.
    portions : Portions
    first : Shard
        The first batch: the first rows of ``portions``.
    centroids : ndarray of shape (n_clusters, n_features)
    max_excess : float
        Stop when the estimated excess is at most this; zero goes on to all rows and until nothing moves.

    Yields
    ------
    NestedState
        One a step; the last one has ``stop`` set.
    """
    for shard in (*problem.shards, first):
        shard.begin(problem.fixed.grid)
    batch = on(problem, [first])
    left = problem.max_iter * problem.scan.n_samples
    before, number = math.inf, 0
    while True:
        number += 1
        step = reduce(Step.merge, [shard.step(centroids, batch.fixed.frame) for shard in batch.shards])
        stats, backend = step.stats, batch.backend.open()
        updated, moves, gains = advance(backend, batch.fixed, stats, centroids)
        inertia = display_inertia(batch, fold(gains))
        n_empty = fill_empty(batch, stats, centroids)
        if n_empty:
            updated, moves, _ = advance(backend, batch.fixed, stats, centroids)
        weights = stats.weights(batch.fixed.grid)
        shift = fold(moves)
        gain = fold(weights * moves) / inertia if inertia > 0 else 0.0
        unseen = 1 - batch.scan.n_positive / problem.scan.n_positive
        noise = unseen * int((weights > 0).sum()) / batch.scan.n_positive
        excess = noise + _rest(gain, before)
        unchanged = updated.tobytes() == centroids.tobytes()
        left -= step.n_scored
        stop = None
        if unchanged and not unseen:
            stop = StopReason.CONVERGED
        elif excess <= max_excess and not n_empty and _own_noise(batch, centroids, unseen) <= max_excess:
            stop = StopReason.EXCESS
        elif problem.tol > 0 and not unseen and shift <= batch.ending.tolerance(stats.total()):
            stop = StopReason.TOLERANCE
        elif left <= 0:
            stop = StopReason.MAX_ITER
        centroids, before = updated, gain
        inertia *= problem.total_weight / batch.total_weight
        yield NestedState(
            centroids,
            IterationRecord(number, inertia, shift, step.n_moved, n_empty),
            batch.scan.n_positive,
            stats.counts,
            weights,
            excess,
            stop,
            step.n_scored,
            step.n_rechecked,
        )
        if stop is not None:
            return
        if unseen and (unchanged or gain <= GROWTH * noise):
            batch = _grown(problem, batch, portions)


def on(problem: Problem, shards: list[Shard]) -> Problem:
    """The same fit on the rows of these shards."""
    scan = reduce(Scan.merge, [shard.scan(problem.fixed.reference) for shard in shards])
    return _with(problem, shards, scan)


def _with(problem: Problem, shards: list[Shard], scan: Scan) -> Problem:
    """The same fit on shards that have been looked at."""
    for number, shard in enumerate(shards):
        shard.number = number
    sizes = tuple(shard.n_samples for shard in shards)
    return replace(problem, rows=LocalPlacement(shards), scan=scan, sizes=sizes)


def _rest(gain: float, before: float) -> float:
    """What all steps to come would gain, if each gains as much less than the one before as the last did."""
    if gain <= 0:
        return 0.0
    return gain * gain / (before - gain) if gain < before else math.inf


def _grown(problem: Problem, batch: Problem, portions: Portions) -> Problem:
    """The batch and as many rows again, up to half of all; then all rows, those in memory where they are."""
    rows, resident = batch.scan.n_positive, problem.shards[0].in_memory
    end = min(2 * rows, problem.scan.n_positive // 2, portions.available)
    if end <= rows and portions.available == problem.scan.n_positive and not resident:
        end = portions.available
    if end > rows:
        shard = portion(problem, portions.take(rows, end))
        scan = batch.scan.merge(shard.scan(problem.fixed.reference))
        return _with(batch, [*batch.shards, shard], scan)
    # The first look at rows in memory left out their spread, which only this stage needs.
    return on(problem, problem.shards) if resident else problem


def _own_noise(batch: Problem, centroids: np.ndarray, unseen: float) -> float:
    """Noise from the mean squared distance of each cluster's own rows; the centroids are those that labelled them."""
    if not unseen:
        return 0.0
    k = len(centroids)
    squares, rows = np.zeros(k), np.zeros(k)
    for shard in batch.shards:
        for block, labels, _ in shard.labelled(centroids, batch.fixed.frame):
            d = shard.backend.distances(block.x, centroids, labels)
            own = shard.backend.fetch(labels)
            squares += np.bincount(own, d if block.weight is None else block.weight * d, k)
            rows += np.bincount(own, minlength=k)
    total = fold(squares)
    # Of n rows, n - 1 are free to differ from their mean.
    return unseen * fold(squares / np.maximum(rows - 1, 1)) / total if total > 0 else 0.0
