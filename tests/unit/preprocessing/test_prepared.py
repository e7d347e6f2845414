from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from gpukm.errors import ConfigError, DataError
from gpukm.preprocessing import Clip, Fitted, Log1p, PreparedSource, Preprocessing, Standardize, fit
from gpukm.sources.array import ArraySource
from gpukm.sources.table import MemoryTable
from tests.unit.preprocessing.inputs import rows_of

X = np.random.default_rng(4).standard_normal((50, 3)).astype(np.float32)
PLAIN = Preprocessing()


def test_a_matrix_passes_through_without_a_copy() -> None:
    source = ArraySource(X)
    prepared = PreparedSource(source, fit(source, PLAIN))
    assert all(np.shares_memory(b.x, X) for b in prepared.batches(20))
    assert prepared.array() is X
    assert (prepared.dtype, prepared.n_features, prepared.n_rows) == (np.float32, 3, 50)
    assert prepared.names == ("f0", "f1", "f2")


def test_a_vector_column_passes_through_without_a_copy() -> None:
    entries = pa.array(X.ravel())
    table = MemoryTable({"emb": pa.FixedSizeListArray.from_arrays(entries, 3)})
    prepared = PreparedSource(table, fit(table, PLAIN))
    for batch in prepared.batches(20, 10, 45):
        assert np.shares_memory(batch.x, entries.to_numpy())
        assert (batch.x == X[batch.row_numbers]).all()


def test_array_is_none_where_something_is_to_be_done() -> None:
    source = ArraySource(X, names=list("abc"))
    for spec in (
        Preprocessing(steps=(Standardize(),)),
        Preprocessing(columns=("b", "a", "c")),
        Preprocessing(dtype="float64"),
    ):
        assert PreparedSource(source, fit(source, spec)).array() is None
    with_gap = X.copy()
    with_gap[3, 1] = np.nan
    gap = ArraySource(with_gap)
    assert PreparedSource(gap, fit(gap, Preprocessing(null_policy="drop"))).array() is None


def test_columns_of_a_matrix_in_another_order() -> None:
    source = ArraySource(X, names=list("abc"))
    assert (rows_of(PreparedSource(source, fit(source, Preprocessing(columns=("c", "a"))))) == X[:, [2, 0]]).all()


def test_weights_of_a_matrix_go_along() -> None:
    weights = np.arange(50.0)
    source = ArraySource(X, weights)
    prepared = PreparedSource(source, fit(source, Preprocessing(steps=(Standardize(),))))
    assert np.concatenate([b.weight for b in prepared.batches(7)]).tolist() == weights.tolist()  # type: ignore[misc]
    assert PreparedSource(source, fit(source, PLAIN)).weights() is weights


def test_a_matrix_column_as_weight() -> None:
    source = ArraySource(np.abs(X), names=list("abw"))
    prepared = PreparedSource(source, fit(source, PLAIN, weight_column="w"), weight_column="w")
    batch = next(iter(prepared.batches(50)))
    assert prepared.names == ("a", "b")
    assert batch.weight is not None
    assert (batch.weight == np.abs(X[:, 2])).all()
    assert (batch.x == np.abs(X[:, :2])).all()


def test_the_raw_rows_are_never_changed() -> None:
    x = np.abs(X.astype(np.float64))
    before = x.copy()
    source = ArraySource(x)
    rows_of(PreparedSource(source, fit(source, Preprocessing(steps=(Log1p(), Clip(0, 1), Standardize())))))
    assert (x == before).all()


def test_other_types_of_numbers_are_fine_at_assign() -> None:
    fitted = fit(
        MemoryTable({"a": [1.0, 2.0, 4.0], "c": [1, 2, 1]}), Preprocessing(one_hot=("c",), steps=(Standardize(),))
    )
    other = MemoryTable({"c": pa.array([2, 1], pa.int8()), "more": ["x", "y"], "a": pa.array([4, 1], pa.int32())})
    expected = rows_of(PreparedSource(MemoryTable({"a": [4.0, 1.0], "c": [2, 1]}), fitted))
    assert rows_of(PreparedSource(other, fitted)).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "data, message",
    [
        ({"a": [1.0], "v": [[1.0, 2.0]]}, r"'c' is missing"),
        ({"A": [1.0], "c": ["x"]}, r"'a' is missing \(there is 'A'\); 'v' is missing"),
        ({"a": ["1"], "c": ["x"], "v": [[1.0, 2.0]]}, r"'a' is string, was double"),
        ({"a": [1.0], "c": [3], "v": [[1.0, 2.0]]}, r"'c' is int64, was string"),
        ({"a": [1.0], "c": ["x"], "v": [[1.0, 2.0, 3.0]]}, r"'v' is fixed_size_list.*3\], was double\[2\]"),
        ({"a": [1.0], "c": ["x"], "v": [2.0]}, r"'v' is double, was double\[2\]"),
    ],
)
def test_schema_that_differs(data: dict[str, list[object]], message: str) -> None:
    def table(columns: dict[str, list[object]]) -> MemoryTable:
        vectors = {k: pa.list_(pa.float64(), len(v[0])) for k, v in columns.items() if isinstance(v[0], list)}
        return MemoryTable({k: pa.array(v, vectors.get(k)) for k, v in columns.items()})

    fitted = fit(table({"a": [1.0, 2.0], "c": ["x", "y"], "v": [[1.0, 2.0], [0.0, 1.0]]}),
                 Preprocessing(columns=("a", "v"), one_hot=("c",)))  # fmt: skip
    with pytest.raises(DataError, match=f"does not have the columns of the training: .*{message}") as error:
        PreparedSource(table(data), fitted)
    assert "\n" not in str(error.value)


