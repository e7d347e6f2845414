"""Starting centroids: order-free, and the same draws on any sharding and any backend.

Weighted draws quantise ``w * D`` to integers on a power-of-two grid, draw a uniform integer below their total, and
invert the prefix sums in row order, so that every step is exact.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, Protocol

import numpy as np

from gpukm.backends.base import Backend
from gpukm.core import rng
from gpukm.core.exact import fold, to_float
from gpukm.core.lloyd import Problem
from gpukm.core.rng import Purpose
from gpukm.core.shard import Scan, Shard
from gpukm.executors.base import Handle, Placement

#: Numbers of seedings: what shards keep for one is of no use to another.
_SEEDINGS = count(1)
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


class Line(Protocol):
    """What lines up the integers of a shard's rows, part by part; picklable, and with arguments of its own."""

    def __call__(self, shard: Shard, *args: Any) -> Iterator[Integers | Shares]: ...


@dataclass(frozen=True)
class Draws:
    """Rows of all shards as one line of integers, to be drawn from in proportion.

    Attributes
    ----------
    rows : Placement
    line : Line
    args : tuple
        What ``line`` is given for every shard, and ``each`` for the shards it names besides.
    each : mapping of int to tuple
    totals : list of int
        Sum of each shard's line.
    """

    rows: Placement
    line: Line
    args: tuple[Any, ...]
    each: Mapping[int, tuple[Any, ...]]
    totals: list[int]

    @classmethod
    def of(cls, problem: Problem, line: Line, *args: Any, each: Mapping[int, tuple[Any, ...]] | None = None) -> Draws:
        """Add up every shard."""
        every = {number: (each or {}).get(number, ()) for number in range(len(problem.rows))}
        totals = problem.rows.map(_line_total, line, *args, each=every if each else None)
        return cls(problem.rows, line, args, each or {}, totals)

    @property
    def total(self) -> int:
        """Sum over all rows."""
        return sum(self.totals)

    def locate(self, targets: np.ndarray) -> np.ndarray:
        """(shard, kept row within it) of the first row whose prefix sum exceeds each target, int64 of shape (n, 2)."""
        found = np.full((len(targets), 2), -1, dtype=np.int64)
        ends = np.cumsum(np.array(self.totals, dtype=np.int64))
        found[:, 0] = np.searchsorted(ends, targets, side="right")
        mine = {int(number): np.flatnonzero(found[:, 0] == number) for number in np.unique(found[:, 0])}
        each = {
            number: (targets[places] - (ends[number] - self.totals[number]), *self.each.get(number, ()))
            for number, places in mine.items()
        }
        rows = self.rows.map(_line_locate, self.line, len(self.args), *self.args, each=each)
        for places, here in zip((mine[number] for number in sorted(mine)), rows, strict=True):
            found[places, 1] = here
        return found


def _line_total(shard: Shard, line: Line, *args: Any) -> int:
    """Sum of a shard's line."""
    return sum(part.total for part in line(shard, *args))


def _line_locate(shard: Shard, line: Line, n_args: int, *args: Any) -> np.ndarray:
    """Kept rows of a shard at targets, which stand behind the arguments for every shard."""
    targets: np.ndarray = args[n_args]
    found = np.full(len(targets), -1, dtype=np.int64)
    done = rows = 0
    for part in line(shard, *args[:n_args], *args[n_args + 1 :]):
        end = done + part.total
        mine = np.flatnonzero((done <= targets) & (targets < end))
        if len(mine):
            found[mine] = rows + part.locate(targets[mine] - done)
        done, rows = end, rows + len(part)
    return found


@dataclass(frozen=True)
class WeightGrid:
    """Weights as integers: ``rint(w * 2**exponent)``."""

    exponent: int

    @classmethod
    def of(cls, problem: Problem) -> WeightGrid:
        """On which all of them together have 60 bits."""
        return cls(DRAW_BITS - math.frexp(problem.total_weight)[1])

    def __call__(self, shard: Shard) -> Iterator[np.ndarray]:
        """Of a shard's rows, int64, block by block."""
        for rows, weight in shard.row_weights():
            if weight is None:
                yield np.ones(rows.stop - rows.start, dtype=np.int64)
            else:
                # A positive weight stays positive, so that as many rows as have one can always be drawn.
                yield np.maximum(np.rint(np.ldexp(weight, self.exponent)), weight > 0).astype(np.int64)


def _untaken(shard: Shard, grid: WeightGrid, taken: np.ndarray | None = None) -> Iterator[Integers]:
    """Weights as integers, rows already taken as zero."""
    start = 0
    for q in grid(shard):
        if taken is not None:
            q[taken[(taken >= start) & (taken < start + len(q))] - start] = 0
        start += len(q)
        yield Integers(q)


