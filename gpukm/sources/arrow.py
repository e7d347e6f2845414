"""Arrow IPC: files, streams and Feather (version 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gpukm.errors import DataError
from gpukm.sources.filed import FilesTable
from gpukm.sources.location import Files, shown
from gpukm.sources.table import arrow_file, conform, joined, numbered

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".arrow", ".feather", ".ipc", ".arrows")
# A file of larger batches than this is mapped, so that a batch need not be in memory to be cut. Others are read: the
# pages of a map count as memory used for as long as the system likes.
_LARGEST_BATCH_BYTES = 1 << 26


class ArrowTable(FilesTable):
    """Arrow IPC files as one table, in the sorted order of their paths.

    A compressed record batch is decoded whole, so memory is bounded by the batches that were written.

    Parameters
    ----------
    location : str
        A file, folder, glob or URL.
    storage_options : mapping or None

    Raises
    ------
    DataError
        Nothing is there, a file is not readable, or the files' columns differ.
    """

    def __init__(self, location: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.files = Files(location, SUFFIXES, storage_options)
        self.location = shown(location)
        schema: pa.Schema | None = None
        counts: list[int | None] = []
        for path in self.files.paths:
            with self._reader(path) as reader:
                found = reader.schema.remove_metadata()
                counts.append(_count(reader))
            schema = found if schema is None else joined(schema, found, self.files.paths[0], path)
        assert schema is not None  # there is at least one file
        self.schema = schema
        self.counts, self.anywhere = counts, None not in counts
        #: A stream does not tell its rows, a file does.
        self.n_rows: int | None = None if None in counts else sum(n for n in counts if n is not None)
        if self.n_rows == 0:
            raise DataError(f"{self.location} has no rows; expected at least one")

    def _of_file(
        self, i: int, first: int, columns: list[str], rows: int, start: int, stop: int | None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Record batches as they were written, from the one that holds row ``start``."""
        import pyarrow as pa

        path, schema = self.files.paths[i], pa.schema([self.schema.field(name) for name in columns])
        skipped, first = self._before(path, first, start) if start > first else (0, first)
        with self._reader(path, columns) as reader:
            for number, batch in numbered(_batches(reader, skipped), first):
                arrays = [conform(batch.column(field.name), field.type) for field in schema]
                yield number, pa.record_batch(arrays, schema=schema)

    def _before(self, path: str, first: int, start: int) -> tuple[int, int]:
        """How many batches of a file end before row ``start``, and the number of the first row behind them."""
        # One column tells the rows of a batch; a stream has no other entrance than its beginning.
        with self._reader(path, self.schema.names[:1]) as reader:
            for i in range(getattr(reader, "num_record_batches", 0)):
                n = reader.get_batch(i).num_rows
                if first + n > start:
                    return i, first
                first += n
            return getattr(reader, "num_record_batches", 0), first

    @contextmanager
    def _reader(self, path: str, columns: list[str] | None = None) -> Iterator[Any]:
        """A reader of either kind that decodes the named columns, or all."""
        import pyarrow as pa

        with arrow_file(self.files, path, "Arrow") as handle:
            is_file = handle.read(6) == b"ARROW1"
            handle.seek(0)
            open_ = pa.ipc.open_file if is_file else pa.ipc.open_stream
            with open_(handle) as reader:
                names = reader.schema.names
                n_batches = reader.num_record_batches if is_file else 1
            handle.seek(0)
            wanted = None if columns is None else sorted(names.index(name) for name in columns)
            options = pa.ipc.IpcReadOptions(included_fields=wanted, use_threads=False)
            if is_file and self.files.local and handle.size() > _LARGEST_BATCH_BYTES * max(1, n_batches):
                with pa.memory_map(path) as mapped, pa.ipc.open_file(mapped, options=options) as reader:
                    yield reader
            else:
                with open_(handle, options=options) as reader:
                    yield reader


def _batches(reader: Any, skipped: int) -> Iterator[pa.RecordBatch]:
    """The batches of a file's or a stream's reader, in order, without the first few of a file."""
    if hasattr(reader, "num_record_batches"):
        return (reader.get_batch(i) for i in range(skipped, reader.num_record_batches))
    return iter(reader)


def _count(reader: Any) -> int | None:
    """Rows of a file; None for a stream, and where this version of pyarrow cannot count without reading."""
    return int(reader.count_rows()) if hasattr(reader, "count_rows") else None
