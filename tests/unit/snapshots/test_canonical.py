"""Canonical JSON: one spelling a value, strict reading."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpukm.errors import ConfigError, SnapshotCorruptError
from gpukm.snapshots.canonical import canonical_json, field, parse_json

_text = st.text(st.characters(exclude_categories=["Cs"]))
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner) | st.dictionaries(_text, inner),
    max_leaves=20,
)


@given(st.dictionaries(_text, _values))
def test_round_trip_and_one_spelling(value: dict[str, object]) -> None:
    data = canonical_json(value)
    back = parse_json(data, "it")
    assert back == value
    assert canonical_json(back) == data
    assert canonical_json(dict(reversed(list(value.items())))) == data


def test_spelling() -> None:
    value = {"b": (1, 2.0, -0.0, 1e-7), "a": [np.float32(0.1), np.int64(2**62), np.bool_(True), None], "é": "\u2028/"}
    assert canonical_json(value).decode() == (
        '{"a":[0.10000000149011612,4611686018427387904,true,null],"b":[1,2.0,-0.0,1e-07],"é":"\u2028/"}'
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan"), b"x", {1}, 1j, np.zeros(2), "\ud800"])
def test_what_is_not_json_is_refused(value: object) -> None:
    with pytest.raises(ConfigError):
        canonical_json({"x": value})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'{"a":1} x',
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b"\xff{}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_damaged_is_named(data: bytes) -> None:
    with pytest.raises(SnapshotCorruptError, match="the manifest is damaged"):
        parse_json(data, "the manifest")


def test_field_checks_the_type() -> None:
    assert field({"n": 3}, "n", int, "it") == 3
    for value in ({}, {"n": True}, {"n": "3"}, {"n": None}):
        with pytest.raises(SnapshotCorruptError, match="'n' is"):
            field(value, "n", int, "it")


def test_floats_survive_json_bit_for_bit() -> None:
    values = np.random.Generator(np.random.Philox(1)).integers(0, 2**64, 2000, dtype=np.uint64).view(np.float64)
    values = values[np.isfinite(values)]
    back = np.array(json.loads(canonical_json({"v": list(values)}))["v"])
    assert back.tobytes() == values.tobytes()
