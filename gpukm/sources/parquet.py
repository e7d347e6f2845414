"""Parquet: a file, a folder, a glob, hive partitions; local or any URL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

from gpukm.errors import DataError
from gpukm.sources.filed import FilesTable
from gpukm.sources.location import Files, shown
from gpukm.sources.table import arrow_file, conform, joined, numbered

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".pq")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
# A row group may be larger than memory, so its column chunks are read through a buffer each and not whole. All buffers
# together stay within one budget; a request to an object store is dear, so there the buffers are larger.
_BUFFERS_BYTES = 1 << 26
_SMALLEST_BUFFER_BYTES = 1 << 16
_LOCAL_BUFFER_BYTES = 1 << 20
_REMOTE_BUFFER_BYTES = 1 << 23


class ParquetTable(FilesTable):
    """Parquet files as one table, in the sorted order of their paths.

    Memory is bounded by the batch and a buffer and page a column, however large the row groups are.

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

        self.files = Files(location, SUFFIXES, storage_options)
        self.location = shown(location)
        self._groups: list[list[int]] = []
        self._partitions = [_partition(path[len(self.files.root) :]) for path in self.files.paths]
        first, keys = self.files.paths[0], list(self._partitions[0])
        own: pa.Schema | None = None
        for path, partition in zip(self.files.paths, self._partitions, strict=True):
            with self._file(path, 1) as file:
                schema, metadata = file.schema_arrow.remove_metadata(), file.metadata
                groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            own = schema if own is None else joined(own, schema, first, path)
            self._groups.append(groups)
            if list(partition) != keys:
                raise DataError(
                    f"{self.location}: {shown(path)} is partitioned by {', '.join(partition) or 'nothing'}, "
                    f"{shown(first)} by {', '.join(keys) or 'nothing'}; all files need the same partitions"
                )
        assert own is not None  # there is at least one file
        self._own = own
        both = [key for key in keys if key in own.names]
        if both:
            raise DataError(f"{self.location} has column {both[0]!r} in its files and as a folder; rename one of them")
        types = {key: _partition_type([p[key] for p in self._partitions]) for key in keys}
        self.schema = pa.schema([*own, *(pa.field(key, type_) for key, type_ in types.items())])
        self.counted([sum(groups) for groups in self._groups])
        if self.n_rows == 0:
            raise DataError(f"{self.location} has no rows; expected at least one")

    def borders(self) -> Sequence[int]:
        """First rows of row groups."""
        firsts = list(accumulate((n for groups in self._groups for n in groups), initial=self.first))
        return sorted({*firsts} - {firsts[0], firsts[-1]})

    def _of(self, kept: Sequence[int], first: int) -> Self:
        table = super()._of(kept, first)
        table._groups = [self._groups[i] for i in kept]
        table._partitions = [self._partitions[i] for i in kept]
        return table

    def _of_file(
        self, i: int, first: int, columns: list[str], rows: int, start: int, stop: int | None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Row groups piecewise, from the one that holds row ``start``."""
        import pyarrow as pa

        path, partition = self.files.paths[i], self._partitions[i]
        # If only partition columns are wanted, something has to tell the rows: the file's first column.
        own = [name for name in columns if name not in partition] or self._own.names[:1]
        schema = pa.schema([self.schema.field(name) for name in columns])
        with self._file(path, len(own)) as file:
            if file.metadata.num_rows != self.counts[i]:
                raise DataError(
                    f"{shown(path)} has {file.metadata.num_rows} rows now and had {self.counts[i]} when it was opened; "
                    "train on a copy that nobody writes to"
                )
            groups: list[int] = []
            at = begin = first
            for group in range(file.metadata.num_row_groups):
                n = file.metadata.row_group(group).num_rows
                if (stop is None or at < stop) and at + n > start and n:
                    begin = begin if groups else at
                    groups.append(group)
                at += n
            pieces = file.iter_batches(batch_size=rows, row_groups=groups, columns=own, use_threads=False)
            for number, batch in numbered(pieces, begin):
                arrays = [
                    _constant(partition[field.name], field.type, batch.num_rows)
                    if field.name in partition
                    else conform(batch.column(field.name), field.type)
                    for field in schema
                ]
                yield number, pa.record_batch(arrays, schema=schema)

    @contextmanager
    def _file(self, path: str, n_columns: int) -> Iterator[Any]:
        """An open Parquet file, to read some columns of."""
        import pyarrow.parquet as pq

        largest = _LOCAL_BUFFER_BYTES if self.files.local else _REMOTE_BUFFER_BYTES
        buffer = max(_SMALLEST_BUFFER_BYTES, min(largest, _BUFFERS_BYTES // n_columns))
        # Columns are read in turns, each from its own place: a cache that reads on from the last place is in the way.
        options = {} if self.files.local else {"cache_type": "none"}
        with (
            arrow_file(self.files, path, "Parquet", **options) as handle,
            pq.ParquetFile(handle, buffer_size=buffer, pre_buffer=False) as file,
        ):
            yield file


def _partition(path: str) -> dict[str, str]:
    """``key=value`` folders of a path."""
    parts = [part.split("=", 1) for part in path.split("/")[:-1] if "=" in part]
    return {unquote(key): unquote(value) for key, value in parts}


def _partition_type(values: list[str]) -> pa.DataType:
    """int64 where every value is an integer, else text."""
    import pyarrow as pa

    def integer(value: str) -> bool:
        digits = value.removeprefix("-")
        return digits.isascii() and digits.isdecimal() and abs(int(value)) < 2**63

    return pa.int64() if all(integer(v) or v == _HIVE_NULL for v in values) else pa.string()


def _constant(value: str, type_: pa.DataType, n: int) -> pa.Array:
    """A column of one partition value."""
    import pyarrow as pa

    if value == _HIVE_NULL:
        return pa.nulls(n, type_)
    return pa.repeat(pa.scalar(int(value) if pa.types.is_integer(type_) else value, type_), n)
