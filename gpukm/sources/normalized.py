"""Rows scaled to unit length, as the cosine metric stores them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gpukm.backends.base import Backend
from gpukm.sources.base import Batch, Source
from gpukm.sources.faults import Finding, Refused


class NormalizedSource(Source):
    """Unit-length rows of another source, float64 inside and rounded once; a zero row is an error."""

    def __init__(self, source: Source, backend: Backend) -> None:
        self.source, self.backend = source, backend
        self.dtype, self.n_features = source.dtype, source.n_features
        self.names, self.n_rows = source.names, source.n_rows
        x = source.array()
        self._array: np.ndarray | None = None
        if x is not None:
            self._array, zero = self._normalise(x, range(len(x)))
            _raise(zero)

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Batches of unit rows; after the first zero row they are only counted, and DataError is raised at the end."""
        zero: Finding | None = None
        for batch in self.source.batches(rows, start, stop):
            x, found = self._normalise(batch.x, batch.row_numbers)
            zero = found if zero is None else zero.merge(found) if found else zero
            if zero is None:
                yield replace(batch, x=x)
        _raise(zero)

    def array(self) -> np.ndarray | None:
        return self._array

    def weights(self) -> np.ndarray | None:
        return self.source.weights()

    def _normalise(self, x: np.ndarray, row_numbers: range | np.ndarray) -> tuple[np.ndarray, Finding | None]:
        """Divide by the square root of D to the origin; which rows are zero."""
        origin = np.zeros((1, x.shape[1]), x.dtype)
        lengths = np.sqrt(self.backend.distances(x, origin, np.zeros(len(x), np.int32)))
        zero = np.flatnonzero(lengths == 0)
        if len(zero):
            return x, no_direction(len(zero), int(row_numbers[zero[0]]))
        out = np.empty_like(x)
        step = max(1, (1 << 18) // max(1, x.shape[1]))
        for i in range(0, len(x), step):
            out[i : i + step] = x[i : i + step].astype(np.float64) / lengths[i : i + step, None]
        return out, None


def no_direction(n: int, first: int) -> Finding:
    """What is wrong with n rows of length zero."""
    advice = "; a zero row has no direction, so drop it or use metric='euclidean'"
    return Finding(n, first, "", "row is zero, the first is row", "rows are zero, the first is row", advice)


def _raise(zero: Finding | None) -> None:
    """Raise DataError if rows are zero."""
    if zero is not None:
        raise Refused({0: zero})
