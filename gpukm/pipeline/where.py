"""A table reduced to rows whose columns have given values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gpukm.errors import ConfigError, DataError
from gpukm.sources.ranges import RowRange
from gpukm.sources.table import Table, check_columns


@dataclass(frozen=True)
class Condition:
    """``column = value``; the value is text until the column's type is known."""

    column: str
    value: str


def parse_condition(text: str) -> Condition:
    """Read ``column=value``.

    Raises
    ------
    ConfigError
        The text is something else.
    """
    column, mark, value = text.partition("=")
    if not mark or not column.strip():
        raise ConfigError(f"--where is {text!r}, expected COLUMN=VALUE, such as month=12")
    return Condition(column.strip(), value.strip())


class Filtered(Table):
    """Rows of a table that meet every condition, numbered anew from 0.

    Reading begins at the row groups or files that the rows were counted in.

    Parameters
    ----------
    table : Table
    conditions : sequence of Condition

    Raises
    ------
    DataError
        A condition names a column that is not there, or a value its type cannot hold.
    """

    anywhere = False

    def __init__(self, table: Table, conditions: Sequence[Condition]) -> None:
        check_columns(table.schema, [c.column for c in conditions], table.location)
        self._values = [(c.column, _cast(c, table.schema.field(c.column).type)) for c in conditions]
        self.schema, self.location, self.n_rows = table.schema, table.location, None
        #: The table in pieces, the rows that each of them has left, once they are counted, and the first one's number.
        self._tables: list[Table] = [table]
        self._counts: list[int | None] = [None]
        self._first = 0

    def record_batches(
        self, columns: Sequence[str], rows: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """As of a table; ``start`` and ``stop`` count rows that meet the conditions."""
        wanted = list(columns)
        read = list(dict.fromkeys([*wanted, *(name for name, _ in self._values)]))
        number = self._first
        for table, count in zip(self._tables, self._counts, strict=True):
            if count is not None and number + count <= start:
                number += count
                continue
            for _, batch in table.record_batches(read, rows):
                found = batch.filter(self._mask(batch)).select(wanted)
                first, number = number, number + found.num_rows
                begin = max(start - first, 0)
                end = found.num_rows if stop is None else min(found.num_rows, stop - first)
                if end > begin:
                    yield first + begin, found.slice(begin, end - begin)
                if stop is not None and number >= stop:
                    return

    def part(self, start: int, stop: int | None) -> Filtered:
        """The pieces that hold these rows, where it is known which they are."""
        if self.n_rows is None:
            return self
        firsts = list(accumulate((count or 0 for count in self._counts), initial=self._first))
        kept = [i for i, n in enumerate(firsts[1:]) if n > start and (stop is None or firsts[i] < stop)]
        part = self._of([self._tables[i] for i in kept], [self._counts[i] for i in kept])
        part._first = firsts[kept[0]] if kept else start
        return part

    def borders(self) -> Sequence[int]:
        """First rows of pieces."""
        return list(accumulate((count or 0 for count in self._counts), initial=self._first))[1:-1]

    def looks(self) -> list[Any]:
        return [look for table in self._tables for look in (table.looks() if table.n_rows is None else ())]

    def looked(self, found: Sequence[Any]) -> None:
        for table in self._tables:
            table.looked(found)

    def pieces(self) -> list[Filtered]:
        """What is left of each row group or file."""
        return [self._of([piece], [None]) for table in self._tables for piece in _pieces(table)]

    def counted(self, counts: Sequence[int]) -> None:
        self._tables = [piece for table in self._tables for piece in _pieces(table)]
        self._counts, self.n_rows = list(counts), sum(counts)

    def _of(self, tables: list[Table], counts: list[int | None]) -> Filtered:
        """Some of the pieces."""
        table = copy(self)
        table._tables, table._counts = tables, counts
        return table

    def _mask(self, batch: pa.RecordBatch) -> pa.Array:
        """The rows that meet every condition; there is at least one."""
        masks = [pc.equal(batch.column(name), value) for name, value in self._values]
        return reduce(pc.and_, masks)


def _pieces(table: Table) -> list[Table]:
    """A table in pieces that reading begins at at no extra cost."""
    if table.n_rows is None:
        return table.pieces()
    cuts = [0, *table.borders(), table.n_rows]
    return [RowRange(table.part(a, b), a, b).open() for a, b in pairwise(cuts)]


def _cast(condition: Condition, type_: pa.DataType) -> pa.Scalar:
    """The value in the type of its column."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    try:
        return pa.scalar(condition.value).cast(type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(
            f"--where {condition.column}={condition.value}: the column is {type_}, and {condition.value!r} is none"
        ) from None
