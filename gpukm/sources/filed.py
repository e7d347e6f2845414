"""Tables that are files one after another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import accumulate
from typing import TYPE_CHECKING, Self

from gpukm.errors import DataError
from gpukm.sources.location import Files, shown
from gpukm.sources.table import Table, check_columns, cut

if TYPE_CHECKING:
    import pyarrow as pa


class FilesTable(Table):
    """Files as one table, in the sorted order of their paths; a row's number counts the rows of the files before.

    Attributes
    ----------
    files : Files
    counts : list of int or None
        Rows of each file; None while only reading it can tell.
    first : int
        Number of the first row.
    """

    files: Files
    counts: list[int | None]
    first: int = 0

    def record_batches(
        self, columns: Sequence[str], rows: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Files one after another; those whose rows are known and not wanted are not opened."""
        check_columns(self.schema, columns, self.location)
        at = self.first
        for i, n in enumerate(self.counts):
            if stop is not None and stop <= max(at, start):
                return
            if n is not None and at + n <= start:
                at += n
                continue
            end = at
            for number, batch in self._of_file(i, at, list(columns), rows, start, stop):
                end = number + batch.num_rows
                yield from cut([(number, batch)], rows, start, stop)
                if stop is not None and end >= stop:
                    return
            if n is not None and end != at + n:
                raise DataError(
                    f"{shown(self.files.paths[i])} has {end - at} rows now and had {n} when they were counted; "
                    "train on a copy that nobody writes to"
                )
            at = end

    def part(self, start: int, stop: int | None) -> Self:
        """The files that hold these rows, where it is known which they are."""
        if self.n_rows is None:
            return self
        firsts = self._firsts()
        kept = [i for i in range(len(self.counts)) if firsts[i + 1] > start and (stop is None or firsts[i] < stop)]
        return self._of(kept[:1] and range(kept[0], kept[-1] + 1), firsts[kept[0]] if kept else start)

    def borders(self) -> Sequence[int]:
        """First rows of files."""
        return [] if None in self.counts else self._firsts()[1:-1]

    def pieces(self) -> list[Self]:
        """Every file by itself."""
        found = [self._of([i], 0) for i in range(len(self.counts))]
        for piece in found:
            piece.n_rows = piece.counts[0]
        return found

    def counted(self, counts: Sequence[int]) -> None:
        self.counts = list(counts)
        self.n_rows = sum(counts)

    @abstractmethod
    def _of_file(
        self, i: int, first: int, columns: list[str], rows: int, start: int, stop: int | None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches of a file, whose rows begin at number ``first``, to its end; any before row ``start`` may be left
        out, and what is behind ``stop`` will not be asked for.
        """

    def _firsts(self) -> list[int]:
        """Number of the first row of each file, and of the one behind the last."""
        return list(accumulate((n or 0 for n in self.counts), initial=self.first))

    def _of(self, kept: Sequence[int], first: int) -> Self:
        """Some of the files, whose rows begin at number ``first``."""
        table = copy(self)
        table.files = self.files.only([self.files.paths[i] for i in kept])
        table.counts, table.first = [self.counts[i] for i in kept], first
        return table