def auto_init(n_samples: int | None, k: int) -> str:
    """The method that ``init="auto"`` means: greedy k-means++ where it takes no time, else a pool."""
    few = n_samples is not None and k < _GREEDY_CLUSTERS and n_samples * k <= _GREEDY_DISTANCES
    return "k-means++" if few else "pooled"


def random_rows(problem: Problem, k: int, seed: int) -> np.ndarray:
    """Draw k different rows in proportion to their weights."""
    chosen = np.empty((0, 2), dtype=np.int64)
    grid = WeightGrid.of(problem)
    draw = 0
    while len(chosen) < k:
        each = {int(i): (chosen[chosen[:, 0] == i, 1],) for i in np.unique(chosen[:, 0])}
        draws = Draws.of(problem, _untaken, grid, each=each)
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
    seeding, executor = next(_SEEDINGS), problem.executor
    exponent, draw = _scan_exponent(problem.scan), 0
    try:
        while len(centers) < k:
            seeds = executor.share(centers)
            draws, exponent = _potential_draws(problem, seeding, seeds, exponent)
            if draws.total == 0:
                # Every row coincides with a centre already: the remaining ones can only be repetitions.
                return np.concatenate([centers, np.repeat(centers[:1], k - len(centers), axis=0)])
            targets = rng.uniform_below(draws.total, seed, Purpose.KMEANS_PLUS_PLUS, draw, n_trials)
            draw += n_trials
            candidates = gather(problem, draws.locate(targets))
            best = 0
            if n_trials > 1:
                potentials = executor.map_reduce(
                    problem.rows, _potentials, operator.add, seeding, seeds, candidates, exponent
                )
                best = int(np.argmin(potentials))
            centers = np.concatenate([centers, candidates[best : best + 1]])
    finally:
        problem.rows.map(_forget_seeds)
    return centers


def gather(problem: Problem, places: np.ndarray) -> np.ndarray:
    """Rows at ``places`` (n, 2) of (shard, kept row within it), in the order asked for, here."""
    found: np.ndarray = problem.executor.fetch(gather_there(problem, places))
    return found


def gather_there(problem: Problem, places: np.ndarray) -> Handle:
    """As :func:`gather`, left where they are brought together."""
    executor = problem.executor
    shared = executor.share(places)
    found = problem.rows.reduce(_rows_at, operator.add, shared)[0]
    return executor.apply(_in_order, found, len(places))


def _rows_at(shard: Shard, places: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Numbers of the places in this shard, and their rows, part by part."""
    mine = np.flatnonzero(places[:, 0] == shard.number)
    mine = mine[np.argsort(places[mine, 1], kind="stable")]
    rows = places[mine, 1]
    found = [(mine[:0], np.empty((0, shard.source.n_features), shard.source.dtype))]
    for block in shard.blocks() if len(mine) else ():
        here = slice(*np.searchsorted(rows, (block.rows.start, block.rows.stop)))
        if here.start < here.stop:
            taken = shard.backend.take(block.x, rows[here] - block.rows.start)
            found.append((mine[here], shard.backend.fetch(taken)))
    return found


def _in_order(found: list[tuple[np.ndarray, np.ndarray]], n: int) -> np.ndarray:
    """Rows by the numbers of their places."""
    rows = found[0][1]
    out = np.empty((n, rows.shape[1]), rows.dtype)
    for places, part in found:
        out[places] = part
    return out


def _potential_line(shard: Shard, seeding: int, seeds: np.ndarray, exponent: int) -> Iterator[Shares]:
    """``rint(w * D * 2**exponent)``, D to the nearest seed, part by part."""
    shard.look_at_seeds(seeding, seeds)
    for nearest, weight in shard.nearest_seeds():
        yield Shares(shard.backend, nearest, weight, exponent)


def _potential_draws(problem: Problem, seeding: int, seeds: Handle, exponent: int) -> tuple[Draws, int]:
    """Weighted squared distances as integers, on a grid that uses 60 bits for their total."""
    while True:
        draws = Draws.of(problem, _potential_line, seeding, seeds, exponent)
        better = _finer(draws.total + problem.scan.n_samples, exponent)
        if better == exponent:
            return draws, exponent
        exponent = better


def _potentials(shard: Shard, seeding: int, seeds: np.ndarray, points: np.ndarray, exponent: int) -> np.ndarray:
    """Potential that each candidate would leave."""
    shard.look_at_seeds(seeding, seeds)
    total = np.zeros(len(points), np.int64)
    for block, nearest in shard.with_nearest():
        total += shard.backend.potentials(nearest, block.x, block.placed_weight, points, exponent)
    return total


def _forget_seeds(shard: Shard) -> None:
    """Free what seeding kept."""
    shard.forget_seeds()


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
