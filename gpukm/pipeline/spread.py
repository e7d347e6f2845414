"""Where passes over the data run, and in which ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpukm.executors import Executor, LocalExecutor, Placement
from gpukm.pipeline.progress import Progress
from gpukm.sources.base import Source
from gpukm.sources.ranges import WHOLE, Range, RowRange, count, cut

if TYPE_CHECKING:
    from gpukm.executors.base import Opener
    from gpukm.sources.table import Table

#: A range that is worked on elsewhere has about so many bytes of columns: small enough to be read again by another
#: worker when one is lost, and large enough for tasks to cost little beside it.
RANGE_BYTES = 32 << 20
_MOST_RANGES = 10_000
#: Of a value whose type does not tell, such as text.
_VALUE_BYTES = 16


@dataclass(frozen=True)
class Spread:
    """An executor and the ranges it works on; the same ranges in every pass, of raw rows and of prepared ones.

    Attributes
    ----------
    executor : Executor
    ranges : tuple of (int, int or None)
    """

    executor: Executor
    ranges: tuple[Range, ...] = WHOLE

    @classmethod
    def of(cls, raw: Source | Table, executor: Executor | None, n_ranges: int | None = None) -> Spread:
        """Cut the data: in one range where work is done here, elsewhere by size, unless a number is given.

        Raises
        ------
        DataError
            Rows have to be counted for it, and a file cannot be read.
        """
        executor = executor or LocalExecutor()
        if n_ranges is None and not isinstance(executor, LocalExecutor):
            if raw.n_rows is None:
                count(raw, executor)
            size = (raw.n_rows or 0) * _row_bytes(raw)
            # Where there is little, still something for every worker, of a megabyte at least.
            n_ranges = min(max(-(-size // RANGE_BYTES), min(executor.width(), size >> 20)), _MOST_RANGES)
        return cls(executor, cut(raw, n_ranges or 1, executor))

    @property
    def here(self) -> bool:
        """Whether steps run in this process, and may use what they are given as it is."""
        return isinstance(self.executor, LocalExecutor)

    @contextmanager
    def placed(self, rows: Source | Table, opened: Callable[[RowRange], Opener] | None = None) -> Iterator[Placement]:
        """The ranges of some rows, for one or more passes; ``opened`` makes an opener of more than rows."""
        parts: list[RowRange] = [RowRange(rows, start, stop) for start, stop in self.ranges]
        placed = self.executor.place(parts if opened is None else [opened(part) for part in parts])
        try:
            yield placed
        finally:
            placed.close()

    def told(self, progress: Progress) -> Progress:
        """What steps report to: elsewhere nobody listens."""
        return progress if self.here else Progress()


#: Everything at once, in this process.
HERE = Spread(LocalExecutor())


def _row_bytes(rows: Source | Table) -> int:
    """About how many bytes a row's columns have in memory."""
    if isinstance(rows, Source):
        return rows.n_features * rows.dtype.itemsize
    return sum(_value_bytes(field.type) for field in rows.schema)


def _value_bytes(type_: Any) -> int:
    """About how many bytes a value has."""
    size = getattr(type_, "list_size", None)
    if size is not None:
        return int(size) * _value_bytes(type_.value_type)
    try:
        return int(-(-type_.bit_width // 8))
    except ValueError:
        return _VALUE_BYTES
