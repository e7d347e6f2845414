from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from gpukm.errors import ConfigError, DataError
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
from gpukm.sources.table import MemoryTable
from tests.unit.preprocessing.inputs import bits, rows_of

rng = np.random.default_rng(2)
X = rng.lognormal(1, 2, (3000, 5))


def prepare(x: np.ndarray, *steps: object, **options: object) -> np.ndarray:
    source = ArraySource(x)
    return rows_of(PreparedSource(source, fit(source, Preprocessing(steps=steps, **options))))  # type: ignore[arg-type]


def test_standardize() -> None:
    assert np.allclose(prepare(X, Standardize()), (X - X.mean(axis=0)) / X.std(axis=0), rtol=1e-12, atol=1e-14)


def test_minmax() -> None:
    y = prepare(X, MinMax())
    assert y.min(axis=0).tolist() == [0.0] * 5
    assert y.max(axis=0).tolist() == [1.0] * 5
    assert np.allclose(y, (X - X.min(axis=0)) / np.ptp(X, axis=0), rtol=1e-15)


def test_robust() -> None:
    low, middle, high = np.quantile(X, [0.25, 0.5, 0.75], axis=0, method="averaged_inverted_cdf")
    assert np.allclose(prepare(X, Robust()), (X - middle) / (high - low), rtol=1e-14, atol=1e-15)


def test_log1p_and_clip() -> None:
    assert np.allclose(prepare(X, Log1p()), np.log1p(X), rtol=5e-16)
    assert (prepare(X, Clip(lower=1)) == np.maximum(X, 1)).all()
    assert (prepare(X, Clip(upper=2)) == np.minimum(X, 2)).all()


def test_l2() -> None:
    assert np.allclose(prepare(X, L2Normalize()), X / np.linalg.norm(X, axis=1)[:, None], rtol=1e-15)
    huge = np.concatenate([X * 1e200, X * 1e-310])
    assert np.allclose(np.linalg.norm(prepare(huge, L2Normalize()), axis=1), 1)


@pytest.mark.parametrize("m", [1, 2, 3, 5, 8, 13])
def test_l2_of_any_width(m: int) -> None:
    x = rng.standard_normal((40, m))
    assert np.allclose(np.linalg.norm(prepare(x, L2Normalize()), axis=1), 1, rtol=1e-15)


def test_pca() -> None:
    x = rng.standard_normal((2000, 6)) @ rng.standard_normal((6, 6)) + 100
    source = ArraySource(x)
    fitted = fit(source, Preprocessing(steps=(PCA(n_components=3),)))
    centred = x - x.mean(axis=0)
    _, singular, vt = np.linalg.svd(centred, full_matrices=False)
    vt *= np.sign(vt[np.arange(6), np.argmax(np.abs(vt), axis=1)])[:, None]
    assert np.allclose(rows_of(PreparedSource(source, fitted)), centred @ vt[:3].T, atol=1e-9)
    assert np.allclose(fitted.tensors()["0.variance"], singular[:3] ** 2 / 2000, rtol=1e-10)
    assert np.allclose(fitted.tensors()["0.total_variance"], (singular**2).sum() / 2000, rtol=1e-12)
    assert fitted.feature_names == ("pca[0]", "pca[1]", "pca[2]")


def test_pca_of_some_columns_comes_last() -> None:
    source = ArraySource(X, names=list("abcde"))
    steps = (PCA(n_components=1, columns=("b", "d")), Standardize(), PCA(n_components=2))
    first = fit(source, Preprocessing(steps=steps[:1]))
    assert first.feature_names == ("a", "c", "e", "pca[0]")
    assert (rows_of(PreparedSource(source, first))[:, :3] == X[:, [0, 2, 4]]).all()
    fitted = fit(source, Preprocessing(steps=steps))
    assert fitted.feature_names == ("pca2[0]", "pca2[1]")
    assert rows_of(PreparedSource(source, fitted)).shape == (3000, 2)


def test_steps_of_named_columns_leave_the_others() -> None:
    source = ArraySource(X, names=list("abcde"))
    spec = Preprocessing(steps=(Log1p(columns=("a", "d")), Standardize(columns=("b", "c"))))
    y = rows_of(PreparedSource(source, fit(source, spec)))
    assert np.allclose(y[:, [0, 3]], np.log1p(X[:, [0, 3]]))
    assert np.allclose(y[:, [1, 2]].std(axis=0), 1)
    assert (y[:, 4] == X[:, 4]).all()


