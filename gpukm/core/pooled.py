"""Starting centroids from a sample of the rows: greedy choice from a pool of candidates drawn as in k-means++.

Greedy k-means++ draws a few candidates for every centre, scores them against all rows, keeps the best and forgets the
others. Here candidates are drawn for as many centres at a time as there are, so that they are scored together, like
centroids in an assignment. Each keeps a list of the rows it is nearer to than any centre, which tells what it would
gain as others are chosen; and those not chosen stay in the pool.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gpukm.backends.base import Backend, Frame
from gpukm.core import rng
from gpukm.core.lloyd import Problem
from gpukm.core.rng import Purpose
from gpukm.core.seeding import DRAW_BITS, Draws, Integers, WeightGrid, first_exponent, gather_there
from gpukm.core.shard import Shard
from gpukm.executors.base import Handle, Opener

#: The part of the potential at which candidates are drawn anew: those there are may have none where it is left.
_LEFT = 4
#: Rows that the candidates of a round are expected to list at most, for each that is drawn a centre and each row.
_LISTED = 4
#: First centres are chosen from so much fewer rows.
_FEWER = 8


@dataclass(frozen=True)
class Shape:
    """What a start takes, by the shape of the problem alone.

    Attributes
    ----------
    rows : int
        Rows of the sample.
    trials : int
        Candidates drawn for each centre.
    """

    rows: int
    trials: int

    @classmethod
    def of(cls, n_samples: int, k: int) -> Shape:
        """Choose so that no more pairs of rows and candidates are scored than in one or two assignment passes."""
        rows = min(n_samples, 25 * k, max(8 * k, n_samples // 10))
        return cls(rows, min(16, max(2, n_samples // rows)))


def pooled(problem: Problem, k: int, seed: int) -> np.ndarray:
    """Choose k rows of a stratified sample.

    The draws are those of k-means++ (Arthur and Vassilvitskii, SODA 2007) with distances as they were when a round
    began, as in k-means|| (Bahmani et al., VLDB 2012); each choice takes the candidate that lowers the potential most.

    Parameters
    ----------
    problem : Problem
        At least k of its rows have positive weight.
    k, seed : int
    """
    shape = Shape.of(problem.scan.n_positive, k)
    executor, sample = problem.executor, stratified(problem, shape.rows, seed)
    chosen: np.ndarray = executor.fetch(
        executor.apply(_choose, problem.backend, problem.fixed.frame, sample, k, shape.trials, seed)
    )
    return chosen


#: Rows, and what each stands for; None where all stand for one part.
Sample = tuple[np.ndarray, np.ndarray | None]


def stratified(problem: Problem, m: int, seed: int) -> Handle:
    """Draw about m rows in proportion to weight, one from each m-th part of the total, in one pass over the rows.

    Rows so heavy that they would be drawn for sure are taken with their weight, and the others drawn from what is left.

    Returns
    -------
    Handle of (x, weight)
        ``x`` of shape (n, n_features); ``weight`` float64 of shape (n,) or None, what each stands for, one being a
        part. Where that would be nearly all rows, all of positive weight with their weights.
    """
    executor = problem.executor
    if m >= problem.scan.n_positive:
        found = problem.rows.reduce(_used, operator.add)[0]
        return executor.apply(_all_used, found, problem.weighted)
    if problem.weighted:
        return _stratified_by_weight(problem, m, seed)
    targets = rng.strata(problem.scan.n_samples, m, seed, Purpose.START_SAMPLE, 0)
    ends = np.cumsum(problem.sizes)
    shard = np.searchsorted(ends, targets, side="right")
    places = np.column_stack([shard, targets - np.concatenate([[0], ends])[shard]])
    return executor.apply(_with_weights, gather_there(problem, places), None)


def _used(shard: Shard) -> list[tuple[int, np.ndarray, np.ndarray | None]]:
    """A shard's number, and its rows of positive weight with their weights, block by block."""
    found = []
    for block in shard.blocks():
        x, weight = shard.backend.fetch(block.x), block.weight
        if weight is not None and not (weight > 0).all():
            x, weight = x[weight > 0], weight[weight > 0]
        found.append((shard.number, x, weight))
    return found


def _all_used(found: list[tuple[int, np.ndarray, np.ndarray | None]], weighted: bool) -> Sample:
    """All rows of positive weight, in order."""
    parts = sorted(found, key=lambda part: part[0])
    x = np.concatenate([x for _, x, _ in parts])
    if not weighted:
        return x, None
    return x, np.concatenate([np.ones(len(x)) if w is None else w for _, x, w in parts])


def _with_weights(x: np.ndarray, weight: np.ndarray | None) -> Sample:
    """Rows and what they stand for."""
    return x, weight


