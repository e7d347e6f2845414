"""Groups of a table and the names of their models."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpukm.errors import ConfigError, DataError
from gpukm.pipeline.groups import group_model, group_value, split
from gpukm.snapshots.store import _MODEL
from gpukm.sources.table import MemoryTable


@given(st.text(max_size=8))
def test_names_are_safe_and_can_be_read_back(value: str) -> None:
    name = group_model("m.1", value)
    assert _MODEL.fullmatch(name) and name.startswith("m.1.")
    assert group_value(name) == value


@given(st.lists(st.text(max_size=6), unique=True, max_size=8))
def test_names_differ_where_values_do(values: list[str]) -> None:
    assert len({group_model("m", value) for value in values}) == len(values)


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 100"):
        group_model("m", "x" * 120)


def table(keys: pa.Array) -> MemoryTable:
    return MemoryTable(pa.table({"v": np.arange(float(len(keys))), "key": keys, "u": np.ones(len(keys))}))


@pytest.mark.parametrize(
    "keys, values",
    [
        (pa.array(["b", "a", None, "b", "a"]), ["a", "b"]),
        (pa.array(["b", "a", None, "b", "a"]).dictionary_encode(), ["a", "b"]),
        (pa.array([10, 9, None, 10, 9]), ["9", "10"]),
        (pa.array([True, False, None, True, False]), ["false", "true"]),
        (pa.array([datetime.date(2024, 1, 2), datetime.date(2023, 1, 2), None] * 2)[:5], ["2023-01-02", "2024-01-02"]),
    ],
)
def test_rows_keep_their_order_within_groups(keys: pa.Array, values: list[str]) -> None:
    groups, missing = split(table(keys), "key", ["u", "v"], 1 << 30)
    assert [g.value for g in groups] == values
    at = np.array([k is not None for k in keys.to_pylist()])
    assert missing == int((~at).sum())
    assert groups[0].table.schema.names == ["v", "u"]
    for group in groups:
        assert group.table.table["v"].to_pylist() == group.rows.tolist() == sorted(group.rows.tolist())
    assert sorted(np.concatenate([g.rows for g in groups]).tolist()) == np.flatnonzero(at).tolist()


def test_what_cannot_be_grouped_is_refused() -> None:
    with pytest.raises(DataError, match="expected text, whole numbers"):
        split(table(pa.array([1.5, 2.5])), "key", ["v"], 1 << 30)
    with pytest.raises(DataError, match="has no column"):
        split(table(pa.array([1, 2])), "keys", ["v"], 1 << 30)
    with pytest.raises(ConfigError, match="raise --memory-limit"):
        split(table(pa.array(np.arange(1000))), "key", ["v"], 1000)
