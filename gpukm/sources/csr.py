"""Sparse rows, made dense a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpukm.errors import DataError
from gpukm.sources.array import check_weights, working_dtype
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

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Dense copies of consecutive rows."""
        n: int = self.matrix.shape[0]
        end = n if stop is None else min(stop, n)
        for first in range(start, end, rows):
            last = min(first + rows, end)
            x = np.ascontiguousarray(self.matrix[first:last].toarray(), dtype=self.dtype)
            yield Batch(x, first, last - first, weight=None if self.weight is None else self.weight[first:last])