def _stratified_by_weight(problem: Problem, m: int, seed: int) -> Handle:
    """About m rows in proportion to their weights."""
    grid = WeightGrid.of(problem)
    least = 1 << 62  # from which on a row is taken for sure
    while True:
        totals, largest, counts = zip(*problem.rows.map(_weighed, grid, least), strict=True)
        draws, n_heavy = Draws(problem.rows, _light, (grid, least), {}, list(totals)), sum(counts)
        part = draws.total / max(1, m - n_heavy)
        # Where heavy rows are taken out parts are smaller, and others may be heavy.
        if not draws.total or max(largest) < part:
            break
        least = math.ceil(part)
    found = problem.rows.map(_heavy, grid, least)
    places = np.concatenate([np.column_stack([np.full(len(rows), i), rows]) for i, (rows, _) in enumerate(found)])
    weight = np.concatenate([q for _, q in found]) / (part or 1.0)
    if draws.total:
        targets = rng.strata(draws.total, m - n_heavy, seed, Purpose.START_SAMPLE, 0)
        others, times = np.unique(draws.locate(targets), axis=0, return_counts=True)
        places, weight = np.concatenate([places, others]), np.concatenate([weight, times])
    order = np.lexsort((places[:, 1], places[:, 0]))
    w = None if (weight == 1).all() else weight[order]
    return problem.executor.apply(_with_weights, gather_there(problem, places[order]), w)


def _light(shard: Shard, grid: WeightGrid, least: int) -> Iterator[Integers]:
    """Weights as integers, those of heavy rows as zero."""
    for q in grid(shard):
        yield Integers(np.where(q < least, q, 0))


def _weighed(shard: Shard, grid: WeightGrid, least: int) -> tuple[int, int, int]:
    """Total and largest of the light weights, and how many rows are heavy."""
    total = largest = n_heavy = 0
    for q in grid(shard):
        lighter = q[q < least]
        total, largest = total + int(lighter.sum()), max(largest, int(lighter.max(initial=0)))
        n_heavy += len(q) - len(lighter)
    return total, largest, n_heavy


def _heavy(shard: Shard, grid: WeightGrid, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Heavy rows and their weights as integers."""
    rows, weights, start = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for q in grid(shard):
        here = np.flatnonzero(q >= least)
        rows.append(start + here)
        weights.append(q[here])
        start += len(q)
    return np.concatenate(rows), np.concatenate(weights)


def _choose(opener: Opener, frame: Frame, sample: Sample, k: int, trials: int, seed: int) -> np.ndarray:
    """Choose k rows of a sample; where all coincide with a centre the first is repeated."""
    backend: Backend = opener.open()
    x, weight = sample
    chosen = _first_row(len(x), weight, seed)
    drawn = 0
    for stride in (_FEWER**2, _FEWER, 1):
        upto = k // stride
        if upto <= len(chosen):
            continue
        part = backend.place(np.ascontiguousarray(x[::stride]))
        w = None if weight is None else np.ascontiguousarray(weight[::stride])
        labels = np.empty(len(part), np.int32)
        backend.assign(part, backend.prepare(x[chosen], frame), labels)
        nearest = backend.distances(part, x[chosen], labels)
        pool, known = backend.pool(part, w, labels, nearest, frame), np.zeros(len(part), bool)
        while len(chosen) < upto:
            share, exponent = _shares(nearest, w)
            ends = np.cumsum(share)
            if not ends[-1]:
                break
            n = min(upto - len(chosen), len(chosen))
            targets = rng.strata(int(ends[-1]), n * trials, seed, Purpose.CANDIDATES, drawn)
            rows = np.unique(np.searchsorted(ends, targets, side="right"))
            rows = rows[~known[rows]]
            part_of = _affordable(labels, rows, _LISTED * trials * len(part))
            rows = rows[np.linspace(0, len(rows), math.ceil(part_of * len(rows)), endpoint=False).astype(np.int64)]
            known[rows] = True
            pool.add(rows)
            # A row that was drawn has a share, which it or its like would gain: at least one is chosen.
            found = pool.choose(math.ceil(part_of * n), len(chosen), exponent, int(ends[-1] - ends[-1] // _LEFT))
            chosen = np.concatenate([chosen, stride * found])
            drawn += len(targets)
    return x[np.concatenate([chosen, np.repeat(chosen[:1], k - len(chosen))])]


def _affordable(labels: np.ndarray, rows: np.ndarray, most: int) -> float:
    """Part of the candidates whose lists come to ``most`` rows: each lists about those that have its centre.

    That is all of them but where many rows share a centre, as when groups far away got the others.
    """
    sizes = np.bincount(labels)
    expected = int(sizes[labels[rows]].sum()) + len(rows) * len(labels) // len(sizes)
    return 1.0 if expected <= most else most / expected


def _first_row(n: int, weight: np.ndarray | None, seed: int) -> np.ndarray:
    """A row drawn by weight, int64 of shape (1,)."""
    # In units so fine that every row counts.
    bits = DRAW_BITS - n.bit_length()
    unit = np.ones(n) if weight is None else np.ldexp(weight, bits - math.frexp(float(weight.max()))[1])
    ends = np.cumsum(np.maximum(np.rint(unit).astype(np.int64), 1))
    return np.searchsorted(ends, rng.uniform_below(int(ends[-1]), seed, Purpose.FIRST_ROW, 0, 1), side="right")


def _shares(nearest: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Weighted squared distances as integers, and the exponent of their grid, on which any sum of them holds."""
    value = nearest if weight is None else weight * nearest
    exponent = first_exponent(float(value.max()), len(value))
    return np.rint(np.ldexp(value, exponent)).astype(np.int64), exponent
