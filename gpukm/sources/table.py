"""Named columns of any type; preprocessing makes matrices of them."""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

from gpukm.errors import DataError
from gpukm.sources.array import held_rows
from gpukm.sources.base import Rows

if TYPE_CHECKING:
    import pyarrow as pa

    from gpukm.sources.location import Files


class Table(Rows):
    """Rows of named columns, re-iterable, picklable by location where they have one.

    Attributes
    ----------
    schema : pyarrow.Schema
        All columns, partition columns included.
    location : str
        How the data is called in messages; without secrets.
    """

    schema: pa.Schema
    location: str

    @abstractmethod
    def record_batches(
        self, columns: Sequence[str], rows: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (number of the first row, batch of at most ``rows`` rows) over the rows [start, stop), in order.

        Batches have the named columns, at least one and none twice, in the order asked for, with the types of
        ``schema``.

        Raises
        ------
        DataError
            A column is not there, or a file cannot be read.
        """

    def count(self) -> int:
        if self.n_rows is not None:
            return self.n_rows
        return sum(batch.num_rows for _, batch in self.record_batches(self.schema.names[:1], 1 << 16))


class MemoryTable(Table):
    """A data frame or Arrow table in memory.

    Parameters
    ----------
    data : object with ``__arrow_c_stream__`` or ``__arrow_c_array__``
        pandas, polars, pyarrow, and whatever else speaks Arrow's C protocols. An index of pandas is no column. A single
        array has to be one of vectors (fixed-size lists); it becomes column ``x``.

    Raises
    ------
    DataError
        It cannot be read as named columns.
    """

    def __init__(self, data: Any) -> None:
        import pyarrow as pa

        try:
            self.table = _table(data)
        except (ValueError, TypeError, pa.ArrowException) as error:
            reason = "; ".join(str(part) for part in error.args).splitlines()[0]
            raise DataError(
                f"{type(data).__name__} cannot be read as a table: {reason}; give a data frame with one type a column"
            ) from None
        self.schema, self.n_rows, self.location = self.table.schema, self.table.num_rows, "the data"
        self._first = 0

    def record_batches(
        self, columns: Sequence[str], rows: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Slices of the table."""
        check_columns(self.schema, columns, self.location)
        here = held_rows(self.table.num_rows, self._first, start, stop)
        chosen = self.table.select(list(columns))[here]
        yield from numbered(chosen.to_batches(max_chunksize=rows), self._first + here.start)

    def part(self, start: int, stop: int | None) -> MemoryTable:
        """These rows alone."""
        here = held_rows(self.table.num_rows, self._first, start, stop)
        part = copy(self)
        part.table, part._first = self.table[here], self._first + here.start
        return part

    def __getstate__(self) -> dict[str, Any]:
        import pyarrow as pa

        # Pickled by Arrow, a slice would take all rows along.
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.schema) as writer:
            writer.write_table(self.table)
        return {**self.__dict__, "table": sink.getvalue()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        import pyarrow as pa

        with pa.ipc.open_stream(state["table"]) as reader:
            self.__dict__.update({**state, "table": reader.read_all()})


def _table(data: Any) -> pa.Table:
    """Read an object of another library."""
    import pyarrow as pa

    if isinstance(data, pa.Table):
        return data
    if type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "columns"):
        return pa.Table.from_pandas(data, preserve_index=False).replace_schema_metadata()
    if hasattr(data, "__dataframe__") and not hasattr(data, "__arrow_c_stream__"):
        import pyarrow.interchange

        return pa.table(pyarrow.interchange.from_dataframe(data))
    try:
        return pa.table(data)
    except pa.ArrowInvalid:
        # One array, not columns.
        array = pa.chunked_array(data) if hasattr(data, "__arrow_c_stream__") else pa.chunked_array([pa.array(data)])
    if not pa.types.is_fixed_size_list(array.type):
        raise ValueError(f"it is one array of {array.type}, expected columns, or vectors of one length")
    return pa.table({"x": array})


