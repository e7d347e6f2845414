from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from gpukm.errors import DataError
from gpukm.sources.array import ArraySource, check_weights, working_dtype
from gpukm.sources.csr import CsrSource
from tests.conformance.source import SourceConformance

RNG = np.random.Generator(np.random.Philox(1))
DENSE = np.where(RNG.random((97, 5)) < 0.6, 0, RNG.standard_normal((97, 5)))


class TestArraySource(SourceConformance):
    @pytest.fixture(params=["float64", "float32", "float16", "int16", ">f4", ">f8", "uint8", "bool"])
    def given(self, request: pytest.FixtureRequest) -> np.ndarray:
        return (RNG.standard_normal((97, 5)) * 9).astype(request.param)

    @pytest.fixture
    def source(self, given: np.ndarray) -> ArraySource:
        return ArraySource(given, weight=np.arange(len(given)))

    @pytest.fixture
    def expected(self, given: np.ndarray) -> np.ndarray:
        wide = given.dtype.itemsize == 8
        return given.astype(np.float64 if wide else np.float32)


class TestCsrSource(SourceConformance):
    @pytest.fixture(params=[sp.csr_matrix, sp.csr_array])
    def source(self, request: pytest.FixtureRequest) -> CsrSource:
        return CsrSource(request.param(DENSE))

    @pytest.fixture
    def expected(self) -> np.ndarray:
        return DENSE


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        *((t, "float32") for t in ("float16", "float32", ">f4", "int8", "int16", "uint8", "uint16", ">i2", "bool")),
        *((t, "float64") for t in ("float64", ">f8", "int32", "int64", "uint32", "uint64", "longdouble")),
    ],
)
def test_working_dtype(dtype: str, expected: str) -> None:
    assert working_dtype(dtype) == np.dtype(expected)


def test_memory_in_the_right_form_is_not_copied() -> None:
    x = RNG.standard_normal((8, 3))
    assert np.shares_memory(ArraySource(x).x, x)
    assert np.shares_memory(next(ArraySource(x).batches(4)).x, x)


@pytest.mark.parametrize("change", [lambda x: x[:, ::2], lambda x: x[::-1], np.asfortranarray, lambda x: x.T])
def test_other_layouts_are_copied_and_left_alone(change: object) -> None:
    x = change(RNG.standard_normal((8, 8)))  # type: ignore[operator]
    before = x.copy()
    source = ArraySource(x)
    assert not np.shares_memory(source.x, x)
    source.x[:] = 0
    assert (x == before).all()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(3), r"shape \(3,\)"),
        (np.zeros((3, 0)), "at least one feature"),
        (np.zeros((2, 2), complex), "complex128"),
        (np.array([["a"]]), "expected numbers"),
        (np.array([[None]]), "object"),
        (np.ma.masked_array([[1.0, 2.0]], [[False, True]]), "masked"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(x: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ArraySource(x)


def test_names_are_one_for_each_feature() -> None:
    assert ArraySource(np.zeros((2, 2)), names=["a", "b"]).names == ("a", "b")
    with pytest.raises(DataError, match="3 names for 2 features"):
        ArraySource(np.zeros((2, 2)), names="abc")


def test_weights_go_with_their_rows() -> None:
    for source in (ArraySource(DENSE, weight=range(97)), CsrSource(sp.csr_array(DENSE), weight=range(97))):
        got = [w for b in source.batches(10, 13, 55) if b.weight is not None for w in b.weight]
        assert got == list(range(13, 55))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1, 2], r"shape \(2,\), expected \(3,\)"),
        ([1, np.nan, np.inf], "2 values that are not finite, the first in row 1"),
        ([1, 2, -1], "1 negative values, the first in row 2"),
        (["1", "2", "x"], "cannot be read as numbers; give one number for each row"),
        (["1", "2", "3"], "cannot be read as numbers"),
        ([1, 2, None, [3]], "cannot be read as numbers"),
        (np.ones(3, complex), "cannot be read as numbers"),
    ],
)
def test_unusable_weights_are_refused(weight: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_weights(weight, 3)


def test_weights_may_be_numbers_of_any_type() -> None:
    for weight in (range(3), [False, True, 2], np.array([0, 1, 2], object), np.array([0, 1, 2], np.float16)):
        assert check_weights(weight, 3).tolist() == [0, 1, 2]


def test_a_sparse_matrix_is_not_changed_and_doubles_are_summed() -> None:
    matrix = sp.csr_array((np.array([1.0, 2.0, 4.0]), np.array([1, 1, 0]), np.array([0, 3])), shape=(1, 2))
    assert next(CsrSource(matrix).batches(5)).x.tolist() == [[4, 3]]
    assert matrix.data.tolist() == [1, 2, 4] and matrix.nnz == 3


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (sp.csc_array(DENSE), "convert it with .tocsr"),
        (sp.csr_array(DENSE.astype(complex)), "complex128"),
        (sp.csr_array((3, 0)), "at least one feature"),
    ],
)
def test_unusable_sparse_matrices_are_refused(matrix: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        CsrSource(matrix)
