"""Parquet: a file, a folder, a glob, hive partitions; local or any URL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from gpukm.errors import DataError
from gpukm.sources.location import Files, shown
from gpukm.sources.table import Table, cut, numbered

if TYPE_CHECKING:
    import pyarrow as pa

# Column chunks are read through a buffer of this size, and not whole: a row group may be larger than memory.
_BUFFER_BYTES = 1 << 20
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class ParquetTable(Table):
    """Parquet files as one table, in the sorted order of their paths.

    Parameters
    ----------
    location : str
        A file, a folder (``key=value`` folders become columns), a glob or a URL.
    storage_options : mapping or None

    Raises
    ------
    DataError
        Nothing is there, a file is not readable, or the files' columns differ.
    """

    def __init__(self, location: str, storage_options: Mapping[str, Any] | None = None) -> None:
        import pyarrow as pa

        self.files = Files(location, (".parquet", ".pq"), storage_options)
        self.location = shown(location)
        self._rows: list[int] = []
        self._partitions = [_partition(path[len(self.files.root) :]) for path in self.files.paths]
        keys = list(self._partitions[0])
        own: pa.Schema | None = None
        for path, partition in zip(self.files.paths, self._partitions, strict=True):
            with self._file(path) as file:
                schema = file.schema_arrow.remove_metadata()
                self._rows.append(file.metadata.num_rows)
            if own is None:
                own = schema
            elif not schema.equals(own):
                raise DataError(f"{self.location}: {_differs(own, schema, self.files.paths[0], path)}")
            if list(partition) != keys:
                raise DataError(f"{self.location}: {path} is partitioned by {list(partition)}, others by {keys}")
        if own is None:
            raise DataError(f"{self.location} holds no Parquet file")
        self._own = own
        both = [key for key in keys if key in own.names]
        if both:
            raise DataError(f"{self.location} has column {both[0]!r} in its files and as a folder; rename one")
        types = {key: _partition_type([p[key] for p in self._partitions]) for key in keys}
        self.schema = pa.schema([*own, *(pa.field(key, type_) for key, type_ in types.items())])
        self.n_rows: int = sum(self._rows)
        if self.n_rows == 0:
            raise DataError(f"{self.location} has no rows; expected at least one")

    def record_batches(
        self, columns: Sequence[str], rows: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Read row groups piecewise, starting at the one that holds row ``start``."""
        end = self.n_rows if stop is None else min(stop, self.n_rows)
        first = 0
        for path, n, partition in zip(self.files.paths, self._rows, self._partitions, strict=True):
            if first < end and first + n > start:
                yield from self._of_file(path, first, partition, list(columns), rows, start, end)
            first += n

    def _of_file(
        self, path: str, first: int, partition: Mapping[str, str], columns: list[str], rows: int, start: int, end: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches of one file."""
        import pyarrow as pa

        own = [name for name in columns if name in self._own.names]
        with self._file(path) as file:
            groups, begin = [], None
            at = first
            for group in range(file.metadata.num_row_groups):
                n = file.metadata.row_group(group).num_rows
                if at < end and at + n > start:
                    groups.append(group)
                    begin = at if begin is None else begin
                at += n
            if begin is None:
                return
            if not own:
                # Only partition columns are wanted, but something has to tell the rows: the file's first column.
                own = self._own.names[:1]
            batches = file.iter_batches(batch_size=rows, row_groups=groups, columns=own, use_threads=False)
            for number, batch in cut(numbered(batches, begin), rows, start, end):
                arrays = [
                    batch.column(name)
                    if name in self._own.names
                    else _constant(partition[name], self.schema.field(name).type, batch.num_rows)
                    for name in columns
                ]
                yield number, pa.record_batch(arrays, schema=pa.schema([self.schema.field(name) for name in columns]))

    @contextmanager
    def _file(self, path: str) -> Iterator[Any]:
        """An open Parquet file; what goes wrong with it becomes a DataError."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with self.files.open(path) as handle:
                # A file that this process opens itself is read in buffered pieces; a mapped one would count as memory.
                source = path if self.files.local else handle
                with pq.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
                    yield file
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowIOError, OSError) as error:
            raise DataError(
                f"{shown(path)} is not a readable Parquet file: {str(error).splitlines()[0].rstrip('.')}; "
                "is it complete, and Parquet at all?"
            ) from None


def _partition(path: str) -> dict[str, str]:
    """``key=value`` folders of a path."""
    parts = [part.split("=", 1) for part in path.split("/")[:-1] if "=" in part]
    return {key: unquote(value) for key, value in parts}


def _partition_type(values: list[str]) -> pa.DataType:
    """int64 where every value is an integer, else text."""
    import pyarrow as pa

    def integer(value: str) -> bool:
        return value.removeprefix("-").isdecimal() and abs(int(value)) < 2**63

    return pa.int64() if all(integer(v) or v == _HIVE_NULL for v in values) else pa.string()


def _constant(value: str, type_: pa.DataType, n: int) -> pa.Array:
    """A column of one partition value."""
    import pyarrow as pa

    if value == _HIVE_NULL:
        return pa.nulls(n, type_)
    return pa.repeat(pa.scalar(int(value) if pa.types.is_integer(type_) else value, type_), n)


def _differs(a: pa.Schema, b: pa.Schema, path_a: str, path_b: str) -> str:
    """How the columns of two files differ."""
    name_a, name_b = path_a.rpartition("/")[2], path_b.rpartition("/")[2]
    for name in [*a.names, *b.names]:
        if name not in b.names:
            return f"{name_b} has no column {name!r}, {name_a} has"
        if name not in a.names:
            return f"{name_a} has no column {name!r}, {name_b} has"
        if a.field(name).type != b.field(name).type:
            return f"column {name!r} is {a.field(name).type} in {name_a} and {b.field(name).type} in {name_b}"
    return f"the columns of {name_a} and {name_b} differ in their order"