def test_order_of_steps_counts() -> None:
    clipped = prepare(X, Clip(upper=10), Standardize())
    assert np.allclose(clipped, (np.minimum(X, 10) - np.minimum(X, 10).mean(0)) / np.minimum(X, 10).std(0), atol=1e-13)


@pytest.mark.parametrize("step", [Standardize(), MinMax(), Robust()])
def test_constant_columns_become_zero_with_a_warning(step: Standardize) -> None:
    x = X.copy()
    x[:, 2] = 1e6 + 0.1
    source = ArraySource(x)
    fitted = fit(source, Preprocessing(steps=(step,)))
    assert (rows_of(PreparedSource(source, fitted))[:, 2] == 0).all()
    assert "column 'f2' is constant (1000000.1)" in fitted.warnings[0]


def test_equal_quartiles_warn() -> None:
    x = np.zeros((100, 1))
    x[:10] = np.arange(10)[:, None]
    assert "quartiles of f0 are equal" in fit(ArraySource(x), Preprocessing(steps=(Robust(),))).warnings[0]


def test_what_a_step_makes_constant_warns() -> None:
    x = np.array([[1.0, 7.0], [2.0, 7.0], [5.0, 7.0]])
    fitted = fit(ArraySource(x), Preprocessing(steps=(Clip(upper=0), Standardize())))
    assert fitted.warnings == (
        "column 'f1' is constant (7.0); it sets no clusters apart",
        "step standardize: no spread in f0",
    )


TABLE = pa.table(
    {
        "delay": pa.array([1.0, None, 3.0, 8.0, float("nan"), -2.0]),
        "hour": pa.array([1, 2, None, 4, 5, 6], pa.int32()),
        "carrier": ["AA", "UA", "AA", "B6", None, "UA"],
        "late": [True, False, None, True, True, False],
        "emb": pa.array([[1, 2], [3, 4], [5, 6], None, [7, None], [9, 10]], pa.list_(pa.float32(), 2)),
        "w": [1.0, 2.0, 0.5, 1.0, 3.0, 0.0],
    }
)


def test_numeric_columns_are_taken_by_default() -> None:
    fitted = fit(MemoryTable(TABLE), Preprocessing(null_policy="mean"), weight_column="w")
    assert fitted.feature_names == ("delay", "hour", "late", "emb[0]", "emb[1]")
    assert [c["type"] for c in fitted.schema["columns"]] == ["double", "int32", "bool", "float"]
    assert [c["size"] for c in fitted.schema["columns"]] == [1, 1, 1, 2]


