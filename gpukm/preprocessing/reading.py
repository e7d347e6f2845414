"""Blocks of raw rows from a matrix or a table: numbers as one matrix, missing ones as NaN; categories as codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpukm.errors import ConfigError
from gpukm.preprocessing.columns import Column, check_there, check_weight, read_dtype, types_of
from gpukm.sources.base import Source

if TYPE_CHECKING:
    import pyarrow as pa

    from gpukm.sources.table import Table

_ASSEMBLED_ROWS = 1 << 12


@dataclass
class Block:
    """Consecutive raw rows.

    Attributes
    ----------
    x : ndarray of shape (n, n_numeric)
        Numbers and vectors' entries, float32 or float64; NaN where missing. May be a view of the source's memory.
    values : list
        For each category column an Arrow array of strings, numbers or booleans, or float64 (n,) from a matrix.
    first_row, n_rows, kept, weight, columns
        As of :class:`gpukm.sources.base.Batch`; weights not checked yet, NaN where missing.
    """

    x: np.ndarray
    values: list[Any]
    first_row: int
    n_rows: int
    kept: np.ndarray | None
    weight: np.ndarray | None
    columns: pa.RecordBatch | None

    def select(self, keep: np.ndarray) -> Block:
        """The rows where ``keep``, a boolean (n,), is true."""
        offsets = np.flatnonzero(keep)
        values = [v[keep] if isinstance(v, np.ndarray) else v.take(offsets) for v in self.values]
        return Block(
            self.x[offsets],
            values,
            self.first_row,
            self.n_rows,
            offsets if self.kept is None else self.kept[offsets],
            None if self.weight is None else self.weight[offsets],
            None if self.columns is None else self.columns.take(offsets),
        )

    def row(self, i: int) -> int:
        """Row number of row i of ``x``."""
        return self.first_row + int(i if self.kept is None else self.kept[i])


class Reader:
    """Reads the columns of a preprocessing, and what goes with them, from any input.

    Parameters
    ----------
    raw : Source or Table
    columns : sequence of Column
        With the types they have in ``raw``.
    weight_column : str or None
    pass_columns : sequence of str
        Columns of a table that are handed through.
    """

    def __init__(
        self, raw: Source | Table, columns: Sequence[Column], weight_column: str | None, pass_columns: Sequence[str]
    ) -> None:
        self.raw, self.columns = raw, tuple(columns)
        self.weight_column, self.pass_columns = weight_column, tuple(pass_columns)
        self.numeric = tuple(c for c in columns if c.role != "category")
        self.categories = tuple(c for c in columns if c.role == "category")
        self.features = tuple(name for c in self.numeric for name in c.features)
        self.dtype = read_dtype(columns)
        there = types_of(raw)
        if pass_columns and isinstance(raw, Source):
            raise ConfigError(f"columns {', '.join(pass_columns)} cannot be handed through from a matrix; give a table")
        check_there(pass_columns, there, raw)
        if weight_column is not None:
            check_weight(weight_column, there, raw)
        self._places = {name: i for i, name in enumerate(there)} if isinstance(raw, Source) else {}

    def of(self, raw: Source | Table) -> Reader:
        """The same of another part of the data."""
        reader = copy(self)
        reader.raw = raw
        return reader

    @property
    def whole(self) -> bool:
        """Whether the numbers are a matrix's own, all columns in order, and nothing else is wanted."""
        names = [c.name for c in self.columns]
        return isinstance(self.raw, Source) and not self.categories and names == list(self._places)

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        """Blocks that cover the rows [start, stop) in order, each of at most ``rows`` rows."""
        return self._matrix(rows, start, stop) if isinstance(self.raw, Source) else self._table(rows, start, stop)

    def _matrix(self, rows: int, start: int, stop: int | None) -> Iterator[Block]:
        """Blocks of a matrix."""
        assert isinstance(self.raw, Source)
        wanted = [self._places[c.name] for c in self.numeric]
        all_of_it = wanted == list(range(self.raw.n_features))
        for batch in self.raw.batches(rows, start, stop):
            x = batch.x if all_of_it else batch.x[:, wanted]
            weight = batch.weight
            if self.weight_column is not None:
                weight = batch.x[:, self._places[self.weight_column]].astype(np.float64)
            values = [batch.x[:, self._places[c.name]].astype(np.float64) for c in self.categories]
            yield Block(x, values, batch.first_row, batch.n_rows, batch.kept, weight, batch.columns)

    def _table(self, rows: int, start: int, stop: int | None) -> Iterator[Block]:
        """Blocks of a table."""
        assert not isinstance(self.raw, Source)
        names = [c.name for c in self.columns]
        names += [self.weight_column] if self.weight_column is not None else []
        names = list(dict.fromkeys((*names, *self.pass_columns)))
        for first, batch in self.raw.record_batches(names, rows, start, stop):
            weight = None
            if self.weight_column is not None:
                weight = _floats(batch.column(self.weight_column)).astype(np.float64)
            yield Block(
                self._numbers(batch),
                [_categories(batch.column(c.name)) for c in self.categories],
                first,
                batch.num_rows,
                None,
                weight,
                batch.select(list(self.pass_columns)) if self.pass_columns else None,
            )

    def _numbers(self, batch: pa.RecordBatch) -> np.ndarray:
        """The numeric columns as one matrix; a view where it is one column of the wanted type."""
        parts = [_floats(batch.column(c.name)) for c in self.numeric]
        n = batch.num_rows
        if len(parts) == 1 and parts[0].dtype == self.dtype:
            return parts[0].reshape(n, -1)
        x = np.empty((n, len(self.features)), self.dtype)
        for i in range(0, n, _ASSEMBLED_ROWS):
            j = 0
            for part in parts:
                width = part.shape[1] if part.ndim == 2 else 1
                x[i : i + _ASSEMBLED_ROWS, j : j + width] = part[i : i + _ASSEMBLED_ROWS].reshape(-1, width)
                j += width
        return x


