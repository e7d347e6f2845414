"""Preprocessing: no bit depends on how the rows are cut into batches, and weight 2 is a row twice."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gpukm.errors import DataError
from gpukm.preprocessing import (
    PCA,
    Clip,
    Fitted,
    L2Normalize,
    Log1p,
    MinMax,
    PreparedSource,
    Preprocessing,
    Robust,
    Standardize,
    Step,
    fit,
)
from gpukm.sources.table import MemoryTable
from tests.unit.preprocessing.inputs import bits, rows_of

NAMES = ("a", "b", "c")
numbers = st.floats(-1e12, 1e12, width=64) | st.integers(-3, 3).map(float)
single = st.floats(-(2.0**30), 2.0**30, width=32)
maybe_missing = st.one_of(numbers, numbers, numbers, st.just(float("nan")))
columns = st.none() | st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True).map(tuple)
steps: st.SearchStrategy[Step] = st.one_of(
    columns.map(lambda c: Standardize(columns=c)),
    columns.map(lambda c: MinMax(columns=c)),
    columns.map(lambda c: Robust(columns=c)),
    columns.map(lambda c: Clip(-0.5, 1e6, columns=c)),
)
last: st.SearchStrategy[tuple[Step, ...]] = st.sampled_from(
    [(), (PCA(n_components=2),), (L2Normalize(),), (Clip(lower=0.0), Log1p())]
)
chains = st.tuples(st.lists(steps, max_size=2), last).map(lambda t: (*t[0], *t[1]))


def table_of(x: np.ndarray, categories: list[str | None], weight: np.ndarray) -> MemoryTable:
    data = {name: x[:, i] for i, name in enumerate(NAMES)}
    return MemoryTable(pa.table({**data, "k": pa.array(categories, pa.string()), "w": weight}))


@st.composite
def inputs(draw: st.DrawFn, values: st.SearchStrategy[float]) -> tuple[np.ndarray, list[str | None], np.ndarray]:
    n = draw(st.integers(1, 25))
    x = draw(arrays(np.float64, (n, 3), elements=values))
    categories = draw(st.lists(st.sampled_from(["x", "y", "zz", None]), min_size=n, max_size=n))
    weight = draw(arrays(np.float64, n, elements=st.sampled_from([0.0, 1.0, 2.0, 3.0])))
    return x, categories, weight


def outcome(table: MemoryTable, spec: Preprocessing, weighted: bool, rows: int) -> tuple[bytes, bytes, str]:
    """Bits of the fit and of the rows, or what is wrong; a count within a batch is no part of it."""
    weight = "w" if weighted else None
    try:
        fitted = fit(table, spec, weight_column=weight, batch_rows=rows)
        return bits(fitted), rows_of(PreparedSource(table, fitted, weight_column=weight), rows).tobytes(), ""
    except DataError as error:
        return b"", b"", str(error).partition("(")[0]


@settings(deadline=None, max_examples=80)
@given(inputs(maybe_missing), chains, st.sampled_from(["drop", "mean"]), st.booleans(), st.integers(1, 9))
def test_no_bit_depends_on_batches(
    data: tuple[np.ndarray, list[str | None], np.ndarray],
    chain: tuple[Step, ...],
    policy: str,
    weighted: bool,
    rows: int,
) -> None:
    table = table_of(*data)
    spec = Preprocessing(NAMES, policy, ("k",), chain)  # type: ignore[arg-type]
    assert outcome(table, spec, weighted, 1000) == outcome(table, spec, weighted, rows)


@settings(deadline=None, max_examples=80)
@given(inputs(maybe_missing), st.lists(steps, max_size=2), st.sampled_from(["drop", "mean"]), st.randoms())
def test_weight_two_is_a_row_twice_in_any_order(
    data: tuple[np.ndarray, list[str | None], np.ndarray], chain: list[Step], policy: str, random: object
) -> None:
    x, categories, weight = data
    spec = Preprocessing(NAMES, policy, ("k",), tuple(chain))  # type: ignore[arg-type]
    order = [i for i, w in enumerate(weight) for _ in range(int(w))]
    random.shuffle(order)  # type: ignore[attr-defined]
    repeated = table_of(x[order], [categories[i] for i in order], np.ones(len(order)))
    try:
        weighted = fit(table_of(x, categories, weight), spec, weight_column="w")
    except DataError:
        return
    assert bits(fit(repeated, spec)) == bits(weighted)


@settings(deadline=None, max_examples=50)
@given(inputs(single), st.lists(steps, max_size=3))
def test_inverse_takes_rows_back(data: tuple[np.ndarray, list[str | None], np.ndarray], chain: list[Step]) -> None:
    x = np.clip(data[0], -0.5, 1e6)
    table = table_of(x, data[1], data[2])
    fitted = fit(table, Preprocessing(NAMES, steps=tuple(s for s in chain if not isinstance(s, Clip))))
    back = fitted.inverse(rows_of(PreparedSource(table, fitted)))
    assert np.allclose(back, x, rtol=1e-9, atol=1e-8 * (1 + np.abs(x).max()))


@settings(deadline=None, max_examples=50)
@given(inputs(numbers), chains)
def test_stored_parts_transform_alike(
    data: tuple[np.ndarray, list[str | None], np.ndarray], chain: tuple[Step, ...]
) -> None:
    table, spec = table_of(*data), Preprocessing(NAMES, "mean", ("k",), chain)
    try:
        fitted = fit(table, spec)
        rows = rows_of(PreparedSource(table, fitted))
    except DataError:
        return
    again = Fitted.from_parts(fitted.to_json(), {k: v.copy() for k, v in fitted.tensors().items()})
    assert rows_of(PreparedSource(table, again)).tobytes() == rows.tobytes()
