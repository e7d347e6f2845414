"""Fitting: every number exact, from streaming passes, the same for every batch size and sharding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from gpukm.core.exact import fold
from gpukm.errors import ConfigError, DataError
from gpukm.executors import Executor, LocalExecutor
from gpukm.preprocessing.checks import Checks
from gpukm.preprocessing.columns import place, resolve
from gpukm.preprocessing.covariance import Gram, on_grid
from gpukm.preprocessing.eigen import eigh
from gpukm.preprocessing.fitted import Fitted
from gpukm.preprocessing.order import QuantileSearch
from gpukm.preprocessing.reading import Block, Reader, codes
from gpukm.preprocessing.spec import PCA, MinMax, Preprocessing, Robust, Standardize, Step
from gpukm.preprocessing.steps import chosen, row_by_row
from gpukm.preprocessing.sums import Moments
from gpukm.preprocessing.survey import Survey, check_size, look
from gpukm.sources import ranges as parts
from gpukm.sources.ranges import WHOLE, Range

if TYPE_CHECKING:
    from gpukm.sources.base import Source
    from gpukm.sources.table import Table

_SHOWN = 5
_GATHERED_VALUES = 1 << 19

#: Float64 values (n, m) and their weights.
Blocks = Iterator[tuple[np.ndarray, np.ndarray | None]]
#: Makes one pass: ``step(rows, walk, *args)`` of every range, merged.
Pass = Callable[..., Any]


def fit(
    raw: Source | Table,
    spec: Preprocessing,
    *,
    weight_column: str | None = None,
    batch_rows: int = 1 << 16,
    executor: Executor | None = None,
    ranges: Sequence[Range] = WHOLE,
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
    executor : Executor or None
        Where ranges are read; None: here.
    ranges : sequence of (int, int or None)
        Ranges that are read by themselves, in order, as :func:`gpukm.sources.ranges.cut` makes them; neither the result
        nor the text of an error depends on them.

    Raises
    ------
    DataError
        A column is missing or not numeric, values are missing or infinite, weights are negative or all zero, there are
        no rows; with the count and the first place.
    ConfigError
        A step does not fit the columns.
    """
    columns = resolve(raw, spec, weight_column)
    Reader(raw, columns, weight_column, ())  # says what is wrong with the weight column
    executor = executor or LocalExecutor()
    placed = parts.place(executor, raw, ranges)
    try:
        survey: Survey = parts.over(executor, placed, look, columns, spec, weight_column, batch_rows)
        fitted = survey.fitted(spec, place(raw))
        warnings = list(fitted.warnings)
        for step in spec.steps:
            places = chosen(step, fitted.features)
            walk = _Walk(fitted, places, weight_column, batch_rows)

            def run(pass_: Callable[..., Any], *args: Any, walk: _Walk = walk) -> Any:
                return parts.over(executor, placed, pass_, walk, *args)

            numbers = _fit_step(step, fitted, places, run, survey.n_rows, warnings)
            fitted = replace(fitted, numbers=(*fitted.numbers, numbers))
    finally:
        placed.close()
    _check_names(fitted)
    return replace(fitted, warnings=tuple(dict.fromkeys(warnings)))


