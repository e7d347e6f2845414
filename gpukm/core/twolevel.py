"""Starting centroids from a sample of the rows: greedy k-means++ within cells of neighbouring rows.

k-means++ on all rows costs as much as many assignment passes, since every choice looks at every row. Here a sample is
cut into cells, and a choice looks at the rows of one cell alone. Cells take steps in proportion to their potential, and
run side by side; every row keeps the distance to the nearest centre that its cell knows of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from gpukm.backends.base import Backend, Cells, Lists
from gpukm.core import rng
from gpukm.core.exact import exact_sum, fold, to_float
from gpukm.core.lloyd import Problem, iterate
from gpukm.core.rng import Purpose
from gpukm.core.seeding import Draws, finer, first_exponent, gather, quantised_weights
from gpukm.core.shard import Shard
from gpukm.core.stats import Grid
from gpukm.sources.array import ArraySource

#: Clusters from which rows are cut into cells, and from which cells tell each other what they chose.
_CELL_CLUSTERS = 400
_TELLING_CLUSTERS = 4096
#: Rows of the sample from which the cells are made, for each of them, and iterations of Lloyd that they get.
_ROWS_A_CELL = 64
_CELL_ITERATIONS = 3
#: Steps of a round, as a part of the centres there are.
_GROWTH = 4


@dataclass(frozen=True)
class Shape:
    """What a start takes, by the shape of the problem alone.

    Attributes
    ----------
    rows : int
        Rows of the sample.
    cells, neighbours : int
        Cells they are cut into, and how many others, the nearest, learn of a choice.
    trials : int
        Candidates a step.
    """

    rows: int
    cells: int
    neighbours: int
    trials: int

    @classmethod
    def of(cls, n_samples: int, k: int) -> Shape:
        """Choose so that a start costs at most about one assignment pass over the rows."""
        if k < _CELL_CLUSTERS:
            rows = min(n_samples, 50 * k, max(25 * k, n_samples // 40))
            return cls(rows, 1, 0, min(24, max(12, n_samples // (40 * rows) * 8)))
        rows = min(n_samples, 20 * k, max(10 * k, n_samples // 5))
        return cls(rows, 48, 3, 16) if k >= _TELLING_CLUSTERS else cls(rows, 32, 0, 8)


def two_level(problem: Problem, k: int, seed: int) -> np.ndarray:
    """Choose k rows of a stratified sample: greedy k-means++ (Arthur and Vassilvitskii, SODA 2007) within cells.

    Parameters
    ----------
    problem : Problem
        At least k of its rows have positive weight.
    k, seed : int
    """
    shape = Shape.of(problem.scan.n_positive, k)
    x, weight = stratified(problem, shape.rows, seed)
    backend = problem.shards[0].backend
    if shape.cells == 1:
        cells = Cells(x, weight, np.array([0, len(x)], np.int64), problem.frame.radius)
        return _spread(backend, cells, k, shape.trials, seed)
    centers = _cell_centers(problem, x, weight, shape, seed)
    label = np.empty(len(x), np.int32)
    backend.assign(x, backend.prepare(centers, problem.frame), label)
    order = np.argsort(label, kind="stable")
    present, counts = np.unique(label, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)])
    cells = Cells(x[order], None if weight is None else weight[order], starts, problem.frame.radius)
    return _spread(backend, cells, k, shape.trials, seed, centers[present], shape.neighbours)


def stratified(problem: Problem, m: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Draw about m rows in proportion to weight, one from each m-th part of the total, in one pass over the rows.

    Returns
    -------
    x : ndarray of shape (n, n_features)
    weight : ndarray of float64 of shape (n,) or None
        How often each was drawn; or, where that would be nearly all rows, all of positive weight with their weights.
    """
    if m >= problem.scan.n_positive:
        parts = [(b.x, b.weight) for shard in problem.shards for b in shard.blocks()]
        weights = [np.ones(len(x)) if w is None else w for x, w in parts]
        x, weight = np.concatenate([x for x, _ in parts]), np.concatenate(weights)
        used = weight > 0
        x = x if used.all() else x[used]
        return x, None if all(w is None for _, w in parts) else weight[used]
    if any(w is not None for shard in problem.shards for _, w in shard.row_weights()):
        draws = Draws.of(problem, lambda shard: quantised_weights(problem, shard))
        targets = rng.strata(draws.total, m, seed, Purpose.START_SAMPLE, 0)
        places, counts = np.unique(draws.locate(targets), axis=0, return_counts=True)
        return gather(problem, places), None if (counts == 1).all() else counts.astype(np.float64)
    targets = rng.strata(problem.scan.n_samples, m, seed, Purpose.START_SAMPLE, 0)
    ends = np.cumsum([shard.n_samples for shard in problem.shards])
    shard = np.searchsorted(ends, targets, side="right")
    return gather(problem, np.column_stack([shard, targets - np.concatenate([[0], ends])[shard]])), None


