"""Stretches of a source that are opened where they are worked on, and give the same rows whenever they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gpukm.backends.base import Backend
from gpukm.core.shard import Shard
from gpukm.errors import DataError
from gpukm.executors.base import Opener
from gpukm.sources.array import ArraySource
from gpukm.sources.base import Batch, Source
from gpukm.sources.normalized import NormalizedSource
from gpukm.sources.ranges import RowRange

#: Numbers of rows whose place in the whole is not known stand this far apart from shard to shard.
_ROWS_APART = 1 << 44


@dataclass(frozen=True)
class Stretch:
    """Some consecutive rows, to be opened as a :class:`Shard`.

    Attributes
    ----------
    rows : RowRange or None
        None where the stretch is placed with a value, a Source of these rows alone.
    backend : Opener
    number : int
        Which of the shards this is.
    batch_rows : int
        Source rows read at a time, and worked on at a time where they are not held.
    follow_bytes : int
        As of :class:`Shard`.
    hold : bool
        Read the rows once and keep them.
    spherical : bool
        Scale rows to length one.
    known : str or None
        Digest of the rows, of an earlier look: rows that are others now are an error.
    """

    rows: RowRange | None
    backend: Opener
    number: int
    batch_rows: int
    follow_bytes: int = 0
    hold: bool = True
    spherical: bool = False
    known: str | None = None

    def open(self, *value: Source) -> Shard:
        """Make the shard.

        Raises
        ------
        DataError
            The rows are not those of the earlier look.
        """
        backend: Backend = self.backend.open()
        if self.rows is None:
            source, start, stop = value[0], 0, value[0].n_rows
            # What is in memory already can only gain by being held; a sparse matrix is not.
            hold = source.array() is not None
            batch_rows = max(stop or 0, 1) if hold else self.batch_rows
        else:
            # A file is not mapped: where somebody wrote to it, rows would change between two steps.
            source, start, stop, hold = self.rows.open(), self.rows.start, self.rows.stop, self.hold
            batch_rows = self.batch_rows
        checked = Checked(source, self.known)
        rows: Source = NormalizedSource(checked, backend) if self.spherical else checked
        if hold:
            held, numbers = _read(rows, start, stop, batch_rows)
            if self.rows is None:
                first = self.number * _ROWS_APART
                numbers = range(first, first + held.n_rows)
            shard = Shard(held, backend, batch_rows, number=self.number, row_numbers=numbers)
        else:
            shard = Shard(rows, backend, batch_rows, start, stop, self.follow_bytes, number=self.number)
        shard.digest = checked.hexdigest
        if self.known is not None:
            # Shards know how many rows they have from a look at them.
            shard.scan(np.zeros(source.n_features, source.dtype), spread=False)
        return shard

    def confirms(self, part: Shard) -> bool:
        """Whether it has been looked at, and has these rows."""
        return part.looked and part.digest is not None and part.digest() == self.known


class Checked(Source):
    """Another source, each pass over which has to give the same rows.

    Parameters
    ----------
    source : Source
    expected : str or None
        Digest of an earlier pass; None takes that of the first one.
    """

    def __init__(self, source: Source, expected: str | None = None) -> None:
        self._source, self._expected = source, expected
        self.dtype, self.n_features, self.names = source.dtype, source.n_features, source.names
        self.n_rows = source.n_rows

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """As of the source; DataError at the end of rows that are not those of the pass before."""
        from xxhash import xxh3_128

        # Each in a stream of its own, so that the digest is the same for any batches.
        values, weights, dropped = xxh3_128(), xxh3_128(), xxh3_128()
        for batch in self._source.batches(rows, start, stop):
            values.update(np.ascontiguousarray(batch.x).data)
            if batch.weight is not None:
                weights.update(np.ascontiguousarray(batch.weight).data)
            if batch.kept is not None and len(batch.kept) < batch.n_rows:
                gone = np.delete(np.arange(batch.n_rows), batch.kept)
                dropped.update((batch.first_row + gone).astype("<i8").data)
            yield batch
        found = xxh3_128(values.digest() + weights.digest() + dropped.digest()).hexdigest()
        if self._expected is not None and found != self._expected:
            raise DataError(
                f"rows {start} to {'the end' if stop is None else stop} are not what they were when they were first "
                "read; train on a copy that nobody writes to"
            )
        self._expected = found

    def hexdigest(self) -> str:
        """Of the rows read; they have to be read once before."""
        if self._expected is None:
            raise RuntimeError("digest of rows that were not read yet")
        return self._expected


def _read(source: Source, start: int, stop: int | None, rows: int) -> tuple[ArraySource, np.ndarray | range]:
    """Rows in memory, and their numbers."""
    d, dtype, n, n_rows = source.n_features, source.dtype, 0, 0
    # To where they stay, if it is known how many there are at most; pages that no row comes to take no memory.
    known = None if stop is None or rows >= stop - start else np.empty((stop - start, d), dtype)
    x, weights, numbers = [np.empty((0, d), dtype)], [], []
    for batch in source.batches(rows, start, stop):
        if known is None:
            x.append(batch.x)
        else:
            known[n : n + len(batch.x)] = batch.x
        weights += [] if batch.weight is None else [batch.weight]
        numbers.append(batch.row_numbers)
        n, n_rows = n + len(batch.x), n_rows + batch.n_rows
    whole = known[:n] if known is not None else x[1] if len(x) == 2 else np.concatenate(x)
    held = ArraySource(whole, weight=np.concatenate(weights) if weights else None, names=source.names)
    return held, range(start, start + n_rows) if n == n_rows or not numbers else np.concatenate(numbers)
