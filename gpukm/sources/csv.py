"""CSV with a header line: types are taken from the first block and must hold for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gpukm.errors import DataError
from gpukm.sources.location import Files, shown
from gpukm.sources.table import Table, cut, numbered

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".tsv")
_BLOCK_BYTES = 1 << 22


class CsvTable(Table):
    """CSV (or tab-separated) files as one table, in the sorted order of their paths.

    Integers are read as float64, so that a column whose first block happens to hold whole numbers has one type
    throughout; empty fields are missing values.

    Parameters
    ----------
    location : str
        A file, folder, glob or URL.
    storage_options : mapping or None
    """

    def __init__(self, location: str, storage_options: Mapping[str, Any] | None = None) -> None:
        import pyarrow as pa

        self.files = Files(location, SUFFIXES, storage_options)
        self.location = shown(location)
        with self._reader(self.files.paths[0], None) as reader:
            found = reader.schema
        wide = {f.name: pa.float64() for f in found if pa.types.is_integer(f.type) or pa.types.is_null(f.type)}
        self.schema = pa.schema([pa.field(f.name, wide.get(f.name, f.type)) for f in found])
        self.n_rows: int | None = None

    def record_batches(
        self, columns: Sequence[str], rows: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Read from the top; a CSV file has no other entrance."""
        yield from cut(numbered(self._all(list(columns)), 0), rows, start, stop)

    def _all(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Every block of every file."""
        for path in self.files.paths:
            with self._reader(path, columns) as reader:
                yield from reader

    @contextmanager
    def _reader(self, path: str, columns: list[str] | None) -> Iterator[Any]:
        """A streaming reader; what goes wrong becomes a DataError."""
        import pyarrow as pa
        import pyarrow.csv as csv

        types = None if columns is None else {name: self.schema.field(name).type for name in columns}
        # An empty text and a missing one are different things only where a column is text.
        convert = csv.ConvertOptions(column_types=types, include_columns=columns, strings_can_be_null=True)
        parse = csv.ParseOptions(delimiter="\t" if path.lower().endswith(".tsv") else ",")
        try:
            with self.files.open(path) as handle:
                read = csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False)
                with csv.open_csv(handle, read_options=read, parse_options=parse, convert_options=convert) as reader:
                    yield reader
        except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
            raise DataError(f"{shown(path)} cannot be read as CSV: {str(error).splitlines()[0]}") from None
