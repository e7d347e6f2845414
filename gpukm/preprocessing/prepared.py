"""Rows as the algorithm reads them: raw rows checked, transformed and rounded, batch by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING

import numpy as np

from gpukm.preprocessing.checks import Checks
from gpukm.preprocessing.columns import place, rejoin
from gpukm.preprocessing.reading import Block, Reader, codes, distinct
from gpukm.sources.base import Batch, Source
from gpukm.sources.faults import Fault, Unusable

if TYPE_CHECKING:
    from gpukm.preprocessing.fitted import Fitted
    from gpukm.sources.table import Table


def doubts(unknown: Mapping[str, int]) -> tuple[str, ...]:
    """What is doubtful of rows with categories, counted by column, that training has not seen."""
    return tuple(
        f"{count} rows have a category in column {name!r} that training has not seen; they count as none of them"
        for name, count in sorted(unknown.items())
        if count
    )


class PreparedSource(Source):
    """Raw data seen through a fitted preprocessing.

    Where there is nothing to do (no steps, no missing values, the type is right), batches are views of the raw rows.

    Parameters
    ----------
    raw : Source or Table
    fitted : Fitted
    weight_column : str or None
        Column of sample weights; a matrix's own weights are handed through without it.
    pass_columns : sequence of str
        Columns of a table that each batch carries along.
    check : bool
        Check every value while reading. A bad one raises DataError once the range has been read to its end, so that
        the message can tell how many there are.

    Attributes
    ----------
    warnings : tuple of str
        What the latest :meth:`batches` found doubtful so far.

    Raises
    ------
    DataError
        The columns are not those of the training: which, and how.
    """

    def __init__(
        self,
        raw: Source | Table,
        fitted: Fitted,
        *,
        weight_column: str | None = None,
        pass_columns: Sequence[str] = (),
        check: bool = True,
    ) -> None:
        self.raw, self.fitted, self.check = raw, fitted, check
        self._reader = Reader(raw, rejoin(raw, fitted.columns), weight_column, pass_columns)
        self._categories = tuple(c for c in fitted.columns if c.role == "category")
        self.dtype, self.names = fitted.dtype, fitted.feature_names
        self.n_features, self.n_rows = len(self.names), raw.n_rows
        self.unknown: Counter[str] = Counter()

    @property
    def warnings(self) -> tuple[str, ...]:
        return doubts(self.unknown)

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        unknown: Counter[str] = Counter()
        self.unknown = unknown
        fault: Fault | None = None
        for block in Checks(self._reader, self.fitted.spec.null_policy, self.check).blocks(rows, start, stop):
            if fault is not None:
                continue
            found = [codes(v, c) for v, c in zip(block.values, self._categories, strict=True)]
            for column, code in zip(self._categories, found, strict=True):
                unknown[column.name] += int(np.count_nonzero(code == -2))
            fault = self._unknown(block, found)
            try:
                x = self.fitted.transform(block.x, found, block.row, self.check)
            except Unusable as error:
                fault = error if fault is None else fault.merge(error)
            if fault is None:
                yield Batch(x, block.first_row, block.n_rows, block.kept, block.weight, block.columns)
            elif not self.check:
                raise fault
        # What checks find in later rows has been said by now.
        if fault is not None:
            raise fault

    def part(self, start: int, stop: int | None) -> PreparedSource:
        part = copy(self)
        part.raw = self.raw.part(start, stop)
        part._reader = self._reader.of(part.raw)
        return part

    def borders(self) -> Sequence[int]:
        return self.raw.borders()

    def array(self) -> np.ndarray | None:
        """The raw matrix itself if nothing is to be done to it, else None."""
        x = self.raw.array() if isinstance(self.raw, Source) else None
        if x is None or not (self._reader.whole and self.fitted.is_identity and x.dtype == self.dtype):
            return None
        if self._reader.weight_column is not None or (self.check and not np.isfinite(x).all()):
            return None
        return x

    def weights(self) -> np.ndarray | None:
        """The raw matrix's weights, beside :meth:`array`."""
        return self.raw.weights() if isinstance(self.raw, Source) and self._reader.weight_column is None else None

    def _unknown(self, block: Block, found: Sequence[np.ndarray]) -> Fault | None:
        """What is wrong with the first unknown category, where there must be none."""
        if self.fitted.spec.unknown_category != "error":
            return None
        fault: Fault | None = None
        for column, values, code in zip(self._categories, block.values, found, strict=True):
            i = int(np.argmax(code == -2)) if len(code) else 0
            if not len(code) or code[i] != -2:
                continue
            known, at = distinct(values)
            error = Unusable(
                f"{place(self.raw)} has {known[at[i]]!r} in row {block.row(i)}, column {column.name!r}, "
                "a category that training has not seen; train again, or with unknown_category='zeros'",
                block.row(i),
            )
            fault = error if fault is None else fault.merge(error)
        return fault
