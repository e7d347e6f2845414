"""From settings to sources: names, columns and conditions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gpukm.config import Settings
from gpukm.errors import ConfigError, DataError
from gpukm.pipeline.inputs import feature_columns, model_name, open_input, the_model
from gpukm.pipeline.where import Condition, Filtered, parse_condition
from gpukm.sources.array import ArraySource
from gpukm.sources.table import MemoryTable

TABLE = pa.table(
    {
        "id": ["a", "b", "c", "d", "e"],
        "month": [1, 2, 1, 1, 2],
        "x": [0.0, 1.0, 2.0, 3.0, 4.0],
        "carrier": pa.array(["AA", None, "UA", "AA", "AA"]).dictionary_encode(),
    }
)


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("flights.parquet", "flights"),
        ("/data/2013/New York flights.csv.gz", "New-York-flights"),
        ("s3://key:secret@bucket/a/b.parquet?versionId=3", "b"),
        ("data/flights/", "flights"),
        ("data/flights/*.parquet", "flights"),
        ("v1.2.npy", "v1.2"),
    ],
)
def test_a_model_is_called_like_its_data(location: str, name: str) -> None:
    assert model_name(location) == name


@pytest.mark.parametrize("location", ["*.parquet", "---.csv"])
def test_where_no_name_can_be_made_one_must_be_given(location: str) -> None:
    with pytest.raises(ConfigError, match="--model"):
        model_name(location)


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ({}, None),
        ({"columns": ("x",)}, ("x",)),
        ({"exclude": ("month",)}, ("x",)),
        ({"id_column": ("id", "month")}, ("x",)),
        ({"exclude": ("x",), "one_hot": ("carrier",)}, ("month",)),
        ({"exclude": ("carrier",), "weight_column": "month"}, ("x",)),
    ],
)
def test_columns_are_chosen(settings: dict[str, object], columns: tuple[str, ...] | None) -> None:
    assert feature_columns(MemoryTable(TABLE), Settings(**settings)) == columns  # type: ignore[arg-type]


def test_columns_of_a_matrix_can_be_left_out() -> None:
    assert feature_columns(ArraySource(np.zeros((3, 3))), Settings(exclude=("f1",))) == ("f0", "f2")


@pytest.mark.parametrize("settings", [{"columns": ("y",)}, {"exclude": ("y",)}, {"id_column": ("y",)}])
def test_columns_that_are_not_there_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(DataError, match="no column 'y'"):
        feature_columns(MemoryTable(TABLE), Settings(**settings))  # type: ignore[arg-type]


def rows(table: Filtered, columns: list[str], size: int, start: int = 0, stop: int | None = None) -> list[object]:
    """(row number, values) of everything that is read."""
    found: list[object] = []
    for first, batch in table.record_batches(columns, size, start, stop):
        assert batch.schema.names == columns and 0 < batch.num_rows <= size
        found += [(first + i, *row.values()) for i, row in enumerate(batch.to_pylist())]
    return found


@pytest.mark.parametrize("size", [1, 2, 10])
def test_rows_are_selected_and_numbered_anew(size: int) -> None:
    table = Filtered(MemoryTable(TABLE), [Condition("month", "1")])
    assert table.n_rows is None
    assert rows(table, ["id"], size) == [(0, "a"), (1, "c"), (2, "d")]
    assert rows(table, ["id"], size, 1) == [(1, "c"), (2, "d")]
    assert rows(table, ["id"], size, 1, 2) == [(1, "c")]
    assert rows(table, ["month", "id"], size, 2, 9) == [(2, 1, "d")]


def test_all_conditions_must_hold_and_missing_values_never_do() -> None:
    table = Filtered(MemoryTable(TABLE), [Condition("carrier", "AA"), Condition("month", "2")])
    assert rows(table, ["id"], 10) == [(0, "e")]


def test_conditions_are_read(tmp_path: Path) -> None:
    assert parse_condition(" month = 12 ") == Condition("month", "12")
    assert parse_condition("a=b=c") == Condition("a", "b=c")
    for text in ("month", "=1", ""):
        with pytest.raises(ConfigError, match="COLUMN=VALUE"):
            parse_condition(text)
    with pytest.raises(DataError, match="int64"):
        Filtered(MemoryTable(TABLE), [Condition("month", "may")])
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    with pytest.raises(ConfigError, match="named columns"):
        open_input(str(tmp_path / "x.npy"), ["f0=1"])


class _Models:
    """A store that holds models of these names."""

    def __init__(self, *names: str) -> None:
        self.names, self.location = list(names), "the store"

    def models(self) -> list[str]:
        return self.names


def test_the_model_is_found() -> None:
    assert the_model(_Models("a", "b"), "c", "b.csv") == "c"  # type: ignore[arg-type]
    assert the_model(_Models("a", "b"), None, "b.csv") == "b"  # type: ignore[arg-type]
    assert the_model(_Models("a"), None, "b.csv") == "a"  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="several models"):
        the_model(_Models("a", "b"), None, None)  # type: ignore[arg-type]
