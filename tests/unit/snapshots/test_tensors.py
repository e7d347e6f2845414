"""Arrays to bytes that never change, and back with distrust."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load

from gpukm.errors import DataError, SnapshotCorruptError
from gpukm.snapshots.blobs import DIGEST
from gpukm.snapshots.canonical import sha256
from gpukm.snapshots.tensors import decode, describe, encode

_DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
_arrays = hnp.arrays(
    st.sampled_from(_DTYPES).map(np.dtype),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


def _bytes(tensors: dict[str, np.ndarray], **kwargs: object) -> bytes:
    return b"".join(encode(tensors, **kwargs))  # type: ignore[arg-type]


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), _arrays, max_size=5))
def test_round_trip(tensors: dict[str, np.ndarray]) -> None:
    tensors.pop("__metadata__", None)
    data = _bytes(tensors, non_finite=tensors)
    back = decode(data, {name: describe(array) for name, array in tensors.items()}, frozenset(tensors), "blob")
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
        assert not back[name].flags.writeable
    assert _bytes(dict(reversed(list(tensors.items()))), non_finite=tensors) == data


def test_layout_does_not_matter() -> None:
    base = np.arange(12, dtype=np.float64).reshape(3, 4)
    expected = _bytes({"a": base})
    for other in (np.asfortranarray(base), base.astype(">f8"), np.repeat(base, 2, axis=0)[::2]):
        assert _bytes({"a": other}) == expected


def test_the_bytes_are_fixed() -> None:
    tensors = {"b": np.array([1.5], dtype=np.float32), "a": np.array([[1], [2]]), "c": np.array(True), "e": np.zeros(0)}
    data = _bytes(tensors)
    assert sha256(data) == "980c91922a738a6e39afe6c2b2be996cea4d6ab87e73d2861c0af133dc80bfce"
    assert DIGEST.fullmatch(sha256(data))
    assert {name: array.tolist() for name, array in load(data).items()} == {
        "b": [1.5],
        "a": [[1], [2]],
        "c": True,
        "e": [],
    }


def test_non_finite_values_need_permission() -> None:
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(DataError, match="tensor 'a' holds 1 values that are NaN or infinite"):
            encode({"a": np.array([0.0, value], dtype=np.float32)})
        data = _bytes({"a": np.array([0.0, value])}, non_finite={"a"})
        entry = {"a": describe(np.zeros(2))}
        np.testing.assert_array_equal(decode(data, entry, frozenset({"a"}), "blob")["a"], [0.0, value])
        with pytest.raises(SnapshotCorruptError, match="holds NaN or infinity"):
            decode(data, entry, frozenset(), "blob")


def test_objects_are_refused() -> None:
    for array in (np.array([object()]), np.array(["a"]), np.array([1j]), np.array(["2013-01-01"], dtype="M8[s]")):
        with pytest.raises(DataError, match="is of type"):
            encode({"a": array})


def test_damaged_blobs_are_refused() -> None:
    good = _bytes({"a": np.arange(4.0)})
    entry = {"a": describe(np.zeros(4))}
    header = json.dumps({"a": {"dtype": "F64", "shape": [4], "data_offsets": [0, 1 << 60]}}).encode()
    overlong = (1 << 62).to_bytes(8, "little") + good[8:]
    outside = len(header).to_bytes(8, "little") + header + bytes(32)
    for damaged in (b"", good[:7], good[:20], good[:-1], good + b"x", overlong, outside):
        with pytest.raises(SnapshotCorruptError, match="not a safetensors file"):
            decode(damaged, entry, frozenset(), "blob")
    for other in ({}, {"a": describe(np.zeros(3))}, {"a": describe(np.zeros(4, "f4"))}, {**entry, "b": entry["a"]}):
        with pytest.raises(SnapshotCorruptError, match="does not hold the tensors its manifest lists"):
            decode(good, other, frozenset(), "blob")
