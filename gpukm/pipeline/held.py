"""Prepared rows held in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpukm.sources.base import Batch, Source


class Held(Source):
    """Rows of another source, read once and kept, with the row numbers they had there.

    Parameters
    ----------
    x : ndarray of shape (n, n_features)
    weight : ndarray of float64 of shape (n,) or None
    numbers : ndarray of int64 of shape (n,) or None
        Row numbers of ``x``, ascending; None when no row was dropped.
    n_rows : int
        Rows of the source, dropped ones included.
    names : tuple of str or None
    """

    def __init__(
        self,
        x: np.ndarray,
        weight: np.ndarray | None,
        numbers: np.ndarray | None,
        n_rows: int,
        names: tuple[str, ...] | None,
    ) -> None:
        self._x, self._weight, self._numbers = x, weight, numbers
        self.dtype, self.n_features = x.dtype, x.shape[1]
        self.names, self.n_rows = names, n_rows

    def packed(self) -> Held:
        """The kept rows alone, numbered anew: what fits read, whose results do not depend on the numbers."""
        return Held(self._x, self._weight, None, len(self._x), self.names)

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Views of consecutive rows."""
        assert self.n_rows is not None
        end = self.n_rows if stop is None else min(stop, self.n_rows)
        for first in range(start, end, rows):
            last = min(first + rows, end)
            place, kept = slice(first, last), None
            if self._numbers is not None:
                place = slice(*np.searchsorted(self._numbers, (first, last)))
                kept = self._numbers[place] - first
            weight = None if self._weight is None else self._weight[place]
            yield Batch(self._x[place], first, last - first, kept, weight)

    def array(self) -> np.ndarray | None:
        """The rows, unless some were dropped."""
        return self._x if self._numbers is None else None

    def weights(self) -> np.ndarray | None:
        """Weights beside :meth:`array`."""
        return self._weight if self._numbers is None else None