def _cell_centers(problem: Problem, x: np.ndarray, weight: np.ndarray | None, shape: Shape, seed: int) -> np.ndarray:
    """Centres of the cells: a few iterations of Lloyd on a small part of the sample."""
    part = rng.strata(len(x), min(len(x), _ROWS_A_CELL * shape.cells), seed, Purpose.CELLS, 0)
    source = ArraySource(x[part], weight=None if weight is None else weight[part])
    shard = Shard(source, problem.shards[0].backend, len(part))
    scan = shard.scan(problem.reference)
    small = replace(
        problem,
        shards=[shard],
        executor=type(problem.executor)(),
        scan=scan,
        grid=Grid.of(np.maximum(np.abs(scan.minimum), np.abs(scan.maximum)), to_float(scan.weight)),
        max_iter=_CELL_ITERATIONS,
        tol=0.0,
    )
    rows = Cells(source.x, source.weight, np.array([0, len(part)], np.int64), problem.frame.radius)
    centers = _spread(
        shard.backend, rows, shape.cells, shape.trials, int(rng.raw(seed, Purpose.CELLS, len(part), 1)[0])
    )
    for state in iterate(small, centers):
        centers = state.centroids
    return centers


def _spread(
    backend: Backend,
    cells: Cells,
    k: int,
    trials: int,
    seed: int,
    centers: np.ndarray | None = None,
    neighbours: int = 0,
) -> np.ndarray:
    """Choose k rows, at least one in each cell; where all rows coincide with a centre the first is repeated."""
    n_cells = len(cells.starts) - 1
    chosen = _first_rows(cells, seed)
    label = np.repeat(np.arange(n_cells, dtype=np.int32), np.diff(cells.starts))
    nearest = backend.distances(cells.x, cells.x[chosen], label)
    exponent = _exponent_of(cells)
    nobody, nothing = np.zeros(n_cells + 1, np.int64), np.empty((0, trials), np.uint64)
    silence = Lists(nobody, np.empty(0, np.int64))
    rounds = draw = 0
    while len(chosen) < k:
        share, exponent = _shares(nearest, cells.weight, exponent)
        ends = np.cumsum(np.add.reduceat(share, cells.starts[:-1]))
        if not ends[-1]:
            return cells.x[np.concatenate([chosen, np.repeat(chosen[:1], k - len(chosen))])]
        n = k - len(chosen)
        if n_cells > 1:
            n = min(n, max(1, len(chosen) // _GROWTH))
        targets = rng.strata(int(ends[-1]), n, seed, Purpose.CELL_SHARE, rounds << 32)
        steps = np.searchsorted(np.searchsorted(ends, targets, side="right"), np.arange(n_cells + 1)).astype(np.int64)
        draws = rng.raw(seed, Purpose.CELL_CHOICE, draw, n * trials).reshape(n, trials)
        found = backend.seed_cells(cells, nearest, silence, steps, draws, exponent)
        found = found[found >= 0]
        chosen = np.concatenate([chosen, found])
        if centers is not None and neighbours and len(chosen) < k:
            news = _arrivals(backend, cells, found, centers, neighbours)
            backend.seed_cells(cells, nearest, news, nobody, nothing, exponent)
        rounds, draw = rounds + 1, draw + n * trials
    return cells.x[chosen]


def _first_rows(cells: Cells, seed: int) -> np.ndarray:
    """One row of each cell, drawn by weight."""
    n = len(cells.x)
    weight = np.ones(n) if cells.weight is None else cells.weight
    # A cell's rows may all be light ones: none counts for nothing.
    unit = np.rint(np.ldexp(weight, 40 - math.frexp(float(weight.max()))[1])).astype(np.int64)
    prefix = np.concatenate([[0], np.cumsum(np.maximum(unit, 1))])
    before, after = prefix[cells.starts[:-1]], prefix[cells.starts[1:]]
    targets = before + rng.below(rng.raw(seed, Purpose.CELL_FIRST, 0, len(before)), after - before)
    return np.searchsorted(prefix, targets, side="right") - 1


def _exponent_of(cells: Cells) -> int:
    """A grid that holds the largest potential that the ranges of the features allow."""
    width = cells.x.max(axis=0).astype(np.float64) - cells.x.min(axis=0)
    total = len(cells.x) if cells.weight is None else to_float(int(exact_sum(cells.weight)))  # type: ignore[arg-type]
    return first_exponent(fold(width * width) * total)


def _shares(nearest: np.ndarray, weight: np.ndarray | None, exponent: int) -> tuple[np.ndarray, int]:
    """Weighted squared distances as integers, on a grid that is made finer as they shrink."""
    value = nearest if weight is None else weight * nearest
    while True:
        share = np.rint(value * math.ldexp(1.0, exponent)).astype(np.int64)
        better = finer(int(share.sum()), exponent)
        if better == exponent:
            return share, exponent
        exponent = better


def _arrivals(backend: Backend, cells: Cells, found: np.ndarray, centers: np.ndarray, neighbours: int) -> Lists:
    """For each cell the choices of others that it is near to: each is told to so many cells."""
    home = np.searchsorted(cells.starts, found, side="right") - 1
    distances = backend.cross_distances(cells.x[found], centers)
    distances[np.arange(len(found)), home] = np.inf
    told = np.argsort(distances, axis=1, kind="stable")[:, : min(neighbours, len(centers) - 1)]
    order = np.argsort(told, axis=None, kind="stable")
    ends = np.searchsorted(told.ravel()[order], np.arange(len(centers) + 1))
    return Lists(ends.astype(np.int64), found[order // told.shape[1]] if told.size else found[:0])
