"""Exact quantiles of any number of rows in a few passes and bounded memory.

The bits of float64 numbers, with the sign handled, are ordered as the numbers are. A pass counts (or weighs) the
rows by the next few bits of that order among those that share the bits found so far, and so narrows every wanted rank
to one bucket; once what is left fits in memory it is gathered and sorted. Counts are integers and weights are exact
sums, so nothing depends on the order of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from gpukm.core.exact import exact_sum_by
from gpukm.errors import DataError

_KEY_BITS = 64
_SIGN = np.uint64(1 << 63)
#: Counters a pass may use, and values it may gather.
_CELLS = 1 << 21
_MOST_BITS = 16
_CHANGED = "the data changed while it was read; keep it still and start again"


def keys_of(x: np.ndarray) -> np.ndarray:
    """Uint64 keys ordered as the float64 numbers are; -0 and 0 are the same number and get the same key."""
    bits = np.ascontiguousarray(x + 0.0).view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def numbers_of(keys: np.ndarray) -> np.ndarray:
    """Inverse of :func:`keys_of`."""
    return np.where(keys & _SIGN, keys & ~_SIGN, ~keys).view(np.float64)


@dataclass
class _Target:
    """One rank of one column: the smallest v with weight(x <= v) >= share * total, or > if ``strictly``."""

    column: int
    share: Fraction
    strictly: bool
    prefix: int = 0
    below: int = 0


class QuantileSearch:
    """Search for quantiles of several columns; make passes until :attr:`done`.

    ::

        while not search.done:
            for x, weight in rows:
                search.add(x, weight)
            search.finish_pass()

    Partial passes over parts of the rows are merged with :meth:`merge` before :meth:`finish_pass`.
    The quantile q is the mean of the smallest v with P(x <= v) >= q and the smallest with P(x <= v) > q, the inverse
    of the empirical distribution averaged where it jumps (Hyndman and Fan, "Sample quantiles in statistical packages",
    1996, definition 2; ``averaged_inverted_cdf`` of NumPy). It is defined for weights as well: a row of weight 2 is a
    row twice. Rows of weight 0 do not count.

    Parameters
    ----------
    n_columns : int
    levels : sequence of Fraction
        Strictly between 0 and 1.
    n_rows : int or None
        Rows there are at most, where known: few enough are sorted in one pass.
    cells : int
        Counters and values that a pass may hold.
    """

    def __init__(
        self, n_columns: int, levels: Sequence[Fraction], n_rows: int | None = None, cells: int = _CELLS
    ) -> None:
        self.n_columns, self.levels, self._cells = n_columns, tuple(levels), cells
        self._targets = [
            _Target(j, level, strictly) for j in range(n_columns) for level in levels for strictly in (False, True)
        ]
        self._known_bits = 0
        self._total: int | None = None
        self.done = n_columns == 0
        self._plan(None if n_rows is None else n_rows * n_columns)

    def add(self, x: np.ndarray, weight: np.ndarray | None = None) -> None:
        """Look at rows: float64 (n, n_columns), weights (n,)."""
        if weight is not None and not weight.all():
            x, weight = x[weight > 0], weight[weight > 0]
        self._seen += len(x) if weight is None else _exact(weight)
        for j, groups in self._groups.items():
            keys = keys_of(x[:, j])
            if self._known_bits == 0:
                self._take(j, groups[0], keys, weight)
                continue
            heads = keys >> np.uint64(_KEY_BITS - self._known_bits)
            for prefix in groups:
                inside = heads == np.uint64(prefix)
                self._take(j, prefix, keys[inside], None if weight is None else weight[inside])

    def merge(self, other: QuantileSearch) -> None:
        """Take in what another search, at the same pass, has seen."""
        self._seen += other._seen
        for place, rows in other._gathered.items():
            self._gathered.setdefault(place, []).extend(rows)
        # Copied, for what is added here must not be added there.
        for place, counts in other._counts.items():
            _increase(self._counts, place, counts.copy())
        for place, weights in other._weights.items():
            _increase(self._weights, place, weights.copy())

    def finish_pass(self) -> None:
        """Narrow every rank by what the pass has seen."""
        self._total = self._seen
        left: dict[tuple[int, int], int] = {}
        for target in self._targets:
            if self._gathering:
                self._settle(target)
            else:
                left.update(self._narrow(target))
        self._known_bits = _KEY_BITS if self._gathering else self._known_bits + self._bits
        self.done = self._known_bits == _KEY_BITS
        self._plan(sum(left.values()))

    def quantiles(self) -> np.ndarray:
        """The quantiles, float64 of shape (len(levels), n_columns)."""
        keys = np.array([t.prefix for t in self._targets], dtype=np.uint64)
        values = numbers_of(keys).reshape(self.n_columns, len(self.levels), 2)
        # Halves first: the sum of two large numbers could overflow.
        return np.ascontiguousarray((0.5 * values[:, :, 0] + 0.5 * values[:, :, 1]).T)

    def _plan(self, rows: int | None) -> None:
        """Choose what the next pass does: gather all that is left, or count by so many bits."""
        self._groups: dict[int, list[int]] = {}
        for target in self._targets:
            group = self._groups.setdefault(target.column, [])
            if target.prefix not in group:
                group.append(target.prefix)
        n_groups = sum(len(group) for group in self._groups.values())
        bits = (self._cells // max(1, n_groups)).bit_length() - 1
        self._bits = max(4, min(_MOST_BITS, bits, _KEY_BITS - self._known_bits))
        self._bits = min(self._bits, _KEY_BITS - self._known_bits)
        self._gathering = rows is not None and rows <= self._cells
        self._seen = 0
        self._counts: dict[tuple[int, int], np.ndarray] = {}
        self._weights: dict[tuple[int, int], np.ndarray] = {}
        self._gathered: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray | None]]] = {}

    def _take(self, column: int, prefix: int, keys: np.ndarray, weight: np.ndarray | None) -> None:
        """Gather or count the keys of one group."""
        place = (column, prefix)
        if self._gathering:
            self._gathered.setdefault(place, []).append((keys, weight))
            return
        size = 1 << self._bits
        shift = np.uint64(_KEY_BITS - self._known_bits - self._bits)
        buckets = ((keys >> shift) & np.uint64(size - 1)).astype(np.int64)
        _increase(self._counts, place, np.bincount(buckets, minlength=size))
        if weight is not None:
            _increase(self._weights, place, exact_sum_by(weight, buckets, size))

    def _narrow(self, target: _Target) -> dict[tuple[int, int], int]:
        """Find the target's bucket among the counts, and how many rows it holds."""
        place = (target.column, target.prefix)
        if place not in self._counts:
            raise DataError(_CHANGED)
        bucket = self._find(target, self._weights.get(place, self._counts[place]))
        target.prefix = (target.prefix << self._bits) | bucket
        return {(target.column, target.prefix): int(self._counts[place][bucket])}

    def _settle(self, target: _Target) -> None:
        """Find the target's value among the gathered rows."""
        rows = self._gathered.get((target.column, target.prefix))
        if not rows:
            raise DataError(_CHANGED)
        values, place = np.unique(np.concatenate([keys for keys, _ in rows]), return_inverse=True)
        weights = [weight for _, weight in rows if weight is not None]
        if weights:
            counts = exact_sum_by(np.concatenate(weights), place, len(values))
        else:
            counts = np.bincount(place, minlength=len(values))
        target.prefix = int(values[self._find(target, counts)])

    def _find(self, target: _Target, counts: np.ndarray) -> int:
        """The bucket where the cumulative weight reaches (or passes) the target; what is below it is noted."""
        assert self._total is not None
        cumulative = np.cumsum(counts)
        # The smallest integer that reaches (passes) the wanted weight: sums are integers.
        wanted = target.share * self._total
        least = int(wanted) + 1 if target.strictly else -int(-wanted // 1)
        index = int(np.searchsorted(cumulative, least - target.below, side="left"))
        if index == len(counts):
            raise DataError(_CHANGED)
        target.below += int(cumulative[index - 1]) if index else 0
        return index


def _increase(totals: dict[tuple[int, int], np.ndarray], place: tuple[int, int], part: np.ndarray) -> None:
    """Add to the counts of a place."""
    if place in totals:
        totals[place] += part
    else:
        totals[place] = part


def _exact(weight: np.ndarray) -> int:
    """Exact sum of weights, in the units that their buckets are summed in."""
    return int(exact_sum_by(weight, np.zeros(len(weight), np.int64), 1)[0])
