"""Fits over ranges: the bits, the warnings and the errors of a fit over all rows, wherever the ranges are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gpukm.errors import DataError
from gpukm.executors import Executor, LocalExecutor
from gpukm.preprocessing import (
    PCA,
    Clip,
    L2Normalize,
    Log1p,
    MinMax,
    PreparedSource,
    Preprocessing,
    Robust,
    Standardize,
    fit,
)
from gpukm.sources.array import ArraySource
from gpukm.sources.base import Source
from gpukm.sources.ranges import WHOLE, Range, RowRange, cut, over, place
from gpukm.sources.table import MemoryTable, Table
from tests.conformance.scattered import ScatteredExecutor
from tests.unit.preprocessing.inputs import bits, rows_of

N = 120
rng = np.random.default_rng(5)
EXECUTORS = [LocalExecutor(), ScatteredExecutor(3)]
#: Ranges of the 120 rows, some of them empty.
CUTS: list[tuple[Range, ...]] = [
    ((0, 57), (57, 120)),
    ((0, 1), (1, 1), (1, 40), (40, 41), (41, 90), (90, 90), (90, None)),
    tuple((i, i + 8) for i in range(0, N, 8)),
    ((0, 0), (0, 120), (120, 120)),
]


def table(**more: Any) -> MemoryTable:
    """Numbers with gaps, categories with gaps, weights some of which are 0."""
    gaps = rng.permutation(N) < 10
    return MemoryTable(
        pa.table(
            {
                "a": pa.array(np.where(gaps, np.nan, rng.lognormal(0, 2, N)), from_pandas=True),
                "b": pa.array(rng.integers(0, 5, N).astype(np.float64)),
                "c": pa.array([None if i % 11 == 7 else f"kind {i % 4}" for i in range(N)]),
                "w": pa.array(np.where(rng.random(N) < 0.2, 0.0, rng.lognormal(0, 3, N))),
                **more,
            }
        )
    )


SPECS = {
    "moments": Preprocessing(steps=(Standardize(), L2Normalize(), MinMax()), null_policy="mean", one_hot=("c",)),
    "quantiles": Preprocessing(steps=(Robust(), Clip(lower=-3)), null_policy="drop", one_hot=("c",)),
    "pca": Preprocessing(steps=(Log1p(columns=("a",)), PCA(n_components=2), Standardize()), null_policy="drop"),
}


@pytest.mark.parametrize("cuts", CUTS, ids=lambda cuts: f"{len(cuts)} ranges")
@pytest.mark.parametrize("weight_column", [None, "w"])
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_ranges_change_no_bit(
    monkeypatch: pytest.MonkeyPatch, executor: Executor, name: str, weight_column: str | None, cuts: tuple[Range, ...]
) -> None:
    # Few enough cells that a search for quantiles takes several passes.
    monkeypatch.setattr("gpukm.preprocessing.order.QuantileSearch.__init__.__defaults__", (None, 64))
    raw, spec = table(), SPECS[name]
    whole = fit(raw, spec, weight_column=weight_column)
    assert len(whole.numbers) == len(spec.steps)
    for rows in (3, 1000):
        found = fit(raw, spec, weight_column=weight_column, batch_rows=rows, executor=executor, ranges=cuts)
        assert bits(found) == bits(whole) and found.warnings == whole.warnings
    prepared = PreparedSource(raw, whole, weight_column=weight_column)
    parts = [RowRange(prepared, start, stop).open() for start, stop in cuts]
    assert b"".join(rows_of_any(part) for part in parts) == rows_of(prepared).tobytes()


def rows_of_any(source: Source) -> bytes:
    """Rows of a range that may be empty."""
    return b"".join(batch.x.tobytes() for batch in source.batches(7))


def spoiled(change: Callable[[np.ndarray, np.ndarray], None]) -> ArraySource:
    """A matrix and its weights, spoiled."""
    x, w = np.abs(np.random.default_rng(1).standard_normal((N, 3))) + 1, np.ones(N)
    change(x, w)
    source = ArraySource(x, np.ones(N))
    source.weight = w
    return source


def put(*places: tuple[int, int, float]) -> Callable[[np.ndarray, np.ndarray], None]:
    """Put values into the matrix, or into the weights as column 9."""

    def change(x: np.ndarray, w: np.ndarray) -> None:
        for row, column, value in places:
            if column == 9:
                w[row] = value
            else:
                x[row, column] = value

    return change


L = Log1p()
BAD = {
    "missing": (put((80, 1, math.nan), (30, 2, math.nan), (30, 0, math.nan), (110, 0, math.nan)), (), "row 30"),
    "infinite first": (put((20, 1, math.nan), (90, 2, math.inf)), (), "infinite 1 value, the first in row 90"),
    "weights": (put((99, 9, -1.0), (98, 9, math.nan)), (), "weights: 1 value, the first in row 98"),
    "negative": (put((100, 9, -1.0), (40, 9, -2.0)), (), "2 values, the first in row 40"),
    "logarithm": (
        put((101, 1, -5.0), (64, 2, -3.0), (64, 1, -4.0), (65, 0, -9.0)),
        (L, Standardize()),
        "row 64 has -4.0",
    ),
    "missing before logarithm": (put((10, 0, -3.0), (115, 1, math.nan)), (L, Standardize()), "missing"),
    "later steps first": (put((70, 0, -3.0), (12, 1, 0.0)), (L, Robust(columns=("f1",)), MinMax()), "row 70"),
    "length": (
        put(*((i, j, 0.0) for i in (77, 50) for j in range(3))),
        (L2Normalize(), Standardize()),
        "row 50 is zero",
    ),
    "large": (
        put((88, 0, 1e200), (60, 2, -1e200), (60, 1, 1e250)),
        (PCA(n_components=1),),
        "'f1' is 1e\\+250 in row 60",
    ),
    "all weights": (lambda x, w: w.fill(0.0), (), "all weights of the data are 0"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_ranges_change_no_word_of_an_error(executor: Executor, name: str) -> None:
    change, steps, said = BAD[name]
    raw, spec = spoiled(change), Preprocessing(steps=steps)
    with pytest.raises(DataError, match=said) as whole:
        fit(raw, spec)
    for cuts in (WHOLE, *CUTS):
        for rows in (1, 17, 1000) if cuts == WHOLE else (17,):
            with pytest.raises(DataError) as error:
                fit(raw, spec, batch_rows=rows, executor=executor, ranges=cuts)
            assert str(error.value) == str(whole.value)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_too_many_categories_in_all_ranges_together(monkeypatch: pytest.MonkeyPatch, executor: Executor) -> None:
    monkeypatch.setattr("gpukm.preprocessing.survey.MOST_CATEGORIES", 3)
    spec = Preprocessing(columns=("a", "c"), one_hot=("c",), null_policy="mean")
    for cuts in (WHOLE, *CUTS):
        with pytest.raises(DataError, match="column 'c' has more than 3 different values"):
            fit(table(), spec, executor=executor, ranges=cuts)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_no_row_is_left_in_any_range(executor: Executor) -> None:
    raw = MemoryTable(pa.table({"a": pa.array([None] * N, pa.float64())}))
    for cuts in (WHOLE, *CUTS):
        with pytest.raises(DataError, match="all 120 rows of the data miss a value and are dropped"):
            fit(raw, Preprocessing(null_policy="drop"), executor=executor, ranges=cuts)


def prepared(rows: Source, batch_rows: int) -> int:
    """Read prepared rows."""
    return sum(len(batch.x) for batch in rows.batches(batch_rows))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_prepared_rows_are_refused_with_the_same_words(executor: Executor) -> None:
    """Checks before steps, and of steps the first row, however it is read."""
    raw = table()
    spec = Preprocessing(columns=("b", "c"), one_hot=("c",), null_policy="mean", unknown_category="error", steps=(L,))
    fitted = fit(raw, spec)
    b, c = np.ones(N), [f"kind {i % 4}" for i in range(N)]
    strange = {"b": b.copy(), "c": [*c[:90], "strange", *c[91:]]}
    strange["b"][91] = -8.0
    early = {"b": strange["b"].copy(), "c": strange["c"]}
    early["b"][20] = -7.0
    infinite = {"b": early["b"].copy(), "c": strange["c"]}
    infinite["b"][119] = np.inf
    for data, said in ((strange, "'strange' in row 90"), (early, "row 20 has -7.0"), (infinite, "infinite 1 value")):
        other: Table = MemoryTable(pa.table(data))
        source = PreparedSource(other, fitted)
        for cuts in (WHOLE, cut(source, 5, executor), *CUTS):
            for rows in (1, 17, 1000):
                with pytest.raises(DataError, match=said):
                    over(executor, place(executor, source, cuts), prepared, rows, merge=int.__add__)