def _floats(array: pa.Array) -> np.ndarray:
    """Numbers of a column, (n,) or (n, size); where values are missing floats with NaN."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        # flatten() would leave out the entries of missing vectors.
        entries = _floats(array.values.slice(array.offset * size, len(array) * size)).reshape(len(array), size)
        if array.null_count:
            entries = entries.astype(np.result_type(entries.dtype, np.float32))
            entries[array.is_null().to_numpy(zero_copy_only=False)] = np.nan
        return entries
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    values: np.ndarray = array.to_numpy(zero_copy_only=False)
    return values


def _categories(array: pa.Array) -> pa.Array:
    """Categories as text, booleans or numbers; missing ones null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not (pa.types.is_boolean(array.type) or pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        array = array.cast(pa.string())
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), None, array)
    return array


def missing(values: Any) -> np.ndarray | None:
    """Where categories are missing, a boolean (n,), or None for nowhere."""
    if isinstance(values, np.ndarray):
        gap = np.isnan(values)
        return gap if gap.any() else None
    return values.is_null().to_numpy(zero_copy_only=False) if values.null_count else None


def distinct(values: Any) -> tuple[list[Any], np.ndarray]:
    """Distinct categories as Python values, and the place of each row's among them, -1 where missing."""
    if isinstance(values, np.ndarray):
        numbers, place = np.unique(values + 0.0, return_inverse=True)
        n = int(np.count_nonzero(~np.isnan(numbers)))
        return numbers[:n].tolist(), np.where(place < n, place, -1)
    encoded = values.dictionary_encode()
    found = [value + 0.0 if isinstance(value, float) else value for value in encoded.dictionary.to_pylist()]
    return found, encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def codes(values: Any, column: Column) -> np.ndarray:
    """Place of each row's category among those of training, int64 (n,): -1 where missing, -2 where unknown."""
    found, place = distinct(values)
    known = {category: i for i, category in enumerate(column.categories)}
    table: np.ndarray = np.array([known.get(value, -2) for value in found] + [-1], dtype=np.int64)
    out: np.ndarray = table[place]
    return out
