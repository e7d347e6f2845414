"""Fitting: every number exact, from streaming passes, the same for every batch size and sharding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from gpukm.core.exact import UNIT_EXPONENT, exact_sum_by, fold
from gpukm.errors import ConfigError, DataError
from gpukm.preprocessing.checks import Checks
from gpukm.preprocessing.columns import Column, place, read_dtype, resolve
from gpukm.preprocessing.covariance import Gram, on_grid
from gpukm.preprocessing.eigen import eigh
from gpukm.preprocessing.fitted import Fitted
from gpukm.preprocessing.order import QuantileSearch
from gpukm.preprocessing.reading import Block, Reader, codes, distinct
from gpukm.preprocessing.spec import PCA, MinMax, Preprocessing, Robust, Standardize, Step
from gpukm.preprocessing.steps import chosen
from gpukm.preprocessing.sums import LARGEST, ColumnSums, Moments, products

if TYPE_CHECKING:
    from gpukm.sources.base import Source
    from gpukm.sources.table import Table

#: Categories a one-hot column may have.
MOST_CATEGORIES = 10_000
_UNIT_ONE = 1 << -UNIT_EXPONENT
_SHOWN = 5

#: Makes one pass: blocks of the chosen features as float64 (n, m), and their weights.
Pass = Callable[[], Iterator[tuple[np.ndarray, np.ndarray | None]]]


def fit(
    raw: Source | Table, spec: Preprocessing, *, weight_column: str | None = None, batch_rows: int = 1 << 16
) -> Fitted:
    """Fit a preprocessing to data.

    The first pass checks every value and counts categories, means and ranges; then each of standardize and minmax
    takes one pass, pca two, and robust one to five. Rows count by their weights, and a row of weight 2 as a row twice.

    Parameters
    ----------
    raw : Source or Table
    spec : Preprocessing
    weight_column : str or None
        Column of sample weights, not clustered.
    batch_rows : int
        Rows read at a time; no bit of the result depends on it.

    Raises
    ------
    DataError
        A column is missing or not numeric, values are missing or infinite, weights are negative or all zero, there are
        no rows; with the count and the first place.
    ConfigError
        A step does not fit the columns.
    """
    columns = resolve(raw, spec, weight_column)
    reader = Reader(raw, columns, weight_column, ())
    survey = _Survey(reader, spec)
    for block in survey.checks.blocks(batch_rows):
        survey.add(block)
    fitted = survey.fitted()
    warnings = list(fitted.warnings)
    for step in spec.steps:
        numbers = _fit_step(step, fitted, reader, batch_rows, survey.n_rows, warnings)
        fitted = replace(fitted, numbers=(*fitted.numbers, numbers))
    _check_names(fitted)
    return replace(fitted, warnings=tuple(dict.fromkeys(warnings)))


class _Survey:
    """The first pass: checks, ranges, means of what is there, categories and their weights."""

    def __init__(self, reader: Reader, spec: Preprocessing) -> None:
        self.reader, self.spec = reader, spec
        self.checks = Checks(reader, spec.null_policy)
        self.n_rows = self.n_kept = 0
        m = len(reader.features)
        self._minimum, self._maximum = np.full(m, np.inf), np.full(m, -np.inf)
        self._fills = spec.null_policy == "mean"
        self._sums, self._weights = ColumnSums(m), ColumnSums(m)
        self._categories: list[dict[Any, int]] = [{} for _ in reader.categories]

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
        for counts, values, column in zip(self._categories, block.values, self.reader.categories, strict=True):
            self._add_categories(counts, values, column, block.weight)

    def fitted(self) -> Fitted:
        """A preprocessing without steps."""
        where = place(self.reader.raw)
        if not self.n_rows and not self.checks.n_dropped:
            raise DataError(f"{where} has no rows; expected at least one")
        if not self.n_kept:
            if self.checks.n_dropped == self.n_rows:
                raise DataError(f"all {self.n_rows} rows of {where} miss a value and are dropped; use null policy mean")
            raise DataError(f"all weights of {where} are 0; expected some above 0")
        spec, start, columns = self.spec, 0, []
        for column in self.reader.numeric:
            low, high = self._minimum[start : start + column.size], self._maximum[start : start + column.size]
            start += column.size
            if np.isinf(low).any():
                raise DataError(f"column {column.name!r} of {where} has no values at all; leave it out")
            columns.append(replace(column, minimum=float(low.min()), maximum=float(high.max())))
        for column, counts in zip(self.reader.categories, self._categories, strict=True):
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
            _check_size(x, self.reader.features)
            weight = np.broadcast_to(block.weight[:, None], x.shape)
            there *= weight
            for term in products([x], weight):
                self._sums.add(term)
        self._weights.add(there)

    def _add_categories(self, counts: dict[Any, int], values: Any, column: Column, weight: np.ndarray | None) -> None:
        """Add up the weight of each category."""
        found, at = distinct(values)
        there = at >= 0
        if weight is None:
            sums = np.bincount(at[there], minlength=len(found)).astype(object) * _UNIT_ONE
        else:
            sums = exact_sum_by(weight[there], at[there], len(found))
        for value, total in zip(found, sums, strict=True):
            if value is not None and total:
                counts[value] = counts.get(value, 0) + int(total)
        if len(counts) > MOST_CATEGORIES:
            raise DataError(
                f"column {column.name!r} has more than {MOST_CATEGORIES} different values, too many for one-hot; "
                "leave it out or group its values"
            )

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
        for column in self.reader.numeric:
            low, high = self._minimum[start : start + column.size], self._maximum[start : start + column.size]
            start += column.size
            same = int(np.count_nonzero(low == high))
            if same and column.role == "number":
                doubts.append(f"column {column.name!r} is constant ({float(low[0])!r}); it sets no clusters apart")
            elif same:
                doubts.append(f"{same} of the {column.size} entries of column {column.name!r} are constant")
        for column, counts in zip(self.reader.categories, self._categories, strict=True):
            if len(counts) == 1:
                doubts.append(f"column {column.name!r} is constant ({next(iter(counts))!r}); it sets no clusters apart")
        return doubts


def _fit_step(
    step: Step, so_far: Fitted, reader: Reader, batch_rows: int, n_rows: int, warnings: list[str]
) -> Mapping[str, np.ndarray]:
    """The numbers of a step, from rows that have gone through the steps before it."""
    places = chosen(step, so_far.features)
    names = [so_far.feature_names[i] for i in places]
    if not isinstance(step, (Standardize, MinMax, Robust, PCA)):
        return {}
    if not len(places):
        raise ConfigError(f"step {step.kind} has no features to work on; name columns, or leave it out")

    def rows() -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        checks = Checks(reader, so_far.spec.null_policy, thorough=False)
        for block in checks.blocks(batch_rows):
            found = [codes(v, c) for v, c in zip(block.values, categories, strict=True)]
            for x, weight in _transformed(so_far, block, found):
                part = x if len(places) == x.shape[1] else x[:, places]
                _check_size(part, names)
                yield part, weight

    categories = [c for c in so_far.columns if c.role == "category"]
    if isinstance(step, PCA):
        return _fit_pca(step, rows, len(places))
    if isinstance(step, Robust):
        center, scale = _quartiles(rows, len(places), n_rows)
    elif isinstance(step, MinMax):
        center, scale = _range(rows, len(places))
    else:
        moments = _moments(rows, len(places))
        center, scale = moments.mean(), np.sqrt(moments.variance())
    # What is constant from the beginning has been said.
    known = {c.name for c in so_far.columns if c.role == "number" and c.minimum == c.maximum}
    flat = [names[i] for i in np.flatnonzero(scale == 0) if so_far.features[places[i]].column not in known]
    if flat:
        shown = ", ".join(flat[:_SHOWN]) + (f" and {len(flat) - _SHOWN} more" if len(flat) > _SHOWN else "")
        robust = f"the quartiles of {shown} are equal, so only the median is subtracted"
        warnings.append(f"step {step.kind}: " + (robust if isinstance(step, Robust) else f"no spread in {shown}"))
    return {"center": center, "scale": np.where(scale == 0, 1.0, scale)}


def _transformed(fitted: Fitted, block: Block, found: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Any]]:
    """A block after the steps so far, in float64, in pieces that stay in the cache."""
    rows = max(256, (1 << 15) // max(1, len(fitted.input_features)))
    for i in range(0, len(block.x), rows):
        x = fitted.expand(block.x[i : i + rows], [code[i : i + rows] for code in found])
        with np.errstate(over="ignore", invalid="ignore"):
            for step in fitted.steps:
                x = step.apply(x, lambda j, i=i: block.row(i + j))  # type: ignore[misc]
        yield x, None if block.weight is None else block.weight[i : i + rows]


def _moments(rows: Pass, m: int) -> Moments:
    """One pass of moments."""
    moments = Moments(m)
    for x, weight in rows():
        moments.add(x, weight)
    return moments


def _range(rows: Pass, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest value and width of the range, rows of weight 0 left out."""
    low, high = np.full(m, np.inf), np.full(m, -np.inf)
    for x, weight in rows():
        here = x if weight is None else x[weight > 0]
        # Adding 0 makes -0 into 0, of which min and max return either.
        np.minimum(low, here.min(axis=0, initial=np.inf) + 0.0, out=low)
        np.maximum(high, here.max(axis=0, initial=-np.inf) + 0.0, out=high)
    return low, high - low