def test_mean_policy_fills_with_weighted_means_and_shares() -> None:
    table = MemoryTable(TABLE)
    spec = Preprocessing(columns=("delay", "emb"), null_policy="mean", one_hot=("carrier",))
    fitted = fit(table, spec, weight_column="w")
    y = rows_of(PreparedSource(table, fitted, weight_column="w"))
    assert fitted.feature_names == ("delay", "emb[0]", "emb[1]", "carrier=AA", "carrier=B6", "carrier=UA")
    delay = (1 * 1 + 0.5 * 3 + 1 * 8) / 2.5
    assert y[:, 0].tolist() == [1, delay, 3, 8, delay, -2]
    assert y[3, 1:3].tolist() == [(1 + 6 + 2.5 + 21) / 6.5, (2 + 8 + 3) / 3.5]
    assert y[4, 1:3].tolist() == [7, (2 + 8 + 3) / 3.5]
    assert y[:, 3:].tolist() == [
        [1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [1.5 / 4.5, 1 / 4.5, 2 / 4.5], [0, 0, 1],
    ]  # fmt: skip


def test_drop_policy() -> None:
    table = MemoryTable(TABLE)
    spec = Preprocessing(columns=("delay", "hour"), null_policy="drop", one_hot=("carrier",), steps=(Standardize(),))
    fitted = fit(table, spec)
    batches = list(PreparedSource(table, fitted, weight_column="w", pass_columns=("carrier", "w")).batches(4))
    assert [(b.first_row, b.n_rows) for b in batches] == [(0, 4), (4, 2)]
    assert np.concatenate([b.row_numbers for b in batches]).tolist() == [0, 3, 5]
    assert np.concatenate([b.weight for b in batches]).tolist() == [1.0, 1.0, 0.0]  # type: ignore[misc]
    assert [v for b in batches for v in b.columns.column("carrier").to_pylist()] == ["AA", "B6", "UA"]  # type: ignore[union-attr]
    x = np.concatenate([b.x for b in batches])
    assert np.allclose(x[:, 0], (np.array([1, 8, -2]) - 7 / 3) / np.std([1, 8, -2]))
    assert x[:, 2:].tolist() == np.eye(3).tolist()
    assert fitted.schema["columns"][0]["minimum"] == -2.0
    assert fitted.schema["columns"][1]["maximum"] == 6.0


def test_scaling_leaves_indicators_unless_named() -> None:
    table = MemoryTable({"a": [1.0, 2.0, 3.0], "c": ["x", "y", "x"]})
    spec = {"columns": ("a",), "one_hot": ("c",)}
    plain = rows_of(PreparedSource(table, fit(table, Preprocessing(**spec, steps=(Standardize(),)))))  # type: ignore[arg-type]
    assert plain[:, 1:].tolist() == [[1, 0], [0, 1], [1, 0]]
    named = fit(table, Preprocessing(**spec, steps=(Standardize(columns=("c",)),)))  # type: ignore[arg-type]
    assert np.allclose(rows_of(PreparedSource(table, named))[:, 1:].mean(axis=0), 0)
    row = rows_of(PreparedSource(table, fit(table, Preprocessing(**spec, steps=(L2Normalize(),)))))[0]  # type: ignore[arg-type]
    assert np.allclose(row, [2**-0.5, 2**-0.5, 0])


@pytest.mark.parametrize(
    "values, names",
    [
        (pa.array(["b", "a", "é", "B"]), ("c=B", "c=a", "c=b", "c=é")),
        (pa.array(["b", "a", "b", "a"]).dictionary_encode(), ("c=a", "c=b")),
        (pa.array([10, 2, -1, 2], pa.int64()), ("c=-1", "c=2", "c=10")),
        (pa.array([True, False, True, True]), ("c=false", "c=true")),
        (pa.array([0.5, -0.0, 0.0, 2.0]), ("c=0", "c=0.5", "c=2")),
        (pa.array(["b", "a", "b", "a"], pa.string_view()), ("c=a", "c=b")),
    ],
)
def test_categories_are_sorted(values: pa.Array, names: tuple[str, ...]) -> None:
    table = MemoryTable({"c": values})
    fitted = fit(table, Preprocessing(columns=(), one_hot=("c",)))
    assert fitted.feature_names == names
    assert rows_of(PreparedSource(table, fitted)).sum(axis=1).tolist() == [1, 1, 1, 1]
    assert fitted.dtype == np.float32


def test_one_hot_of_a_matrix() -> None:
    source = ArraySource(np.array([[1.0, 5], [2, 7], [3, 5]]), names=["a", "c"])
    fitted = fit(source, Preprocessing(one_hot=("c",)))
    assert fitted.feature_names == ("a", "c=5", "c=7")
    assert rows_of(PreparedSource(source, fitted)).tolist() == [[1, 1, 0], [2, 0, 1], [3, 1, 0]]


@pytest.mark.parametrize(
    "type_, expected",
    [("float16", "float32"), ("float32", "float32"), ("int8", "float32"), ("int16", "float32"), ("bool", "float32"),
     ("uint8", "float32"), ("int32", "float64"), ("uint16", "float32"), ("int64", "float64"), ("float64", "float64")],
)  # fmt: skip
def test_working_type(type_: str, expected: str) -> None:
    column = np.array([0, 1, 1]).astype(type_)
    table = MemoryTable({"a": pa.array(column)})
    assert fit(table, Preprocessing()).dtype == expected
    assert fit(ArraySource(column[:, None]), Preprocessing()).dtype == expected
    assert fit(table, Preprocessing(dtype="float64")).dtype == "float64"
    assert rows_of(PreparedSource(table, fit(table, Preprocessing())))[:, 0].tolist() == [0, 1, 1]


def test_is_rounded_once() -> None:
    values = np.array([2**24 + 1, 2**53 + 1, (1 << 54) + (1 << 30) + 1], dtype=np.int64)
    table = MemoryTable({"a": values})
    y = rows_of(PreparedSource(table, fit(table, Preprocessing(dtype="float32"))))
    assert y[:, 0].tolist() == [float(np.float32(float(v))) for v in values.tolist()]


@pytest.mark.parametrize(
    "steps",
    [
        (Standardize(),),
        (Robust(),),
        (MinMax(),),
        (Log1p(), PCA(n_components=2)),
        (Clip(-1, 3), Robust(), L2Normalize()),
    ],
)
@pytest.mark.parametrize("policy", ["drop", "mean"])
@pytest.mark.parametrize("weighted", [True, False])
def test_bits_do_not_depend_on_the_batch_size(steps: tuple[object, ...], policy: str, weighted: bool) -> None:
    x = X[:400].copy()
    x[rng.random(x.shape) < 0.05] = np.nan
    table = MemoryTable({**{c: x[:, i] for i, c in enumerate("abcde")}, "w": rng.random(400), "c": list("xyzx") * 100})
    spec = Preprocessing(tuple("abcde"), policy, ("c",), steps)  # type: ignore[arg-type]
    weight = "w" if weighted else None
    fits = [fit(table, spec, weight_column=weight, batch_rows=rows) for rows in (1000, 7, 64)]
    assert bits(fits[0]) == bits(fits[1]) == bits(fits[2])
    whole = [rows_of(PreparedSource(table, fits[0]), rows).tobytes() for rows in (1000, 3, 50)]
    assert whole[0] == whole[1] == whole[2]


def refused(match: str, raw: object, weight_column: str | None = None, **options: object) -> str:
    with pytest.raises((DataError, ConfigError), match=match) as error:
        fit(raw, Preprocessing(**options), weight_column=weight_column)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_values_are_counted_with_the_first_place() -> None:
    x = X.copy()
    x[700, 3] = x[2500, 0] = x[2999, 1] = np.nan
    refused(
        r"missing \(null or NaN\) 3 values, the first in row 700, column 'f3'; choose a null policy", ArraySource(x)
    )
    refused(r"3 values, the first in row 1, column 'delay'", MemoryTable(TABLE), columns=("hour", "delay"))
    refused(r"1 value, the first in row 4, column 'carrier'", MemoryTable(TABLE), columns=(), one_hot=("carrier",))
    refused(r"row 3, column 'emb\[0\]'", MemoryTable(TABLE), columns=("emb",))


@pytest.mark.parametrize("policy", ["error", "drop", "mean"])
def test_infinity_is_always_refused(policy: str) -> None:
    x = X.copy()
    x[5, 1], x[2000, 4] = -np.inf, np.inf
    for size in (64, 1 << 16):
        with pytest.raises(DataError, match="the data has infinite 2 values, the first in row 5, column 'f1'; replace"):
            fit(ArraySource(x), Preprocessing(null_policy=policy), batch_rows=size)  # type: ignore[arg-type]


def test_float16_overflow_says_so() -> None:
    column = np.array([1.0, np.inf], dtype=np.float16)
    refused("float16 ends at 65504, so store it as float32", MemoryTable({"a": pa.array(column)}))
    refused("float16 ends at 65504, so store it as float32", ArraySource(column[:, None]))


def test_numbers_beyond_float32() -> None:
    source = ArraySource(np.array([[1.0], [2.0], [1e39]]))
    with pytest.raises(DataError, match=r"feature 'f0' of row 2 does not fit in float32.*choose dtype float64"):
        rows_of(PreparedSource(source, fit(source, Preprocessing(dtype="float32"))))


def test_columns() -> None:
    table = MemoryTable(TABLE)
    refused("the data has no column 'delai'; did you mean 'delay'", table, columns=("delai",))
    refused("no column 'zzz'; its columns are delay, hour", table, columns=("zzz",))
    refused(
        "column 'carrier' is string, expected numbers; leave it out or expand it with one-hot",
        table,
        columns=("carrier",),
    )
    refused("no column 'wt'", table, weight_column="wt")
    refused("is the weight column", table, weight_column="w", columns=("w",))
    refused("no column 'f7'", ArraySource(X), columns=("f7",))
    refused("expected vectors of one length", MemoryTable({"e": [[1.0], [2.0, 3.0]]}), columns=("e",))
    refused("is timestamp.* cast it", MemoryTable({"t": pa.array([0], pa.timestamp("s"))}), columns=("t",))
    refused("no numeric column to cluster; its columns are c", MemoryTable({"c": ["x"]}))
    refused("two columns called 'a'", MemoryTable(pa.table([[1.0], [2.0]], names=["a", "a"])), columns=("a",))
    refused("two columns called 'a'", MemoryTable(pa.table([[1.0], [2.0]], names=["a", "a"])))
    refused("two columns called 'a'", ArraySource(X[:, :2], names=["a", "a"]))
    refused("expected vectors of one length", MemoryTable({"e": [[1.0], [2.0, 3.0]], "c": ["x", "y"]}))
    refused(r"two features would be called 'emb\[0\]'", MemoryTable(TABLE.add_column(0, "emb[0]", TABLE["w"])),
            null_policy="mean")  # fmt: skip
    refused(r"two features would be called 'pca\[0\]'", ArraySource(X, names=["pca[0]", *"abcd"]),
            steps=(PCA(n_components=1, columns=("a", "b")),))  # fmt: skip
    refused("one-hot takes text, numbers and booleans", MemoryTable({"e": [[1.0]]}), columns=(), one_hot=("e",))
    refused("one-hot takes text, numbers and booleans", table, columns=(), one_hot=("emb",))
    refused("'dely', which is no feature here; did you mean 'delay'", table, columns=("delay",), null_policy="drop",
            steps=(Log1p(columns=("dely",)),))  # fmt: skip
    refused("n_components=9, but there are 5 features", ArraySource(X), steps=(PCA(n_components=9),))
    refused("no features to work on", MemoryTable({"c": ["x"]}), columns=(), one_hot=("c",), steps=(Standardize(),))


def test_rows() -> None:
    refused("has no rows", MemoryTable({"a": pa.array([], pa.float64())}))
    nothing = MemoryTable({"a": pa.array([None, None], pa.float64())})
    refused("all 2 rows of the data miss a value", nothing, null_policy="drop")
    refused("column 'a' of the data has no values at all", nothing, null_policy="mean")


def test_weights() -> None:
    table = MemoryTable({"a": [1.0, 2.0, 3.0], "n": [1.0, -1.0, -2.0], "z": [0.0, 0.0, 0.0], "m": [1.0, None, np.inf]})
    refused("negative weights: 2 values, the first in row 1, column 'n'", table, weight_column="n", columns=("a",))
    refused("all weights of the data are 0", table, weight_column="z", columns=("a",))
    refused(
        "missing or infinite weights: 2 values, the first in row 1, column 'm'",
        table,
        weight_column="m",
        columns=("a",),
    )
    refused("column 'w' is string, expected numbers", MemoryTable({"a": [1.0], "w": ["x"]}), weight_column="w")
    refused("no column 'wait'", table, weight_column="wait", columns=("a",))


def test_steps_that_do_not_suit_the_data() -> None:
    source = ArraySource(np.array([[1.0, 2.0], [3.0, -1.0], [0.0, 0.0]]))
    spec = Preprocessing(steps=(Log1p(),))
    with pytest.raises(DataError, match=r"log1p needs values above -1, but row 1 has -1\.0"):
        rows_of(PreparedSource(source, fit(source, spec)))
    refused("log1p needs values above -1, but row 1 has", source, steps=(Log1p(), Standardize()))
    with pytest.raises(DataError, match="row 2 is zero and has no direction"):
        rows_of(PreparedSource(source, fit(source, Preprocessing(steps=(L2Normalize(),)))))
    refused(
        "feature 'f0' is 1e\\+200 in row 0, too large", ArraySource(np.array([[1e200], [0]])), steps=(Standardize(),)
    )


def test_too_many_categories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpukm.preprocessing.survey.MOST_CATEGORIES", 2)
    refused("'carrier' has more than 2 different values", MemoryTable(TABLE), columns=(), one_hot=("carrier",),
            null_policy="drop")  # fmt: skip
