"""Arrow IPC: files, streams and Feather (version 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gpukm.errors import DataError
from gpukm.sources.location import Files, shown
from gpukm.sources.table import Table, cut, numbered

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".arrow", ".feather", ".ipc", ".arrows")


class ArrowTable(Table):
    """Arrow IPC files as one table, in the sorted order of their paths.

    Parameters
    ----------
    location : str
        A file, folder, glob or URL.
    storage_options : mapping or None
    """

    def __init__(self, location: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.files = Files(location, SUFFIXES, storage_options)
        self.location = shown(location)
        schema: pa.Schema | None = None
        for path in self.files.paths:
            with self._reader(path) as reader:
                found = reader.schema.remove_metadata()
            if schema is not None and not found.equals(schema):
                raise DataError(f"{self.location}: the columns of {path} differ from those of {self.files.paths[0]}")
            schema = found
        if schema is None:
            raise DataError(f"{self.location} holds no Arrow file")
        self.schema = schema
        # Neither kind of file tells its rows without reading every batch's header.
        self.n_rows: int | None = None

    def record_batches(
        self, columns: Sequence[str], rows: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Record batches as they were written, cut to size."""
        yield from cut(numbered(self._all(list(columns)), 0), rows, start, stop)

    def _all(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Every batch of every file."""
        for path in self.files.paths:
            with self._reader(path) as reader:
                if hasattr(reader, "num_record_batches"):
                    for i in range(reader.num_record_batches):
                        yield reader.get_batch(i).select(columns)
                else:
                    for batch in reader:
                        yield batch.select(columns)

    @contextmanager
    def _reader(self, path: str) -> Iterator[Any]:
        """A reader of either kind; what goes wrong becomes a DataError."""
        import pyarrow as pa

        try:
            with self.files.open(path) as handle:
                magic = handle.read(6)
                handle.seek(0)
                is_file = magic == b"ARROW1"
                with pa.ipc.open_file(handle) if is_file else pa.ipc.open_stream(handle) as reader:
                    yield reader
        except (pa.ArrowInvalid, pa.ArrowIOError, OSError) as error:
            raise DataError(
                f"{shown(path)} is not a readable Arrow file: {str(error).splitlines()[0].rstrip('.')}; is it complete?"
            ) from None
