"""Exact sums of columns, batch after batch: mean and variance that no order of rows can change."""

from __future__ import annotations

import math

import numpy as np

from gpukm.core.exact import UNIT_EXPONENT, exact_sum

#: Of values and of weights: beyond it the product of a weight and a square could overflow.
LARGEST = 2.0**300
_WINDOW_BITS = 30
_LOWEST_GRID = -900
# Blocks of this many values stay in the cache while the windows are cut off them.
_BLOCK_VALUES = 1 << 14
_SPLITTER = 2.0**27 + 1.0


class ColumnSums:
    """Exact sums per column; a commutative monoid under :meth:`merge`.

    The same numbers as :func:`gpukm.core.exact.exact_sum`, kept as int64 per window of 30 bits until they are asked
    for. Holds 2**32 rows.
    """

    def __init__(self, n_columns: int) -> None:
        self._windows: dict[int, np.ndarray] = {}
        self._low = np.zeros(n_columns, dtype=object)

    def add(self, values: np.ndarray) -> None:
        """Add rows of finite float64 values (n, n_columns)."""
        step = max(1, _BLOCK_VALUES // max(1, values.shape[1]))
        for i in range(0, len(values), step):
            self._add(values[i : i + step])

    def merge(self, other: ColumnSums) -> None:
        """Take in the sums of another part."""
        for grid, total in other._windows.items():
            self._windows[grid] = self._windows[grid] + total if grid in self._windows else total.copy()
        self._low = self._low + other._low

    def totals(self) -> np.ndarray:
        """The sums as Python integers in units of 2**-1126, an object array of shape (n_columns,)."""
        total = self._low
        for grid, part in self._windows.items():
            total = total + (part.astype(object) << (grid - UNIT_EXPONENT))
        return total

    def _add(self, rest: np.ndarray) -> None:
        """Cut windows of bits at absolute positions off a block, from the top; each has an exact float64 sum."""
        top = max(float(rest.max(initial=0.0)), -float(rest.min(initial=0.0)))
        if top == 0.0:
            return
        grid = _WINDOW_BITS * ((math.frexp(top)[1] - 1) // _WINDOW_BITS)
        while grid >= _LOWEST_GRID:
            whole = rest * 2.0**-grid
            np.rint(whole, out=whole)
            part = whole.sum(axis=0).astype(np.int64)
            if grid in self._windows:
                self._windows[grid] += part
            else:
                self._windows[grid] = part
            whole *= 2.0**grid
            rest = np.subtract(rest, whole, out=whole)
            if not rest.any():
                return
            grid -= _WINDOW_BITS
        self._low = self._low + exact_sum(rest, axis=0)


class Moments:
    """Weight, mean, variance and range per column, exact and order-free; a commutative monoid under :meth:`merge`.

    ``sum(w x)`` and ``sum(w x**2)`` are summed without any error: a product of two float64 is the sum of two float64
    (Dekker, "A floating-point technique for extending the available precision", 1971), and sums are exact integers.
    So the mean and the variance are the true ones, rounded once, whatever the offset of the data, in one pass.
    (Exact for values and weights between 2**-300 and 2**300 in magnitude; tinier squares lose their last bits.)
    Rows of weight 0 do not count.
    """

    def __init__(self, n_columns: int) -> None:
        self.n_rows = 0
        self.minimum = np.full(n_columns, np.inf)
        self.maximum = np.full(n_columns, -np.inf)
        self.largest_weight = 0.0
        self._weight = ColumnSums(1)
        self._first, self._second = ColumnSums(n_columns), ColumnSums(n_columns)

    def add(self, x: np.ndarray, weight: np.ndarray | None = None) -> None:
        """Add rows of float64 values (n, n_columns), at most ``LARGEST`` in magnitude, with weights (n,)."""
        if weight is not None and not weight.all():
            x, weight = x[weight > 0], weight[weight > 0]
        if not len(x):
            return
        self.n_rows += len(x)
        # Adding 0 makes -0 into 0, of which min and max return either.
        np.minimum(self.minimum, x.min(axis=0) + 0.0, out=self.minimum)
        np.maximum(self.maximum, x.max(axis=0) + 0.0, out=self.maximum)
        if weight is not None:
            self.largest_weight = max(self.largest_weight, float(weight.max()))
            self._weight.add(weight[:, None])
        step = max(1, _BLOCK_VALUES // max(1, x.shape[1]))
        for i in range(0, len(x), step):
            block = x[i : i + step]
            squares = products([block], block)
            first = [block]
            if weight is not None:
                w = np.broadcast_to(weight[i : i + step, None], block.shape)
                first, squares = products(first, w), products(squares, w)
            for term in first:
                self._first._add(term)
            for term in squares:
                self._second._add(term)
        if weight is None:
            self.largest_weight = max(self.largest_weight, 1.0)
            self._weight._low = self._weight._low + (len(x) << -UNIT_EXPONENT)

    def merge(self, other: Moments) -> None:
        """Take in the moments of another part."""
        self.n_rows += other.n_rows
        np.minimum(self.minimum, other.minimum, out=self.minimum)
        np.maximum(self.maximum, other.maximum, out=self.maximum)
        self.largest_weight = max(self.largest_weight, other.largest_weight)
        for mine, others in ((self._weight, other._weight), (self._first, other._first), (self._second, other._second)):
            mine.merge(others)

    @property
    def weight(self) -> int:
        """Total weight, exact, in units of 2**-1126."""
        return int(self._weight.totals()[0])

    def mean(self) -> np.ndarray:
        """Means, float64 of shape (n_columns,), correctly rounded."""
        weight = self.weight
        return np.array([int(s) / weight for s in self._first.totals()], dtype=np.float64)

    def variance(self) -> np.ndarray:
        """Variances of the population, float64 of shape (n_columns,), correctly rounded."""
        weight = self.weight
        pairs = zip(self._first.totals(), self._second.totals(), strict=True)
        return np.array([max(weight * int(q) - int(s) ** 2, 0) / weight**2 for s, q in pairs], dtype=np.float64)


def products(terms: list[np.ndarray], factor: np.ndarray) -> list[np.ndarray]:
    """Terms whose exact sum is the exact product of ``factor`` and the sum of ``terms``."""
    out = []
    for term in terms:
        product = term * factor
        a, b = _halves(term)
        c, d = _halves(factor)
        rest = ((a * c - product) + a * d + b * c) + b * d
        out += [product, rest] if rest.any() else [product]
    return out


def _halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Veltkamp's split of float64 into two numbers of 26 bits."""
    scaled = x * _SPLITTER
    high = scaled - (scaled - x)
    return high, x - high
