"""Rows that already lie in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np

from gpukm.errors import DataError
from gpukm.sources.base import Batch, Source

_SMALL = (np.float16, np.float32, np.int8, np.int16, np.uint8, np.uint16, np.bool_)


def working_dtype(dtype: Any) -> np.dtype:
    """float32 for floats of 32 bits or less, integers of 16 bits or less and booleans; else float64."""
    return np.dtype(np.float32 if np.dtype(dtype).newbyteorder("=") in _SMALL else np.float64)


class ArraySource(Source):
    """The rows of a matrix in memory; the caller's array is never changed, and copied only where it has to be.

    Parameters
    ----------
    x : array of shape (n, n_features)
        Numbers of any type; what is not C-contiguous float32 or float64 is converted.
    weight : array of shape (n,) or None
        Sample weights, finite and not negative.
    names : sequence of str or None

    Raises
    ------
    DataError
        Not a matrix of numbers, or weights that cannot be used.
    """

    def __init__(self, x: Any, weight: Any = None, names: Sequence[str] | None = None) -> None:
        if np.ma.is_masked(x):
            raise DataError("the data is a masked array; fill it, with NaN where values should count as missing")
        x = np.asarray(x)
        if x.ndim != 2:
            raise DataError(f"the data has shape {x.shape}, expected a matrix (rows, features); reshape it")
        if x.dtype.kind not in "fiub":
            raise DataError(f"the data has dtype {x.dtype}, expected numbers; convert it first")
        if x.shape[1] == 0:
            raise DataError(f"the data has shape {x.shape}, expected at least one feature")
        if names is not None and len(names) != x.shape[1]:
            raise DataError(f"there are {len(names)} names for {x.shape[1]} features; expected one for each")
        self.stored_dtype = x.dtype
        with np.errstate(over="ignore"):  # a long double may become infinite, which is reported as such
            self.x = np.ascontiguousarray(x, dtype=working_dtype(x.dtype))
        self.dtype, self.n_features = self.x.dtype, x.shape[1]
        self.names = tuple(names) if names is not None else None
        self.n_rows: int = len(x)
        self.weight = None if weight is None else check_weights(weight, len(x))
        self._first = 0

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Views of consecutive rows."""
        here = held_rows(len(self.x), self._first, start, stop)
        for at in range(here.start, here.stop, rows):
            part = slice(at, min(at + rows, here.stop))
            weight = None if self.weight is None else self.weight[part]
            yield Batch(self.x[part], self._first + at, part.stop - at, weight=weight)

    def part(self, start: int, stop: int | None) -> ArraySource:
        """These rows alone."""
        here = held_rows(len(self.x), self._first, start, stop)
        part = copy(self)
        part.x, part._first = self.x[here], self._first + here.start
        part.weight = None if self.weight is None else self.weight[here]
        return part

    def pick(self, rows: np.ndarray) -> ArraySource:
        """Copies of rows (m,) int64."""
        return ArraySource(np.take(self.x, rows, axis=0), weight=None if self.weight is None else self.weight[rows])

    def array(self) -> np.ndarray | None:
        """The matrix."""
        return self.x if len(self.x) == self.n_rows else None

    def weights(self) -> np.ndarray | None:
        """The weights."""
        return self.weight if len(self.x) == self.n_rows else None


def held_rows(n: int, first: int, start: int, stop: int | None) -> slice:
    """Where the rows numbered [start, stop) lie among ``n`` rows whose numbers begin at ``first``."""
    begin = min(max(start - first, 0), n)
    return slice(begin, n if stop is None else max(begin, min(stop - first, n)))


def check_weights(weight: Any, n: int) -> np.ndarray:
    """Sample weights as float64 (n,), or DataError."""
    try:
        weight = np.asarray(weight)
        # A complex number would lose its imaginary part, and text that looks like a number is still text.
        if weight.dtype.kind not in "fiubO":
            raise TypeError
        weight = np.ascontiguousarray(weight, dtype=np.float64)
    except (ValueError, TypeError):
        raise DataError("sample_weight cannot be read as numbers; give one number for each row") from None
    if weight.shape != (n,):
        raise DataError(f"sample_weight has shape {weight.shape}, expected ({n},)")
    bad = np.flatnonzero(~np.isfinite(weight))
    if len(bad):
        raise DataError(
            f"sample_weight has {len(bad)} values that are not finite, the first in row {bad[0]}; replace them"
        )
    bad = np.flatnonzero(weight < 0)
    if len(bad):
        raise DataError(
            f"sample_weight has {len(bad)} negative values, the first in row {bad[0]}; expected numbers from 0"
        )
    return weight
