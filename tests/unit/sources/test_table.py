from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from gpukm.errors import DataError
from gpukm.sources.table import MemoryTable, joined
from tests.conformance.source import TableConformance, rows_of

DATA = {"x": np.arange(60) / 4, "n": np.arange(60), "s": [f"v{i % 7}" for i in range(60)]}


class TestArrowTable(TableConformance):
    @pytest.fixture
    def expected(self) -> pa.Table:
        return pa.concat_tables([pa.table(DATA).slice(0, 25), pa.table(DATA).slice(25)])

    @pytest.fixture
    def table(self, expected: pa.Table) -> MemoryTable:
        return MemoryTable(expected)


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(DATA),
        pl.DataFrame(DATA),
        pa.table(DATA),
        pa.record_batch(DATA),
        pa.RecordBatchReader.from_batches(pa.table(DATA).schema, pa.table(DATA).to_batches()),
    ],
    ids=lambda frame: f"{type(frame).__module__}.{type(frame).__name__}",
)
def test_any_library_gives_the_same_rows(frame: object) -> None:
    table = MemoryTable(frame)
    assert table.n_rows == 60 and table.schema.names == ["x", "n", "s"]
    assert rows_of(table, ["n", "s", "x"], 7, start=20, stop=41) == [
        {"n": i, "s": f"v{i % 7}", "x": i / 4} for i in range(20, 41)
    ]


def test_an_index_is_no_column() -> None:
    frame = pd.DataFrame(DATA)
    assert MemoryTable(frame[frame.n > 5]).schema.names == ["x", "n", "s"]
    assert MemoryTable(frame.set_index("s")).schema.names == ["x", "n"]


def test_numbers_as_names_become_text() -> None:
    assert MemoryTable(pd.DataFrame(np.zeros((3, 2)))).schema.names == ["0", "1"]


@pytest.mark.parametrize(
    "array", [pa.FixedSizeListArray.from_arrays(np.arange(6.0), 2), pl.Series("e", np.arange(6.0).reshape(3, 2))]
)
def test_one_array_of_vectors_is_a_column(array: object) -> None:
    table = MemoryTable(array)
    assert table.n_rows == 3 and pa.types.is_fixed_size_list(table.schema.field("x").type)
    assert rows_of(table, ["x"])[1] == {"x": [2, 3]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pl.Series([1.0, 2.0]), "one array of double"),
        (pa.array([1, 2]), "one array of int64"),
        (pd.Series([1.0, 2.0]), "one array of double"),
        (pd.DataFrame({"a": [1, "x"]}), "one type a column"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "Duplicate"),
    ],
)
def test_what_has_no_columns_is_refused(data: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        MemoryTable(data)


def test_a_name_that_is_there_twice_cannot_be_asked_for() -> None:
    table = MemoryTable(pa.table([[1], [2], [3]], names=["a", "a", "b"]))
    assert rows_of(table, ["b"]) == [{"b": 3}]
    with pytest.raises(DataError, match="2 columns called 'a'"):
        rows_of(table, ["a"])


def _join(a: dict[str, pa.DataType], b: dict[str, pa.DataType]) -> pa.Schema:
    return joined(pa.schema(list(a.items())), pa.schema(list(b.items())), "d/1.parquet", "d/2.parquet")


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.null(), pa.float32(), pa.float32()),
        (pa.string(), pa.null(), pa.string()),
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.list_(pa.float32(), 3), pa.list_(pa.float64(), 3), pa.list_(pa.float64(), 3)),
    ],
)
def test_types_that_hold_each_other_are_joined(a: pa.DataType, b: pa.DataType, both: pa.DataType) -> None:
    assert _join({"x": a}, {"x": b}).field("x").type == both
    assert _join({"x": b}, {"x": a}).field("x").type == both


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ({"x": pa.int64()}, {"x": pa.string()}, "column 'x' is int64 in 1.parquet and string in 2.parquet"),
        ({"x": pa.list_(pa.float32(), 3)}, {"x": pa.list_(pa.float32(), 4)}, r"\[3\] in 1.parquet"),
        ({"x": pa.int64()}, {"x": pa.int64(), "y": pa.int64()}, "1.parquet has no column 'y', 2.parquet has"),
        ({"x": pa.int64(), "y": pa.int64()}, {"y": pa.int64()}, "2.parquet has no column 'x', 1.parquet has"),
    ],
)
def test_columns_that_do_not_fit_are_named(a: dict[str, pa.DataType], b: dict[str, pa.DataType], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _join(a, b)