def check_columns(schema: pa.Schema, columns: Sequence[str], location: str) -> None:
    """Raise DataError for the first column that is not there, or there twice."""
    for name in columns:
        n = schema.names.count(name)
        if n > 1:
            raise DataError(f"{location} has {n} columns called {name!r}; rename all but one")
        if n == 0:
            close = difflib.get_close_matches(name, schema.names, n=1)
            there = ", ".join(schema.names[:8]) + (", ..." if len(schema.names) > 8 else "")
            hint = f"did you mean {close[0]!r}?" if close else f"its columns are {there}"
            raise DataError(f"{location} has no column {name!r}; {hint}")


def joined(a: pa.Schema, b: pa.Schema, path_a: str, path_b: str) -> pa.Schema:
    """The columns of two files as one schema, in the order of the first.

    Types may differ where one holds the values of both: a column that is whole numbers here and has gaps there, or is
    missing throughout.

    Raises
    ------
    DataError
        They do not fit: which column, and how.
    """
    import pyarrow as pa

    name_a, name_b = path_a.rpartition("/")[2], path_b.rpartition("/")[2]
    if name_a == name_b:
        name_a, name_b = path_a, path_b
    for name in (n for n in [*a.names, *b.names] if a.names.count(n) != b.names.count(n)):
        has, lacks = (name_a, name_b) if a.names.count(name) > b.names.count(name) else (name_b, name_a)
        raise DataError(f"{lacks} has no column {name!r}, {has} has; all files need the same columns")
    fields = []
    for i, field in enumerate(a):
        other = b.field(i if a.names == b.names else b.names.index(field.name)).type
        type_ = field.type
        if type_ != other:
            try:
                pair = [pa.schema([pa.field("", t)]) for t in (type_, other)]
                type_ = pa.unify_schemas(pair, promote_options="permissive").field(0).type
            except pa.ArrowException:
                type_ = None
            # Vectors of two lengths would become lists, which are no matrix.
            if type_ is None or pa.types.is_fixed_size_list(field.type) != pa.types.is_fixed_size_list(type_):
                raise DataError(
                    f"column {field.name!r} is {field.type} in {name_a} and {other} in {name_b}; "
                    "write both files with one type"
                )
        fields.append(pa.field(field.name, type_))
    return pa.schema(fields)


def conform(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """A file's column in the type that all files share."""
    import pyarrow as pa

    if array.type == type_:
        return array
    # Integers that float64 cannot hold lose digits, as they do in every other conversion to the working dtype.
    return array.cast(type_, safe=not pa.types.is_floating(type_))


@contextmanager
def arrow_file(files: Files, path: str, kind: str, **options: Any) -> Iterator[pa.NativeFile]:
    """A file that Arrow reads by itself where it is local; what goes wrong becomes a DataError."""
    import pyarrow as pa

    errors = (
        pa.ArrowInvalid,
        pa.ArrowNotImplementedError,
        pa.ArrowTypeError,
        pa.ArrowKeyError,
        pa.ArrowIndexError,
        pa.ArrowSerializationError,
    )
    with (
        files.reading(path, kind, *errors, **options) as handle,
        pa.OSFile(path) if files.local else pa.PythonFile(handle, mode="r") as file,
    ):
        yield file


def numbered(batches: Iterable[pa.RecordBatch], first: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches with the number of their first row; empty ones are left out."""
    for batch in batches:
        if batch.num_rows:
            yield first, batch
            first += batch.num_rows


def cut(
    batches: Iterable[tuple[int, pa.RecordBatch]], rows: int, start: int, stop: int | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Keep to the rows [start, stop), at most ``rows`` at a time."""
    for first, batch in batches:
        begin = max(start - first, 0)
        end = batch.num_rows if stop is None else min(batch.num_rows, stop - first)
        for at in range(begin, end, rows):
            yield first + at, batch.slice(at, min(rows, end - at))
        if stop is not None and first + batch.num_rows >= stop:
            return