@dataclass(frozen=True)
class _Walk:
    """How ranges are gone through for a step: the features it works on, after the steps before it."""

    so_far: Fitted
    places: np.ndarray
    weight_column: str | None
    batch_rows: int

    @property
    def width(self) -> int:
        """Features the step works on."""
        return len(self.places)

    def through(self, rows: Source | Table) -> Blocks:
        """Float64 values (n, width) and their weights, in pieces that stay in the cache."""
        fitted = self.so_far
        names = [fitted.feature_names[i] for i in self.places]
        categories = [c for c in fitted.columns if c.role == "category"]
        reader = Reader(rows, fitted.columns, self.weight_column, ())
        size = max(256, (1 << 15) // max(1, len(fitted.input_features)))
        for block in Checks(reader, fitted.spec.null_policy, thorough=False).blocks(self.batch_rows):
            found = [codes(v, c) for v, c in zip(block.values, categories, strict=True)]
            work = partial(self._piece, block, found, names)
            for i in range(0, len(block.x), size):
                part = slice(i, min(i + size, len(block.x)))
                yield row_by_row(work, part, block.row), None if block.weight is None else block.weight[part]

    def _piece(self, block: Block, found: Sequence[np.ndarray], names: Sequence[str], part: slice) -> np.ndarray:
        """Some rows of a block, of sizes that can be squared."""

        def row(i: int) -> int:
            return block.row(part.start + i)

        x = self.so_far.through(block.x[part], [code[part] for code in found], row)
        x = x if len(self.places) == x.shape[1] else x[:, self.places]
        check_size(x, names, row)
        return x


def _fit_step(
    step: Step, so_far: Fitted, places: np.ndarray, run: Pass, n_rows: int, warnings: list[str]
) -> Mapping[str, np.ndarray]:
    """The numbers of a step, from rows that have gone through the steps before it."""
    if not isinstance(step, (Standardize, MinMax, Robust, PCA)):
        return {}
    if not len(places):
        raise ConfigError(f"step {step.kind} has no features to work on; name columns, or leave it out")
    if isinstance(step, PCA):
        return _fit_pca(step, run, len(places))
    if isinstance(step, Robust):
        center, scale = _quartiles(run, len(places), n_rows)
    elif isinstance(step, MinMax):
        extent: _Extent = run(_measure)
        center, scale = extent.low, extent.high - extent.low
    else:
        moments: Moments = run(_moments)
        center, scale = moments.mean(), np.sqrt(moments.variance())
    # What is constant from the beginning has been said.
    known = {c.name for c in so_far.columns if c.role == "number" and c.minimum == c.maximum}
    flat = [places[i] for i in np.flatnonzero(scale == 0) if so_far.features[places[i]].column not in known]
    if flat:
        shown = ", ".join(so_far.feature_names[i] for i in flat[:_SHOWN])
        shown += f" and {len(flat) - _SHOWN} more" if len(flat) > _SHOWN else ""
        robust = f"the quartiles of {shown} are equal, so only the median is subtracted"
        warnings.append(f"step {step.kind}: " + (robust if isinstance(step, Robust) else f"no spread in {shown}"))
    return {"center": center, "scale": np.where(scale == 0, 1.0, scale)}


def _quartiles(run: Pass, m: int, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Median and interquartile range."""
    search = QuantileSearch(m, [Fraction(i, 4) for i in (1, 2, 3)], n_rows)
    while not search.done:
        search = run(_search, search)
        search.finish_pass()
    low, middle, high = search.quantiles()
    return middle, high - low


def _fit_pca(step: PCA, run: Pass, m: int) -> Mapping[str, np.ndarray]:
    """Mean, components and their variances."""
    if step.n_components > m:
        raise ConfigError(f"pca has n_components={step.n_components}, but there are {m} features; ask for at most {m}")
    moments: Moments = run(_moments)
    mean = moments.mean()
    bounds = np.maximum(moments.maximum - mean, mean - moments.minimum)
    gram: Gram = run(_gram, mean, bounds, moments.largest_weight)
    variances, components = eigh(gram.covariance(moments.weight))
    n = step.n_components
    return {
        "mean": mean,
        "components": on_grid(components[:n]),
        "variance": np.maximum(variances[:n], 0.0),
        "total_variance": np.array([fold(moments.variance())]),
    }


def _moments(rows: Source | Table, walk: _Walk) -> Moments:
    """A pass of moments."""
    moments = Moments(walk.width)
    for x, weight in walk.through(rows):
        moments.add(x, weight)
    return moments


def _gram(rows: Source | Table, walk: _Walk, mean: np.ndarray, bounds: np.ndarray, largest_weight: float) -> Gram:
    """A pass of products of deviations."""
    gram = Gram(bounds, largest_weight)
    for x, weight in walk.through(rows):
        d = x - mean
        if weight is not None and not weight.all():
            d, weight = d[weight > 0], weight[weight > 0]
        gram.add(d, weight)
    return gram


def _search(rows: Source | Table, walk: _Walk, search: QuantileSearch) -> QuantileSearch:
    """A pass of a search that has seen nothing in it yet."""
    search = deepcopy(search)
    for x, weight in _gathered(walk.through(rows), walk.width):
        search.add(x, weight)
    return search


def _gathered(pieces: Blocks, width: int) -> Blocks:
    """Pieces put together: counters are many, and cost the same for few rows."""
    found: list[np.ndarray] = []
    weights: list[np.ndarray | None] = []
    n_rows = 0
    for x, weight in chain(pieces, [(np.empty((0, width)), None)]):
        found.append(x)
        weights.append(weight)
        n_rows += len(x)
        if n_rows and (n_rows * width >= _GATHERED_VALUES or not len(x)):
            given = [w for w in weights if w is not None]
            yield np.concatenate(found), np.concatenate(given) if given else None
            found, weights, n_rows = [], [], 0


def _measure(rows: Source | Table, walk: _Walk) -> _Extent:
    """A pass of ranges."""
    extent = _Extent(walk.width)
    for x, weight in walk.through(rows):
        extent.add(x if weight is None else x[weight > 0])
    return extent


class _Extent:
    """Smallest and largest value of each column; a commutative monoid under :meth:`merge`."""

    def __init__(self, m: int) -> None:
        self.low, self.high = np.full(m, np.inf), np.full(m, -np.inf)

    def add(self, x: np.ndarray) -> None:
        """Look at rows."""
        # Adding 0 makes -0 into 0, of which min and max return either.
        np.minimum(self.low, x.min(axis=0, initial=np.inf) + 0.0, out=self.low)
        np.maximum(self.high, x.max(axis=0, initial=-np.inf) + 0.0, out=self.high)

    def merge(self, other: _Extent) -> None:
        """Take in another part."""
        np.minimum(self.low, other.low, out=self.low)
        np.maximum(self.high, other.high, out=self.high)


def _check_names(fitted: Fitted) -> None:
    """Raise DataError if two features have one name, such as a column ``a[0]`` beside a vector ``a``."""
    for names in (fitted.input_names, fitted.feature_names):
        if len(set(names)) != len(names):
            name = next(name for i, name in enumerate(names) if name in names[:i])
            raise DataError(f"two features would be called {name!r}; rename the column of that name")
