"""What the algorithm reads: rows of numbers, in order, as often as it likes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a source.

    Attributes
    ----------
    x : ndarray of shape (n, n_features)
        C-contiguous, in the source's ``dtype``; finite unless the source says otherwise.
    first_row : int
        Number of the first row this batch covers, counted in the source before rows are dropped.
    n_rows : int
        How many rows of the source this batch covers, before rows are dropped.
    kept : ndarray of int64 of shape (n,) or None
        Offsets from ``first_row`` of the rows in ``x``; None when all ``n_rows`` are there.
    weight : ndarray of float64 of shape (n,) or None
        Sample weights; None when every row weighs one.
    columns : pyarrow.RecordBatch or None
        The pass-through columns that were asked for, of length n.
    """

    x: np.ndarray
    first_row: int
    n_rows: int
    kept: np.ndarray | None = None
    weight: np.ndarray | None = None
    columns: pa.RecordBatch | None = None

    @property
    def row_numbers(self) -> np.ndarray:
        """Row numbers of ``x``, int64 of shape (n,)."""
        if self.kept is None:
            return np.arange(self.first_row, self.first_row + self.n_rows, dtype=np.int64)
        return self.first_row + self.kept


class Rows(ABC):
    """What can be cut into ranges of rows, each read by itself.

    Attributes
    ----------
    n_rows : int or None
        Rows before any are dropped; None while only a pass over the data can tell.
    anywhere : bool
        Whether reading may begin at any row; if not, ranges are cut at :meth:`borders` alone.
    """

    n_rows: int | None
    anywhere: bool = True

    def part(self, start: int, stop: int | None) -> Self:
        """What serves the rows [start, stop) under the same numbers, and need not serve any other.

        It is pickled in place of the whole for those who read these rows alone.
        """
        return self

    def borders(self) -> Sequence[int]:
        """First rows of row groups and files, ascending, beside row 0: where reading begins at no extra cost."""
        return ()

    def looks(self) -> list[Any]:
        """What has to be looked at before :meth:`pieces` can be made: openers of what has a method ``look``."""
        return []

    def looked(self, found: Sequence[Any]) -> None:  # noqa: B027 - most have nothing to look at
        """Learn what was found, in order; nothing at all takes back what was learnt."""

    def pieces(self) -> list[Self]:
        """What the rows are counted in, in order: each piece knows its rows' number or is counted by reading it."""
        return [self]

    @abstractmethod
    def count(self) -> int:
        """How many rows there are; reads them where they are not known."""

    def counted(self, counts: Sequence[int]) -> None:
        """Learn how many rows the :meth:`pieces` have."""
        self.n_rows = sum(counts)


class Source(Rows):
    """Rows of one numeric matrix, re-iterable, picklable by location and not by content.

    Attributes
    ----------
    dtype : numpy.dtype
        The working dtype of the rows it yields, float32 or float64.
    n_features : int
    names : tuple of str or None
        Feature names, in column order.
    stored : str or None
        The type that rows lie in on a device, for those that do.
    """

    dtype: np.dtype
    n_features: int
    names: tuple[str, ...] | None
    stored: str | None = None

    @abstractmethod
    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Yield batches that cover ``[start, stop)`` in order, each of at most ``rows`` source rows.

        A batch may be empty (``x`` of shape (0, n_features)) when all its rows were dropped.
        """

    def count(self) -> int:
        return sum(batch.n_rows for batch in self.batches(1 << 16)) if self.n_rows is None else self.n_rows

    def array(self) -> np.ndarray | None:
        """The whole matrix if it already lies in memory and no row is dropped, else None."""
        return None

    def placed(self) -> Any:
        """The whole matrix as an array of a GPU library, where it lies on the device of the fit already, else None."""
        return None

    def weights(self) -> np.ndarray | None:
        """All sample weights beside :meth:`array` or :meth:`placed`; None when every row weighs one."""
        return None
