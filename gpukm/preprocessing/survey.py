"""The first pass of fitting: what every value of the data is to the steps that follow, and whether it can be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpukm.core.exact import UNIT_EXPONENT, exact_sum_by
from gpukm.errors import DataError
from gpukm.preprocessing.checks import Checks
from gpukm.preprocessing.columns import Column, read_dtype
from gpukm.preprocessing.fitted import Fitted
from gpukm.preprocessing.reading import Block, Reader, distinct
from gpukm.preprocessing.spec import NullPolicy, Preprocessing
from gpukm.preprocessing.steps import RowNumber
from gpukm.preprocessing.sums import LARGEST, ColumnSums, products
from gpukm.sources.faults import Unusable

if TYPE_CHECKING:
    from gpukm.sources.base import Source
    from gpukm.sources.table import Table

#: Categories a one-hot column may have.
MOST_CATEGORIES = 10_000
_UNIT_ONE = 1 << -UNIT_EXPONENT


def look(
    rows: Source | Table, columns: Sequence[Column], spec: Preprocessing, weight_column: str | None, batch_rows: int
) -> Survey:
    """Check every row of a range, and survey them.

    Raises
    ------
    DataError
        Values or weights cannot be used; with the count and the first place.
    """
    survey = Survey(columns, spec.null_policy)
    checks = Checks(Reader(rows, columns, weight_column, ()), spec.null_policy)
    fault: Unusable | None = None
    for block in checks.blocks(batch_rows):
        # What checks find is said first, so they see all rows.
        if fault is None:
            try:
                survey.add(block)
            except Unusable as error:
                fault = error
    if fault is not None:
        raise fault
    survey.n_dropped = checks.n_dropped
    return survey


class Survey:
    """Ranges, means of what is there, categories and their weights; a commutative monoid under :meth:`merge`."""

    def __init__(self, columns: Sequence[Column], policy: NullPolicy) -> None:
        self.n_rows = self.n_kept = self.n_dropped = 0
        self._numeric = tuple(c for c in columns if c.role != "category")
        self._one_hot = tuple(c for c in columns if c.role == "category")
        self._features = tuple(name for c in self._numeric for name in c.features)
        m = len(self._features)
        self._minimum, self._maximum = np.full(m, np.inf), np.full(m, -np.inf)
        self._fills = policy == "mean"
        self._sums, self._weights = ColumnSums(m), ColumnSums(m)
        self._categories: list[dict[Any, int]] = [{} for _ in self._one_hot]

    def add(self, block: Block) -> None:
        """Look at a block; rows of weight 0 do not count."""
        self.n_rows += block.n_rows
        if block.weight is not None and not block.weight.all():
            block = block.select(block.weight > 0)
        self.n_kept += len(block.x)
        if not len(block.x):
            return
        np.fmin(self._minimum, np.fmin.reduce(block.x, axis=0) + 0.0, out=self._minimum)
        np.fmax(self._maximum, np.fmax.reduce(block.x, axis=0) + 0.0, out=self._maximum)
        if self._fills:
            self._add_means(block)
        for counts, values in zip(self._categories, block.values, strict=True):
            _add_categories(counts, values, block.weight)

    def merge(self, other: Survey) -> None:
        """Take in the survey of another part."""
        self.n_rows += other.n_rows
        self.n_kept += other.n_kept
        self.n_dropped += other.n_dropped
        np.fmin(self._minimum, other._minimum, out=self._minimum)
        np.fmax(self._maximum, other._maximum, out=self._maximum)
        self._sums.merge(other._sums)
        self._weights.merge(other._weights)
        for mine, theirs in zip(self._categories, other._categories, strict=True):
            _increase(mine, theirs)

    def fitted(self, spec: Preprocessing, where: str) -> Fitted:
        """A preprocessing without steps, for data that is called ``where``."""
        for column, counts in zip(self._one_hot, self._categories, strict=True):
            if len(counts) > MOST_CATEGORIES:
                raise DataError(
                    f"column {column.name!r} has more than {MOST_CATEGORIES} different values, too many for one-hot; "
                    "leave it out or group its values"
                )
        if not self.n_rows and not self.n_dropped:
            raise DataError(f"{where} has no rows; expected at least one")
        if not self.n_kept:
            if self.n_dropped == self.n_rows:
                raise DataError(f"all {self.n_rows} rows of {where} miss a value and are dropped; use null policy mean")
            raise DataError(f"all weights of {where} are 0; expected some above 0")
        start, columns = 0, []
        for column in self._numeric:
            low, high = self._minimum[start : start + column.size], self._maximum[start : start + column.size]
            start += column.size
            if np.isinf(low).any():
                raise DataError(f"column {column.name!r} of {where} has no values at all; leave it out")
            columns.append(replace(column, minimum=float(low.min()), maximum=float(high.max())))
        for column, counts in zip(self._one_hot, self._categories, strict=True):
            if not counts:
                raise DataError(f"column {column.name!r} of {where} has no values at all; leave it out")
            columns.append(replace(column, size=len(counts), categories=tuple(sorted(counts))))
        dtype = read_dtype(columns) if spec.dtype == "auto" else np.dtype(spec.dtype)
        return Fitted(spec, tuple(columns), dtype, self._fill(), (), tuple(self._doubts()))

    def _add_means(self, block: Block) -> None:
        """Sum what is there, and its weight."""
        x = block.x.astype(np.float64)
        gap = np.isnan(x)
        x[gap] = 0.0
        there = (~gap).astype(np.float64)
        if block.weight is None:
            self._sums.add(x)
        else:
            check_size(x, self._features, block.row)
            weight = np.broadcast_to(block.weight[:, None], x.shape)
            there *= weight
            for term in products([x], weight):
                self._sums.add(term)
        self._weights.add(there)

    def _fill(self) -> np.ndarray | None:
        """Means, and shares of the categories."""
        if not self._fills:
            return None
        means = [int(s) / int(w) for s, w in zip(self._sums.totals(), self._weights.totals(), strict=True)]
        for counts in self._categories:
            total = sum(counts.values())
            means += [counts[value] / total for value in sorted(counts)]
        return np.array(means, dtype=np.float64)

    def _doubts(self) -> list[str]:
        """Columns that tell nothing."""
        doubts, start = [], 0
        for column in self._numeric:
            low, high = self._minimum[start : start + column.size], self._maximum[start : start + column.size]
            start += column.size
            same = int(np.count_nonzero(low == high))
            if same and column.role == "number":
                doubts.append(f"column {column.name!r} is constant ({float(low[0])!r}); it sets no clusters apart")
            elif same:
                doubts.append(f"{same} of the {column.size} entries of column {column.name!r} are constant")
        for column, counts in zip(self._one_hot, self._categories, strict=True):
            if len(counts) == 1:
                doubts.append(f"column {column.name!r} is constant ({next(iter(counts))!r}); it sets no clusters apart")
        return doubts


def check_size(x: np.ndarray, names: Sequence[str], row: RowNumber) -> None:
    """Raise Unusable for the first row with numbers whose squares would overflow."""
    if x.size and not (max(float(x.max()), -float(x.min())) <= LARGEST):
        i, j = divmod(int(np.argmax(~(np.abs(x) <= LARGEST))), x.shape[1])
        raise Unusable(
            f"feature {names[j]!r} is {float(x[i, j]):.4g} in row {row(i)}, too large to scale; clip it", row(i)
        )


def _add_categories(counts: dict[Any, int], values: Any, weight: np.ndarray | None) -> None:
    """Add up the weight of each category."""
    found, at = distinct(values)
    there = at >= 0
    if weight is None:
        sums = np.bincount(at[there], minlength=len(found)).astype(object) * _UNIT_ONE
    else:
        sums = exact_sum_by(weight[there], at[there], len(found))
    pairs = zip(found, sums, strict=True)
    _increase(counts, {value: int(total) for value, total in pairs if value is not None and total})


def _increase(counts: dict[Any, int], more: Mapping[Any, int]) -> None:
    """Add to the weights of categories, until there are too many."""
    if len(counts) <= MOST_CATEGORIES:
        for value, total in more.items():
            counts[value] = counts.get(value, 0) + total
