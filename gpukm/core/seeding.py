"""Starting centroids: order-free, and the same draws on any sharding and any backend.

Weighted draws quantise ``w * D`` to integers on a power-of-two grid, draw a uniform integer below their total, and
invert the prefix sums in row order, so that every step is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gpukm.backends.base import Backend
from gpukm.core import rng
from gpukm.core.exact import fold, to_float
from gpukm.core.lloyd import Problem
from gpukm.core.rng import Purpose
from gpukm.core.shard import RowState, Scan, Shard

#: Bits of the total of what is drawn from.
DRAW_BITS = 60
#: Problems so small that greedy k-means++ over all rows takes no time.
_GREEDY_CLUSTERS, _GREEDY_DISTANCES = 100, 1 << 20


@dataclass(frozen=True)
class Integers:
    """Integers of some consecutive rows, on the host."""

    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    @property
    def total(self) -> int:
        """Their sum."""
        return int(self.values.sum())

    def locate(self, targets: np.ndarray) -> np.ndarray:
        """The first row whose prefix sum exceeds each target, int64 of shape (n,); targets are below the total."""
        return np.searchsorted(np.cumsum(self.values), targets, side="right")


@dataclass(frozen=True)
class Shares:
    """``rint(w * nearest * 2**exponent)`` of some consecutive rows, left where the backend works."""

    backend: Backend
    nearest: Any
    weight: Any
    exponent: int

    def __len__(self) -> int:
        return len(self.nearest)

    @cached_property
    def _totals(self) -> np.ndarray:
        """Sums of blocks of rows."""
        return self.backend.share_totals(self.nearest, self.weight, self.exponent)

    @property
    def total(self) -> int:
        """Their sum."""
        return int(self._totals.sum())

    def locate(self, targets: np.ndarray) -> np.ndarray:
        """As of :meth:`Integers.locate`."""
        ends = np.cumsum(self._totals)
        blocks = np.searchsorted(ends, targets, side="right")
        rest = targets - (ends - self._totals)[blocks]
        return self.backend.share_rows(self.nearest, self.weight, self.exponent, blocks, rest)


#: What lines up the integers of a shard's rows, part by part.
Line = Callable[[Shard], Iterator[Integers | Shares]]


@dataclass(frozen=True)
class Draws:
    """Rows of all shards as one line of integers, to be drawn from in proportion.

    ``totals`` holds the sum of each shard's ``line``.
    """

    shards: Sequence[Shard]
    line: Line
    totals: list[int]

    @classmethod
    def of(cls, problem: Problem, line: Line) -> Draws:
        """Add up every shard."""
        totals = problem.executor.map(lambda shard: sum(part.total for part in line(shard)), problem.shards)
        return cls(problem.shards, line, totals)

    @property
    def total(self) -> int:
        """Sum over all rows."""
        return sum(self.totals)

    def locate(self, targets: np.ndarray) -> np.ndarray:
        """(shard, kept row within it) of the first row whose prefix sum exceeds each target, int64 of shape (n, 2)."""
        found = np.full((len(targets), 2), -1, dtype=np.int64)
        done = 0
        for number, (shard, total) in enumerate(zip(self.shards, self.totals, strict=True)):
            if not ((done <= targets) & (targets < done + total)).any():
                done += total
                continue
            rows = 0
            for part in self.line(shard):
                end = done + part.total
                mine = np.flatnonzero((done <= targets) & (targets < end))
                if len(mine):
                    found[mine, 0] = number
                    found[mine, 1] = rows + part.locate(targets[mine] - done)
                done, rows = end, rows + len(part)
        return found


def quantised_weights(problem: Problem, shard: Shard) -> Iterator[np.ndarray]:
    """Weights of a shard's rows as integers, block by block."""
    exponent = DRAW_BITS - math.frexp(problem.total_weight)[1]
    for rows, weight in shard.row_weights():
        if weight is None:
            yield np.ones(rows.stop - rows.start, dtype=np.int64)
        else:
            # A positive weight stays positive, so that as many rows as have one can always be drawn.
            yield np.maximum(np.rint(np.ldexp(weight, exponent)), weight > 0).astype(np.int64)


def auto_init(n_samples: int | None, k: int) -> str:
    """The method that ``init="auto"`` means: greedy k-means++ where it takes no time, else a pool."""
    few = n_samples is not None and k < _GREEDY_CLUSTERS and n_samples * k <= _GREEDY_DISTANCES
    return "k-means++" if few else "pooled"


def random_rows(problem: Problem, k: int, seed: int) -> np.ndarray:
    """Draw k different rows in proportion to their weights."""
    chosen = np.empty((0, 2), dtype=np.int64)

    def line(shard: Shard) -> Iterator[Integers]:
        """Weights as integers, rows already chosen as zero."""
        number = next(i for i, s in enumerate(problem.shards) if s is shard)
        taken = chosen[chosen[:, 0] == number, 1]
        start = 0
        for q in quantised_weights(problem, shard):
            q[taken[(taken >= start) & (taken < start + len(q))] - start] = 0
            start += len(q)
            yield Integers(q)

    draw = 0
    while len(chosen) < k:
        draws = Draws.of(problem, line)
        wanted = k - len(chosen)
        places = draws.locate(rng.uniform_below(draws.total, seed, Purpose.RANDOM_ROWS, draw, wanted))
        _, first = np.unique(places, axis=0, return_index=True)
        chosen = np.concatenate([chosen, places[np.sort(first)]])
        draw += wanted
    return gather(problem, chosen)


