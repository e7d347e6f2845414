"""A table reduced to rows whose columns have given values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from gpukm.errors import ConfigError, DataError
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

    Parameters
    ----------
    table : Table
    conditions : sequence of Condition

    Raises
    ------
    DataError
        A condition names a column that is not there, or a value its type cannot hold.
    """

    def __init__(self, table: Table, conditions: Sequence[Condition]) -> None:
        check_columns(table.schema, [c.column for c in conditions], table.location)
        self._table = table
        self._values = [(c.column, _cast(c, table.schema.field(c.column).type)) for c in conditions]
        self.schema, self.location, self.n_rows = table.schema, table.location, None

    def record_batches(
        self, columns: Sequence[str], rows: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """As of a table; ``start`` and ``stop`` count rows that meet the conditions."""
        wanted = list(columns)
        read = [*wanted, *(name for name, _ in self._values if name not in wanted)]
        number = 0
        for _, batch in self._table.record_batches(list(dict.fromkeys(read)), rows):
            mask = None
            for name, value in self._values:
                equal = pc.equal(batch.column(name), value)
                mask = equal if mask is None else pc.and_(mask, equal)
            found = batch.filter(mask).select(wanted)
            first, number = number, number + found.num_rows
            begin = max(start - first, 0)
            end = found.num_rows if stop is None else min(found.num_rows, stop - first)
            if end > begin:
                yield first + begin, found.slice(begin, end - begin)
            if stop is not None and number >= stop:
                return


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
