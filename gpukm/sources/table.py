"""Named columns of any type; preprocessing makes matrices of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gpukm.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


class Table(ABC):
    """Rows of named columns, re-iterable, picklable by location where they have one.

    Attributes
    ----------
    schema : pyarrow.Schema
        All columns, partition columns included.
    n_rows : int or None
        None while only a pass over the data can tell.
    location : str
        How the data is called in messages; without secrets.
    """

    schema: pa.Schema
    n_rows: int | None
    location: str

    @abstractmethod
    def record_batches(
        self, columns: Sequence[str], rows: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (number of the first row, batch of at most ``rows`` rows) over the rows [start, stop), in order.

        Batches have the named columns in the order asked for.
        """


class MemoryTable(Table):
    """A data frame or Arrow table in memory.

    Parameters
    ----------
    data : object with ``__arrow_c_stream__``
        pandas, polars, pyarrow, and whatever else speaks Arrow's C stream protocol.
    """

    def __init__(self, data: Any) -> None:
        import pyarrow as pa

        try:
            self.table = data if isinstance(data, pa.Table) else pa.table(data)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise DataError(f"the data frame cannot be read as an Arrow table: {_first_line(error)}") from None
        self.schema, self.n_rows, self.location = self.table.schema, self.table.num_rows, "the data"

    def record_batches(
        self, columns: Sequence[str], rows: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Slices of the table."""
        end = self.table.num_rows if stop is None else min(stop, self.table.num_rows)
        chosen = self.table.select(list(columns)).slice(start, max(0, end - start))
        yield from numbered(chosen.to_batches(max_chunksize=rows), start)


def numbered(batches: Any, first: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches with the number of their first row; empty ones are left out."""
    for batch in batches:
        if batch.num_rows:
            yield first, batch
            first += batch.num_rows


def cut(
    batches: Iterator[tuple[int, pa.RecordBatch]], rows: int, start: int, stop: int | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Keep to the rows [start, stop), at most ``rows`` at a time."""
    for first, batch in batches:
        begin = max(start - first, 0)
        end = batch.num_rows if stop is None else min(batch.num_rows, stop - first)
        for at in range(begin, end, rows):
            yield first + at, batch.slice(at, min(rows, end - at))
        if stop is not None and first + batch.num_rows >= stop:
            return


def _first_line(error: BaseException) -> str:
    """The first line of a message."""
    return str(error).split("\n")[0]
