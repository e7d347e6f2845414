"""Rows that come as values, one for each shard: arrays in memory, and Dask's arrays and data frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gpukm.errors import DataError
from gpukm.sources.array import ArraySource, check_weights, working_dtype
from gpukm.sources.base import Source
from gpukm.sources.csr import CsrSource


@dataclass(frozen=True)
class Blocks:
    """Consecutive rows in order.

    Attributes
    ----------
    values : list
        A Source each, or one of Dask's delayed values that becomes one.
    n_features : int
    dtype : numpy.dtype
        Of all blocks.
    names : tuple of str or None
    n_rows : int or None
        None where only reading tells.
    """

    values: list[Any]
    n_features: int
    dtype: np.dtype
    names: tuple[str, ...] | None
    n_rows: int | None


def is_collection(data: Any) -> bool:
    """Whether this is a collection of Dask's; nothing is imported for it."""
    return callable(getattr(data, "__dask_graph__", None))


def blocks_of(data: Any, weight: Any = None, n: int = 1) -> Blocks:
    """Blocks of a Dask array, a Dask data frame or a matrix in memory.

    Parameters
    ----------
    data : dask.array.Array, dask.dataframe.DataFrame or Source
        A Source has its rows in memory. Of a data frame the numeric columns are taken.
    weight : array, dask.array.Array, dask.dataframe.Series or None
        A weight for each row, of the same kind as the data.
    n : int
        Blocks to cut a matrix in memory into.

    Raises
    ------
    DataError
        Not a matrix of numbers, or weights that do not go with it.
    """
    if isinstance(data, Source):
        return _of_source(data, n)
    if hasattr(data, "to_delayed") and hasattr(data, "columns"):
        return _of_frame(data, weight)
    if hasattr(data, "chunks") and hasattr(data, "to_delayed"):
        return _of_array(data, weight)
    raise DataError(f"{type(data).__name__} is no array and no data frame; give one of these")


def _of_source(source: Source, n: int) -> Blocks:
    """Cut a matrix in memory."""
    cuts = [(source.n_rows or 0) * i // n for i in range(n + 1)]
    parts = [slice(a, b) for a, b in pairwise(cuts)]
    x = source.array()
    values: list[Source] = []
    for p in parts:
        if isinstance(source, CsrSource):
            values.append(CsrSource(source.matrix[p], None if source.weight is None else source.weight[p]))
        elif x is not None:
            weight = source.weights()
            values.append(ArraySource(x[p], None if weight is None else weight[p], source.names))
        else:
            raise DataError("these rows are not in memory; give an array or a path")
    return Blocks(list(values), source.n_features, source.dtype, source.names, source.n_rows)


def _of_array(data: Any, weight: Any) -> Blocks:
    """Blocks of rows of a Dask array; features are brought together."""
    from dask.delayed import delayed

    if data.ndim != 2:
        raise DataError(f"the data has shape {data.shape}, expected a matrix (rows, features); reshape it")
    if data.dtype.kind not in "fiub":
        raise DataError(f"the data has dtype {data.dtype}, expected numbers; convert it first")
    d, dtype = int(data.shape[1]), working_dtype(data.dtype)
    data = data.rechunk({1: -1})
    found = data.to_delayed().ravel()
    weights: Sequence[Any] = [None] * len(found)
    if weight is not None:
        if not is_collection(weight):
            from dask.array import from_array

            weight = from_array(np.asarray(weight), chunks=(data.chunks[0],))
        if weight.ndim != 1 or len(weight) != len(data):
            raise DataError(f"sample_weight has shape {weight.shape}, expected ({data.shape[0]},)")
        weights = weight.rechunk({0: data.chunks[0]}).to_delayed().ravel()
    make = delayed(_block, pure=False)
    values = [make(x, w, dtype, None) for x, w in zip(found, weights, strict=True)]
    n_rows = None if np.isnan(data.shape[0]) else int(data.shape[0])
    return Blocks(values, d, dtype, None, n_rows)


def _of_frame(data: Any, weight: Any) -> Blocks:
    """Partitions of a Dask data frame, numeric columns only."""
    from dask.delayed import delayed

    kinds = {name: np.dtype(t) for name, t in data.dtypes.items() if getattr(t, "kind", "O") in "fiub"}
    if not kinds:
        raise DataError(f"no column is numeric: {', '.join(map(str, data.columns))}; convert some")
    names = tuple(str(name) for name in kinds)
    dtype = np.dtype(np.float32 if all(working_dtype(t) == np.float32 for t in kinds.values()) else np.float64)
    found = data[list(kinds)].to_delayed()
    weights: Sequence[Any] = [None] * len(found)
    if weight is not None:
        if not hasattr(weight, "to_delayed") or weight.npartitions != len(found):
            raise DataError("sample_weight of a Dask data frame has to be a series with the same partitions")
        weights = weight.to_delayed()
    make = delayed(_block, pure=False)
    values = [make(x, w, dtype, names) for x, w in zip(found, weights, strict=True)]
    return Blocks(values, len(names), dtype, names, None)


def _block(x: Any, weight: Any, dtype: np.dtype, names: tuple[str, ...] | None) -> ArraySource:
    """One block as rows in memory."""
    rows = x.to_numpy(dtype=dtype, na_value=np.nan) if hasattr(x, "to_numpy") else np.asarray(x, dtype=dtype)
    return ArraySource(rows, weight=None if weight is None else check_weights(weight, len(rows)), names=names)
