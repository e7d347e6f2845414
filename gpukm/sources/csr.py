"""Sparse rows, made dense a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any

import numpy as np

from gpukm.errors import DataError
from gpukm.sources.array import check_weights, held_rows, working_dtype
from gpukm.sources.base import Batch, Source


class CsrSource(Source):
    """The rows of a SciPy CSR matrix or array.

    Parameters
    ----------
    matrix : scipy.sparse CSR of shape (n, n_features)
        Never changed; entries that are there twice are summed, as SciPy does.
    weight : array of shape (n,) or None

    Raises
    ------
    DataError
        Another format, not numbers, or weights that cannot be used.
    """

    def __init__(self, matrix: Any, weight: Any = None) -> None:
        if getattr(matrix, "format", None) != "csr":
            raise DataError(f"the matrix is {type(matrix).__name__}, expected CSR; convert it with .tocsr()")
        if matrix.dtype.kind not in "fiub":
            raise DataError(f"the matrix has dtype {matrix.dtype}, expected numbers; convert it first")
        if matrix.ndim != 2 or matrix.shape[1] == 0:
            raise DataError(f"the matrix has shape {matrix.shape}, expected (rows, features) with at least one feature")
        self.matrix, self.stored_dtype = matrix, matrix.dtype
        self.dtype = working_dtype(matrix.dtype)
        self.n_rows, self.n_features = matrix.shape
        self.names = None
        self.weight = None if weight is None else check_weights(weight, matrix.shape[0])
        self._first = 0

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Dense copies of consecutive rows."""
        here = held_rows(self.matrix.shape[0], self._first, start, stop)
        for at in range(here.start, here.stop, rows):
            last = min(at + rows, here.stop)
            x = np.ascontiguousarray(self.matrix[at:last].toarray(), dtype=self.dtype)
            weight = None if self.weight is None else self.weight[at:last]
            yield Batch(x, self._first + at, last - at, weight=weight)

    def part(self, start: int, stop: int | None) -> CsrSource:
        """These rows alone."""
        here = held_rows(self.matrix.shape[0], self._first, start, stop)
        part = copy(self)
        part.matrix, part._first = self.matrix[here], self._first + here.start
        part.weight = None if self.weight is None else self.weight[here]
        return part