def _quartiles(rows: Pass, m: int, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Median and interquartile range."""
    search = QuantileSearch(m, [Fraction(i, 4) for i in (1, 2, 3)], n_rows)
    while not search.done:
        for x, weight in rows():
            search.add(x, weight)
        search.finish_pass()
    low, middle, high = search.quantiles()
    return middle, high - low


def _fit_pca(step: PCA, rows: Pass, m: int) -> Mapping[str, np.ndarray]:
    """Mean, components and their variances."""
    if step.n_components > m:
        raise ConfigError(f"pca has n_components={step.n_components}, but there are {m} features; ask for at most {m}")
    moments = _moments(rows, m)
    mean = moments.mean()
    gram = Gram(np.maximum(moments.maximum - mean, mean - moments.minimum), moments.largest_weight)
    for x, weight in rows():
        d = x - mean
        if weight is not None and not weight.all():
            d, weight = d[weight > 0], weight[weight > 0]
        gram.add(d, weight)
    variances, components = eigh(gram.covariance(moments.weight))
    n = step.n_components
    return {
        "mean": mean,
        "components": on_grid(components[:n]),
        "variance": np.maximum(variances[:n], 0.0),
        "total_variance": np.array([fold(moments.variance())]),
    }


def _check_names(fitted: Fitted) -> None:
    """Raise DataError if two features have one name, such as a column ``a[0]`` beside a vector ``a``."""
    for names in (fitted.input_names, fitted.feature_names):
        if len(set(names)) != len(names):
            name = next(name for i, name in enumerate(names) if name in names[:i])
            raise DataError(f"two features would be called {name!r}; rename the column of that name")


def _check_size(x: np.ndarray, names: Sequence[str]) -> None:
    """Raise DataError for numbers whose squares would overflow."""
    if x.size and not (max(float(x.max()), -float(x.min())) <= LARGEST):
        j = int(np.argmax(~(np.abs(x).max(axis=0) <= LARGEST)))
        raise DataError(f"feature {names[j]!r} reaches {float(np.abs(x[:, j]).max()):.4g}, too large to scale; clip it")