def test_a_matrix_of_another_width() -> None:
    fitted = fit(ArraySource(X), PLAIN)
    with pytest.raises(DataError, match="it has 4 columns, expected 3"):
        PreparedSource(ArraySource(np.zeros((2, 4))), fitted)
    with pytest.raises(DataError, match="it has 2 columns, expected 3"):
        PreparedSource(ArraySource(np.zeros((2, 2))), fitted)


def test_unknown_categories_are_zeros_and_counted() -> None:
    fitted = fit(MemoryTable({"c": ["x", "y"]}), Preprocessing(columns=(), one_hot=("c",)))
    prepared = PreparedSource(MemoryTable({"c": ["y", "z", "q", "x"]}), fitted)
    assert prepared.warnings == ()
    for _ in range(2):
        assert rows_of(prepared, 3).tolist() == [[0, 1], [0, 0], [0, 0], [1, 0]]
        assert prepared.warnings == (
            "2 rows have a category in column 'c' that training has not seen; they count as none of them",
        )


def test_unknown_categories_may_be_an_error() -> None:
    spec = Preprocessing(columns=(), one_hot=("c",), unknown_category="error")
    prepared = PreparedSource(MemoryTable({"c": ["y", "z"]}), fit(MemoryTable({"c": ["x", "y"]}), spec))
    with pytest.raises(DataError, match="'z' in row 1, column 'c', a category that training has not seen"):
        rows_of(prepared)


def test_bad_values_at_assign_are_counted() -> None:
    fitted = fit(ArraySource(X), PLAIN)
    x = X.copy()
    x[10, 2] = x[40, 0] = np.inf
    prepared = PreparedSource(ArraySource(x), fitted)
    seen: list[int] = []
    with pytest.raises(DataError, match="infinite 2 values, the first in row 10, column 'f2'"):
        seen.extend(b.first_row for b in prepared.batches(8))
    assert seen == [0]
    with pytest.raises(DataError, match="infinite 1 value, the first in row 40"):
        list(prepared.batches(8, 16, 48))
    assert len(list(PreparedSource(ArraySource(x), fitted, check=False).batches(8))) == 7


def test_pass_columns_of_a_matrix() -> None:
    source = ArraySource(X)
    with pytest.raises(ConfigError, match="cannot be handed through from a matrix"):
        PreparedSource(source, fit(source, PLAIN), pass_columns=("f0",))


def test_batches_of_dropped_rows_are_empty() -> None:
    table = MemoryTable({"a": pa.array([None, None, 1.0, 2.0])})
    batches = list(PreparedSource(table, fit(table, Preprocessing(null_policy="drop"))).batches(2))
    assert [b.x.shape for b in batches] == [(0, 1), (2, 1)]
    assert [b.row_numbers.tolist() for b in batches] == [[], [2, 3]]


def test_pickle() -> None:
    table = MemoryTable({"a": [1.0, 2.0], "c": ["x", "y"]})
    prepared = PreparedSource(table, fit(table, Preprocessing(one_hot=("c",), steps=(Standardize(),))))
    assert rows_of(pickle.loads(pickle.dumps(prepared))).tobytes() == rows_of(prepared).tobytes()
    assert isinstance(prepared.fitted, Fitted)


def test_a_matrix_is_prepared_without_pyarrow() -> None:
    code = (
        "import sys, numpy as np; from gpukm.preprocessing import *; from gpukm.sources.array import ArraySource\n"
        "x = np.array([[1.0, 2.0], [np.nan, 3.0], [4.0, 1.0]]); s = ArraySource(x)\n"
        "p = PreparedSource(s, fit(s, Preprocessing(null_policy='drop', one_hot=('f1',), steps=(Standardize(),))))\n"
        "assert sum(len(b.x) for b in p.batches(2)) == 2\n"
        "print(*sorted({'pyarrow', 'pandas', 'fsspec', 'pydantic'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
