from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from gpukm.errors import DataError
from gpukm.sources import npy
from gpukm.sources.npy import NpySource
from tests.conformance.source import SourceConformance

X = np.random.Generator(np.random.Philox(2)).standard_normal((83, 4))


class TestLocal(SourceConformance):
    @pytest.fixture(params=["float64", "float32", "float16", ">f4", "int16", "int64"])
    def given(self, request: pytest.FixtureRequest) -> np.ndarray:
        return (X * 50).astype(request.param)

    @pytest.fixture
    def source(self, given: np.ndarray, tmp_path: Path) -> NpySource:
        np.save(tmp_path / "x.npy", given)
        return NpySource(str(tmp_path / "x.npy"))

    @pytest.fixture
    def expected(self, given: np.ndarray) -> np.ndarray:
        return given.astype(np.float64 if given.dtype.itemsize == 8 else np.float32)


class TestColumnOrder(SourceConformance):
    @pytest.fixture
    def source(self, tmp_path: Path) -> NpySource:
        np.save(tmp_path / "x.npy", np.asfortranarray(X))
        return NpySource(str(tmp_path / "x.npy"))

    @pytest.fixture
    def expected(self) -> np.ndarray:
        return X


class TestUrl(SourceConformance):
    @pytest.fixture
    def source(self, tmp_path: Path) -> NpySource:
        np.save(tmp_path / "x.npy", X)
        fsspec.filesystem("memory").pipe("/npy/x.npy", (tmp_path / "x.npy").read_bytes())
        return NpySource("memory://npy/x.npy")

    @pytest.fixture
    def expected(self) -> np.ndarray:
        return X

    def test_is_never_in_memory(self, source: NpySource) -> None:
        assert source.array() is None


def test_the_array_is_a_map_of_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    array = NpySource(str(tmp_path / "x.npy")).array()
    assert array is not None and not array.flags.writeable
    base: Any = array
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_a_pickle_holds_no_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((10_000, 4)))
    source = NpySource(str(tmp_path / "x.npy"))
    assert source.array() is not None
    assert len(pickle.dumps(source)) < 10_000


def test_what_does_not_fit_is_read_by_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npy, "available_bytes", lambda: 2 * X.nbytes - 1)
    np.save(tmp_path / "x.npy", X)
    source = NpySource(str(tmp_path / "x.npy"))
    assert source.array() is None
    assert np.concatenate([b.x for b in source.batches(10)]).tobytes() == X.tobytes()
    np.save(tmp_path / "f.npy", np.asfortranarray(X))
    with pytest.raises(DataError, match="ascontiguousarray"):
        list(NpySource(str(tmp_path / "f.npy")).batches(10))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (X[0], r"shape \(4,\)"),
        (X[:0], "no rows"),
        (X[:, :0], "expected a matrix"),
        (np.array([["a"]]), "expected numbers"),
        (X.astype(complex), "complex128"),
        (np.array([[None, 1]], dtype=object), "object"),
        (np.zeros(3, [("a", "f8")]), "expected a matrix"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        NpySource(str(tmp_path / "x.npy"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"not numpy at all", "not a readable .npy file"),
        (b"\x93NUMPY\x01\x00", "not a readable .npy file"),
        (b"\x93NUMPY\x09\x00" + b" " * 99, "not a readable .npy file"),
    ],
)
def test_other_bytes_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match=message):
        NpySource(str(tmp_path / "x.npy"))


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(DataError, match="cut off"):
        NpySource(str(path))


def test_a_file_cut_off_later_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X)
    source = NpySource(str(path))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(DataError, match="changed while being read"):
        list(source.batches(10))
    np.save(path, X[:9])
    with pytest.raises(DataError, match="changed since"):
        source.array()


def test_a_folder_needs_one_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    assert NpySource(str(tmp_path)).n_rows == len(X)
    np.save(tmp_path / "y.npy", X)
    with pytest.raises(DataError, match=r"2 .npy files, expected one"):
        NpySource(str(tmp_path))
