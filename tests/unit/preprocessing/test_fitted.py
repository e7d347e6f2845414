from __future__ import annotations

import json

import numpy as np
import pytest

from gpukm.errors import ConfigError
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
    fit,
)
from gpukm.snapshots.canonical import canonical_json
from gpukm.sources.array import ArraySource
from gpukm.sources.table import MemoryTable
from tests.unit.preprocessing.inputs import bits, rows_of

X = np.random.default_rng(8).lognormal(0, 1, (200, 4))
CHAINS = [
    (),
    (Standardize(),),
    (Log1p(), Robust()),
    (MinMax(columns=("f1",)), Standardize()),
    (Clip(0.5, 3), Log1p(columns=("f0", "f3")), PCA(n_components=4)),
    (PCA(n_components=2, columns=("f2", "f0")), Standardize()),
]


@pytest.mark.parametrize("steps", [*CHAINS, (Standardize(), L2Normalize())])
def test_parts_make_the_same_again(steps: tuple[object, ...]) -> None:
    source = ArraySource(X)
    fitted = fit(source, Preprocessing(steps=steps, null_policy="mean"))  # type: ignore[arg-type]
    again = Fitted.from_parts(json.loads(canonical_json(fitted.to_json())), fitted.tensors())
    assert bits(again) == bits(fitted)
    assert again.schema == fitted.schema
    assert again.feature_names == fitted.feature_names
    assert rows_of(PreparedSource(source, again)).tobytes() == rows_of(PreparedSource(source, fitted)).tobytes()


def test_parts_of_categories() -> None:
    table = MemoryTable({"t": ["x", None, "y"], "i": [3, 1, 2], "b": [True, False, True], "f": [0.5, 1.0, 2.0]})
    fitted = fit(table, Preprocessing(columns=(), one_hot=tuple("tibf"), null_policy="mean"))
    again = Fitted.from_parts(json.loads(canonical_json(fitted.to_json())), fitted.tensors())
    assert bits(again) == bits(fitted)
    assert rows_of(PreparedSource(table, again)).tobytes() == rows_of(PreparedSource(table, fitted)).tobytes()


@pytest.mark.parametrize("steps", CHAINS)
def test_inverse(steps: tuple[object, ...]) -> None:
    source = ArraySource(X)
    fitted = fit(source, Preprocessing(steps=steps))  # type: ignore[arg-type]
    expected = np.clip(X, 0.5, 3) if any(isinstance(s, Clip) for s in steps) else X
    assert fitted.input_names == ("f0", "f1", "f2", "f3")
    assert np.allclose(fitted.inverse(rows_of(PreparedSource(source, fitted))), expected, rtol=1e-9, atol=1e-9)


def test_inverse_of_fewer_components_is_in_their_span() -> None:
    source = ArraySource(X)
    fitted = fit(source, Preprocessing(steps=(PCA(n_components=2),)))
    rows = rows_of(PreparedSource(source, fitted))
    back = ArraySource(fitted.inverse(rows))
    assert np.allclose(rows_of(PreparedSource(back, fitted)), rows, atol=1e-9)


def test_inverse_of_l2_is_unknown_where_it_was_applied() -> None:
    source = ArraySource(X)
    fitted = fit(source, Preprocessing(steps=(Standardize(), L2Normalize(columns=("f1", "f2")))))
    back = fitted.inverse(rows_of(PreparedSource(source, fitted)))
    assert np.isnan(back[:, 1:3]).all()
    assert np.allclose(back[:, [0, 3]], X[:, [0, 3]])


def test_inverse_of_the_wrong_width() -> None:
    with pytest.raises(ConfigError, match=r"expected \(n, 4\)"):
        fit(ArraySource(X), Preprocessing()).inverse(np.zeros((2, 3)))


def test_damaged_parts() -> None:
    fitted = fit(ArraySource(X), Preprocessing(steps=(Standardize(),)))
    good = fitted.to_json()
    with pytest.raises(ConfigError, match="format 2, expected 1; update gpukm"):
        Fitted.from_parts({**good, "format": 2}, fitted.tensors())
    with pytest.raises(ConfigError, match="incomplete"):
        Fitted.from_parts(good, {})
    with pytest.raises(ConfigError, match="incomplete"):
        Fitted.from_parts({k: v for k, v in good.items() if k != "columns"}, fitted.tensors())
