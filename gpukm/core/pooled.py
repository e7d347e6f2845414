"""Starting centroids from a sample of the rows: greedy choice from a pool of candidates drawn as in k-means++.

Greedy k-means++ draws a few candidates for every centre, scores them against all rows, keeps the best and forgets the
others. Here candidates are drawn for as many centres at a time as there are, so that they are scored together, like
centroids in an assignment. Each keeps a list of the rows it is nearer to than any centre, which tells what it would
gain as others are chosen; and those not chosen stay in the pool.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpukm.backends.base import Backend, Frame
from gpukm.core import rng
from gpukm.core.exact import exact_sum, fold, to_float
from gpukm.core.lloyd import Problem
from gpukm.core.rng import Purpose
from gpukm.core.seeding import Draws, finer, first_exponent, gather, quantised_weights

#: The part of the potential at which candidates are drawn anew: those there are may have none where it is left.
_LEFT = 4
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
    x, weight = stratified(problem, shape.rows, seed)
    return _choose(problem.shards[0].backend, problem.frame, x, weight, k, shape.trials, seed)


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


def _choose(
    backend: Backend, frame: Frame, x: np.ndarray, weight: np.ndarray | None, k: int, trials: int, seed: int
) -> np.ndarray:
    """Choose k rows; where all coincide with a centre the first is repeated."""
    chosen = _first_row(len(x), weight, seed)
    drawn = 0
    for stride in (_FEWER**2, _FEWER, 1):
        upto = k // stride
        if upto <= len(chosen):
            continue
        part, w = np.ascontiguousarray(x[::stride]), None if weight is None else np.ascontiguousarray(weight[::stride])
        nearest, exponent = _nearest(backend, frame, part, x[chosen]), _exponent_of(part, w)
        pool, known = backend.pool(part, w, nearest, frame), np.zeros(len(part), bool)
        while len(chosen) < upto:
            share, exponent = _shares(nearest, w, exponent)
            ends = np.cumsum(share)
            if not ends[-1]:
                break
            n = min(upto - len(chosen), len(chosen))
            targets = rng.strata(int(ends[-1]), n * trials, seed, Purpose.CANDIDATES, drawn)
            rows = np.unique(np.searchsorted(ends, targets, side="right"))
            rows = rows[~known[rows]]
            known[rows] = True
            # A row that was drawn has a share, so it or its like would gain that: at least one is chosen.
            pool.add(rows)
            enough = int(ends[-1] - ends[-1] // _LEFT)
            chosen = np.concatenate([chosen, stride * pool.choose(n, exponent, enough)])
            drawn += n * trials
    return x[np.concatenate([chosen, np.repeat(chosen[:1], k - len(chosen))])]


def _nearest(backend: Backend, frame: Frame, x: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """D of each row to the nearest centre, float64 of shape (n,)."""
    labels = np.empty(len(x), np.int32)
    backend.assign(x, backend.prepare(centers, frame), labels)
    return backend.distances(x, centers, labels)


def _first_row(n: int, weight: np.ndarray | None, seed: int) -> np.ndarray:
    """A row drawn by weight, int64 of shape (1,)."""
    # In units so fine that every row counts.
    unit = np.ones(n) if weight is None else np.ldexp(weight, 40 - math.frexp(float(weight.max()))[1])
    ends = np.cumsum(np.maximum(np.rint(unit).astype(np.int64), 1))
    return np.searchsorted(ends, rng.uniform_below(int(ends[-1]), seed, Purpose.FIRST_ROW, 0, 1), side="right")


def _exponent_of(x: np.ndarray, weight: np.ndarray | None) -> int:
    """A grid that holds the largest potential that the ranges of the features allow."""
    width = x.max(axis=0).astype(np.float64) - x.min(axis=0)
    total = len(x) if weight is None else to_float(int(exact_sum(weight)))  # type: ignore[arg-type]
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
