"""Consecutive rows of a source or table, worked on by themselves, here or on another machine."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gpukm.errors import DataError
from gpukm.executors.base import Executor, Opener, Placement
from gpukm.sources.base import Batch, Source
from gpukm.sources.faults import Fault, Unreadable
from gpukm.sources.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

#: The first row of a range, and the first one behind it; None: up to the end.
Range = tuple[int, int | None]
#: All rows, whatever their number.
WHOLE: tuple[Range, ...] = ((0, None),)


@dataclass(frozen=True)
class RowRange:
    """Opens some rows of a source or table, under the numbers that they have there.

    Pickled it holds no more than its rows need: where they are, or the rows themselves where they are in memory.

    Attributes
    ----------
    rows : Source or Table
    start : int
    stop : int or None
    """

    rows: Source | Table
    start: int = 0
    stop: int | None = None

    def open(self) -> Any:
        """A Source, or a Table, of these rows; the source itself where they are all there is."""
        if self.start == 0 and (self.stop is None or self.stop == self.rows.n_rows):
            return self.rows
        if isinstance(self.rows, Source):
            return _SourceRange(self.rows, self.start, self.stop)
        return _TableRange(self.rows, self.start, self.stop)

    def __getstate__(self) -> dict[str, Any]:
        rows = self.rows.part(self.start, self.stop)
        return {"rows": rows, "start": self.start, "stop": self.stop}


def place(executor: Executor, rows: Source | Table, ranges: Sequence[Range]) -> Placement:
    """Ranges of the rows as parts to be worked on."""
    return executor.place([RowRange(rows, start, stop) for start, stop in ranges])


def cut(rows: Source | Table, n: int, executor: Executor) -> tuple[Range, ...]:
    """Cut rows into at most ``n`` ranges, in order.

    Borders are those of row groups and files, as long as no range becomes twice as long as it should be for it, and
    they are in any case where reading cannot begin elsewhere.
    Rows of a source that does not know their number are counted first, file by file, and it knows it from then on.

    Parameters
    ----------
    rows : Source or Table
    n : int
        One is all rows, of which nothing has to be known.
    executor : Executor
        Counts.

    Raises
    ------
    DataError
        A file cannot be read.
    """
    if n <= 1:
        return WHOLE
    if rows.n_rows is None:
        count(rows, executor)
    assert rows.n_rows is not None
    n_rows = max(rows.n_rows, 1)
    n = min(n, n_rows)
    borders = rows.borders()
    cuts = [0]
    for i in range(1, n):
        wanted = n_rows * i // n
        at = bisect_left(borders, wanted)
        near = min(borders[max(at - 1, 0) : at + 1], key=lambda border: abs(border - wanted), default=wanted)
        # Half a range is as far as a cut may move.
        far = 2 * abs(near - wanted) * n > n_rows
        if rows.anywhere or borders:
            cuts.append(wanted if far and rows.anywhere else near)
    distinct = sorted(set(cuts) - {n_rows})
    return tuple(zip(distinct, [*distinct[1:], n_rows], strict=True))


def count(rows: Source | Table, executor: Executor) -> None:
    """Count the rows of a source that does not know their number, in as many pieces as it can be counted in."""
    looks = rows.looks()
    if looks:
        rows.looked([outcome.get() for outcome in _each(executor, looks, _look)])
    found = _each(executor, [RowRange(piece) for piece in rows.pieces()], _count)
    if looks and any(outcome.error is not None for outcome in found):
        # The lines of a file are numbered from its beginning, so it is read from there to say what is wrong.
        rows.looked([])
        found = _each(executor, [RowRange(piece) for piece in rows.pieces()], _count)
    # The first error in the order of the files is that of a pass from the beginning.
    rows.counted([outcome.get() for outcome in found])


def _each(executor: Executor, openers: Sequence[Opener], step: Callable[..., Any]) -> list[Outcome]:
    """What a step makes of each of some parts, in order."""
    placed = executor.place(openers)
    try:
        return placed.map(_attempted, step)
    finally:
        placed.close()


def _look(part: Any) -> Any:
    """What a part tells before it is read."""
    return part.look()


def over(
    executor: Executor,
    placed: Placement,
    step: Callable[..., Any],
    *args: Any,
    merge: Callable[[Any, Any], Any] | None = None,
) -> Any:
    """Results of ``step(rows, *args)`` for every range, merged; what ranges find wrong is merged too, and raised.

    Parameters
    ----------
    executor : Executor
    placed : Placement
        Of :class:`RowRange` or what else opens rows.
    step : callable
        Of a module, so that it can be pickled.
    *args
        Picklable; never changed by the step, which may run twice.
    merge : callable or None
        Makes one result of two, and changes neither; None calls the ``merge`` method of a copy.

    Raises
    ------
    DataError
        What a single range over all rows would have raised.
    """
    found: Outcome = executor.map_reduce(placed, _attempted, partial(_merged, merge or together), step, *args)
    return found.get()


def over_each(placed: Placement, step: Callable[..., Any], *args: Any, each: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Results of ``step(rows, *args, *each[number])`` for every range in order; errors as in :func:`over`."""
    found = placed.map(_attempted, step, *args, each=dict(enumerate(each)))
    errors = [outcome.error for outcome in found if outcome.error is not None]
    if errors:
        raise _first(errors)
    return [outcome.value for outcome in found]