def trials(k: int) -> int:
    """Candidates a step of greedy k-means++, as many as scikit-learn takes."""
    return 2 + int(math.log(k))


def kmeans_plus_plus(problem: Problem, k: int, seed: int, n_trials: int | None = None) -> np.ndarray:
    """Greedy k-means++ (Arthur and Vassilvitskii, SODA 2007, with their remark on several trials a step).

    Parameters
    ----------
    problem : Problem
    k, seed : int
    n_trials : int or None
        Candidates a step; None takes :func:`trials`.
    """
    n_trials = n_trials or trials(k)
    centers = random_rows(problem, 1, seed)
    with _nearest_seed(problem):
        exponent = _scan_exponent(problem.scan)
        draw = 0
        newest = centers
        while len(centers) < k:
            _lower(problem, newest)
            draws, exponent = _potential_draws(problem, exponent)
            if draws.total == 0:
                # Every row coincides with a centre already: the remaining ones can only be repetitions.
                return np.concatenate([centers, np.repeat(centers[:1], k - len(centers), axis=0)])
            targets = rng.uniform_below(draws.total, seed, Purpose.KMEANS_PLUS_PLUS, draw, n_trials)
            draw += n_trials
            candidates = gather(problem, draws.locate(targets))
            best = 0
            if n_trials > 1:
                potentials = problem.executor.map_reduce(
                    lambda shard, c=candidates, e=exponent: _potentials(shard, c, e),  # type: ignore[misc]
                    problem.shards,
                    lambda a, b: a + b,
                )
                best = int(np.argmin(potentials))
            newest = candidates[best : best + 1]
            centers = np.concatenate([centers, newest])
    return centers


def gather(problem: Problem, places: np.ndarray) -> np.ndarray:
    """Rows at ``places`` (n, 2) of (shard, kept row within it), in the order asked for."""
    out = np.empty((len(places), problem.shards[0].source.n_features), problem.dtype)
    for number, shard in enumerate(problem.shards):
        mine = np.flatnonzero(places[:, 0] == number)
        mine = mine[np.argsort(places[mine, 1], kind="stable")]
        rows = places[mine, 1]
        for block in shard.blocks() if len(mine) else ():
            here = slice(*np.searchsorted(rows, (block.rows.start, block.rows.stop)))
            out[mine[here]] = shard.backend.fetch(shard.backend.take(block.x, rows[here] - block.rows.start))
    return out


@contextmanager
def _nearest_seed(problem: Problem) -> Iterator[None]:
    """Keep the distance of every row to the nearest centre so far, infinite at first, while seeding lasts."""
    for shard in problem.shards:
        shard.nearest = RowState(shard.n_samples, np.float64, np.inf, shard.backend if shard.resident else None)
    try:
        yield
    finally:
        for shard in problem.shards:
            if shard.nearest is not None:
                shard.nearest.close()
            shard.nearest = None


def _lower(problem: Problem, points: np.ndarray) -> None:
    """Take new centres into account."""
    for shard in problem.shards:
        for block, nearest in shard.with_nearest():
            shard.backend.lower(nearest, block.x, points)
            shard.set_nearest(block, nearest)


def _potential_draws(problem: Problem, exponent: int) -> tuple[Draws, int]:
    """Weighted squared distances as integers, on a grid that uses 60 bits for their total."""
    while True:

        def line(shard: Shard, exponent: int = exponent) -> Iterator[Shares]:
            """``rint(w * D * 2**exponent)``, part by part."""
            for nearest, weight in shard.nearest_seeds():
                yield Shares(shard.backend, nearest, weight, exponent)

        draws = Draws.of(problem, line)
        better = _finer(draws.total + problem.scan.n_samples, exponent)
        if better == exponent:
            return draws, exponent
        exponent = better


def _potentials(shard: Shard, points: np.ndarray, exponent: int) -> np.ndarray:
    """Potential that each candidate would leave."""
    total = np.zeros(len(points), np.int64)
    for block, nearest in shard.with_nearest():
        total += shard.backend.potentials(nearest, block.x, block.placed_weight, points, exponent)
    return total


def first_exponent(largest: float, n: int = 1) -> int:
    """The finest grid that holds a total of ``n`` numbers up to ``largest``."""
    return min(DRAW_BITS - math.frexp(largest)[1] - n.bit_length(), 1000) if largest > 0 else 1000


def _finer(most: int, exponent: int) -> int:
    """The grid to use in place of one on which a sum comes to ``most`` at most: finer where many bits are unused."""
    spare = DRAW_BITS - most.bit_length()
    # A sum of zero may only mean that the grid is far too coarse: each row may have lost half a unit.
    return exponent if spare < 8 or exponent + spare > 1000 else exponent + spare - 1


def _scan_exponent(scan: Scan) -> int:
    """A grid that holds the largest potential the feature ranges allow."""
    width = scan.maximum - scan.minimum
    return first_exponent(fold(width * width) * to_float(scan.weight))
