"""CSV with a header line, plain or compressed: types are settled once, from the beginning of the data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from gpukm.errors import DataError
from gpukm.sources import csv_pieces
from gpukm.sources.csv_pieces import Chunk, Look, Piece, pieces_of
from gpukm.sources.filed import FilesTable
from gpukm.sources.location import Files, shown
from gpukm.sources.table import arrow_file, numbered

if TYPE_CHECKING:
    import pyarrow as pa

_COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
SUFFIXES = tuple(kind + packed for kind in (".csv", ".tsv") for packed in ("", *_COMPRESSED))
_BLOCK_BYTES = 1 << 22
#: As much of the data is looked through to settle the types.
_SETTLE_BYTES = 1 << 28
_WHOLE = Piece()


class CsvTable(FilesTable):
    """CSV (or tab-separated) files as one table, in the sorted order of their paths.

    Reading begins at the beginning of a file or, where rows were counted, of one of the pieces they were counted in.

    A column has one type throughout: the narrowest of whole numbers, numbers, booleans, times and text that holds all
    its values in the first 256 MB. What does not fit it later is an error that names the column. Empty fields are
    missing values; a column of nothing else counts as numbers.

    Parameters
    ----------
    location : str
        A file, folder, glob or URL.
    storage_options : mapping or None

    Raises
    ------
    DataError
        Nothing is there, there is no header line, or lines differ in their number of fields.
    """

    anywhere = False

    def __init__(self, location: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.files = Files(location, SUFFIXES, storage_options)
        self.location = shown(location)
        self.counts, self._pieces = [None] * len(self.files.paths), [Piece()] * len(self.files.paths)
        self.n_rows = None
        with self._reader(self.files.paths[0], {}) as reader:
            names = reader.schema.names
        if all(_is_number(name) for name in names):
            raise DataError(
                f"{self.location} has no header line: its first line is {', '.join(names[:4])}; "
                "put the names of the columns there"
            )
        self.schema = self._settle()
        if self.n_rows == 0:
            raise DataError(f"{self.location} has a header line and no rows; expected at least one")

    def looks(self) -> list[Chunk]:
        """Chunks of the files that are long enough to be cut; what is compressed has no other entrance."""
        found = []
        for path in self.files.paths:
            delimiter, packed = _kind(path)
            size = None if packed else self.files.size_bytes(path)
            if size is not None and size >= 2 * csv_pieces.CHUNK_BYTES:
                begins = range(0, size - csv_pieces.CHUNK_BYTES // 2, csv_pieces.CHUNK_BYTES)
                ends = [*begins[1:], size]
                files = self.files.only([path])
                found += [Chunk(files, path, a, b, delimiter.encode()) for a, b in zip(begins, ends, strict=True)]
        return found

    def looked(self, found: Sequence[Look]) -> None:
        """Cut the files into pieces."""
        looks: dict[str, list[tuple[Chunk, Look]]] = {}
        chunks = self.looks() if found else []
        for pair in zip(chunks, found, strict=True):
            looks.setdefault(pair[0].path, []).append(pair)
        paths, pieces = [], []
        for path in dict.fromkeys(self.files.paths):
            here = [Piece()]
            if path in looks:
                with self._reader(path, {}) as reader:
                    names = tuple(reader.schema.names)
                here = pieces_of([chunk for chunk, _ in looks[path]], [look for _, look in looks[path]], names)
            paths += [path] * len(here)
            pieces += here
        self.files, self._pieces, self.counts = self.files.only(paths), pieces, [None] * len(paths)

    def counted(self, counts: Sequence[int]) -> None:
        super().counted(counts)
        for i, piece in enumerate(self._pieces):
            if piece.begin:
                self._pieces[i] = replace(piece, line=self._pieces[i - 1].line + counts[i - 1])

    def _of_file(
        self, i: int, first: int, columns: list[str], rows: int, start: int, stop: int | None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Every block of a file, or of a piece of one: it has no other entrance than its beginning."""
        types = {name: self.schema.field(name).type for name in columns}
        with self._reader(self.files.paths[i], types, columns, self._pieces[i]) as reader:
            yield from numbered(reader, first)

    def _of(self, kept: Sequence[int], first: int) -> Self:
        table = super()._of(kept, first)
        table._pieces = [self._pieces[i] for i in kept]
        return table

    def _settle(self) -> pa.Schema:
        """Types that hold all values of the first blocks; the number of rows too, if that is all there is."""
        import pyarrow as pa

        types: dict[str, pa.DataType] = {}
        while True:
            seen, counts = 0, [0] * len(self.files.paths)
            fields: list[pa.Field] = []
            try:
                for i, path in enumerate(self.files.paths):
                    with self._reader(path, types) as reader:
                        fields = fields or list(reader.schema)
                        for batch in reader:
                            seen += batch.nbytes
                            counts[i] += batch.num_rows
                            if seen >= _SETTLE_BYTES:
                                break
                    if seen >= _SETTLE_BYTES:
                        break
                    # The next files' first blocks must not settle types of their own.
                    types = {field.name: _wide(field.type) for field in fields} | types
                else:
                    self.counted(counts)
                return pa.schema([pa.field(f.name, types.get(f.name, _wide(f.type))) for f in fields])
            except _DoesNotFit as error:
                field = next((f for f in fields if f.name == error.column), None)
                if field is None:
                    raise DataError(str(error)) from None
                types[field.name] = _wider(types.get(field.name, field.type))
                if types[field.name] is None:
                    raise DataError(str(error)) from None

    @contextmanager
    def _reader(
        self, path: str, types: Mapping[str, Any], columns: list[str] | None = None, piece: Piece = _WHOLE
    ) -> Iterator[Any]:
        """A streaming reader of the named columns, or all; what goes wrong becomes a DataError."""
        import pyarrow as pa
        import pyarrow.csv as csv

        delimiter, packed = _kind(path)
        convert = csv.ConvertOptions(column_types=dict(types), include_columns=columns, strings_can_be_null=True)
        parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        read = csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False, column_names=piece.names)
        try:
            with arrow_file(self.files, path, "CSV") as handle:
                source = pa.CompressedInputStream(handle, packed) if packed else handle
                if piece.end is not None:
                    source = handle.get_stream(piece.begin, piece.end - piece.begin)
                with csv.open_csv(source, read_options=read, parse_options=parse, convert_options=convert) as reader:
                    yield reader
        except DataError as error:
            found = re.search(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to (.*)", str(error))
            if found is None:
                raise
            raise self._not_fitting(path, columns, found, piece) from None

    def _not_fitting(self, path: str, columns: list[str] | None, found: re.Match[str], piece: Piece) -> _DoesNotFit:
        """The error for a value that its column's type does not hold."""
        with self._reader(path, {}) as reader:
            names = reader.schema.names
        number = int(found[1])
        column = names[number] if number < len(names) else f"number {number}"
        # Lines are counted from the header, which pieces but the first do not have.
        before = piece.line + 1 if piece.begin else 0
        line = f", line {before + int(found[2])}" if found[2] else ""
        what = found[3].split("; is it")[0]
        settled = "" if columns is None else f" ({_SETTLE_BYTES >> 20} MB at the beginning settled the type)"
        return _DoesNotFit(
            f"{shown(path)}: column {column!r}{line} is not {what}{settled}; correct the value, or store the data as "
            "Parquet",
            column,
        )


def _kind(path: str) -> tuple[str, str | None]:
    """Delimiter of a file, and how it is compressed."""
    stem, packed = path.lower(), None
    for ending, name in _COMPRESSED.items():
        if stem.endswith(ending):
            stem, packed = stem.removesuffix(ending), name
    return "\t" if stem.endswith(".tsv") else ",", packed


class _DoesNotFit(DataError):
    """A value that its column's type does not hold."""

    def __init__(self, message: str, column: str) -> None:
        super().__init__(message)
        self.column = column


def _wide(type_: pa.DataType) -> pa.DataType:
    """The type of a column, numbers where all values are missing."""
    import pyarrow as pa

    return pa.float64() if pa.types.is_null(type_) else type_


def _wider(type_: pa.DataType) -> pa.DataType | None:
    """The next type that holds more; None after text."""
    import pyarrow as pa

    if pa.types.is_string(type_):
        return None
    return pa.float64() if pa.types.is_integer(type_) or pa.types.is_null(type_) else pa.string()


def _is_number(text: str) -> bool:
    """Whether a name would be a value."""
    try:
        float(text)
    except ValueError:
        return False
    return True