def together(a: Any, b: Any) -> Any:
    """A copy of ``a`` that has taken in ``b``: a merge may run twice, so it must not change what it is given."""
    whole = deepcopy(a)
    whole.merge(b)
    return whole


@dataclass(frozen=True)
class Outcome:
    """What a step made of a range, or why it could not."""

    value: Any = None
    error: Fault | None = None

    def get(self) -> Any:
        """The value; raises the error."""
        if self.error is not None:
            raise self.error
        return self.value


def _attempted(rows: Any, step: Callable[..., Any], *args: Any) -> Outcome:
    """Run a step; what is wrong with the data is a result."""
    try:
        return Outcome(step(rows, *args))
    except Fault as error:
        return Outcome(error=error)
    except DataError as error:
        # Not of a range: all rows were read as one.
        return Outcome(error=Unreadable(str(error), 0))


def _merged(merge: Callable[[Any, Any], Any], a: Outcome, b: Outcome) -> Outcome:
    """Merge the outcomes of two ranges."""
    errors = [outcome.error for outcome in (a, b) if outcome.error is not None]
    return Outcome(error=_first(errors)) if errors else Outcome(merge(a.value, b.value))


def _first(errors: Sequence[Fault]) -> Fault:
    """One error for all."""
    whole = errors[0]
    for error in errors[1:]:
        whole = whole.merge(error)
    return whole


def _count(rows: Source | Table) -> int:
    """How many rows a piece has."""
    return rows.count()


class _SourceRange(Source):
    """Some rows of a source."""

    def __init__(self, source: Source, start: int, stop: int | None) -> None:
        self.source, self.start, self.stop = source, start, stop
        self.dtype, self.n_features, self.names = source.dtype, source.n_features, source.names
        self.n_rows = source.n_rows

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        with _reading(self.start):
            yield from self.source.batches(rows, *_within(self.start, self.stop, start, stop))


class _TableRange(Table):
    """Some rows of a table."""

    def __init__(self, table: Table, start: int, stop: int | None) -> None:
        self.table, self.start, self.stop = table, start, stop
        self.schema, self.n_rows, self.location = table.schema, table.n_rows, table.location

    def record_batches(
        self, columns: Sequence[str], rows: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        with _reading(self.start):
            yield from self.table.record_batches(columns, rows, *_within(self.start, self.stop, start, stop))


def _within(first: int, last: int | None, start: int, stop: int | None) -> Range:
    """The rows [start, stop) that are among [first, last)."""
    ends = [end for end in (last, stop) if end is not None]
    return max(first, start), min(ends) if ends else None


@contextmanager
def _reading(start: int) -> Iterator[None]:
    """Say of an error where the range begins that could not be read."""
    try:
        yield
    except Fault:
        raise
    except DataError as error:
        raise Unreadable(str(error), start) from error
