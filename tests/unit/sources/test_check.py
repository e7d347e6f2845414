from __future__ import annotations

import numpy as np
import pytest

from gpukm.errors import DataError
from gpukm.sources.base import Batch
from gpukm.sources.check import FiniteCheck, check_finite, first_bad


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (4, 3), (1000, 700)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_good_numbers_pass(shape: tuple[int, int], dtype: type) -> None:
    assert first_bad(np.ones(shape, dtype)) is None
    # A sum that overflows is no infinity in the data.
    assert first_bad(np.full(shape, np.finfo(dtype).max)) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_numbers_are_counted_and_the_first_is_found(bad: float) -> None:
    x = np.zeros((1000, 700), np.float32)
    x[501, 3] = x[501, 2] = x[999, 699] = bad
    assert first_bad(x) == (3, 501, 2)


def test_infinities_that_cancel_are_found() -> None:
    assert first_bad(np.array([[np.inf, -np.inf]])) == (2, 0, 0)


def test_rows_are_numbered_in_the_source() -> None:
    x = np.array([[1.0, 2.0], [np.nan, np.inf]])
    with pytest.raises(DataError, match=r"2 values, the first \(NaN\) in row 41, column 'a'; drop or fill"):
        check_finite(Batch(x, 40, 2), ["a", "b"])
    with pytest.raises(DataError, match="in row 47, feature 0"):
        check_finite(Batch(x, 40, 9, kept=np.array([2, 7])))
    check_finite(Batch(x[:1], 0, 1))


def test_all_batches_are_counted_before_the_error() -> None:
    check = FiniteCheck()
    good, bad = Batch(np.ones((5, 1)), 0, 5), Batch(np.full((2, 1), np.inf), 5, 2)
    assert [check.add(b) for b in (good, bad, good, bad)] == [True, False, True, False]
    with pytest.raises(DataError, match=r"4 values, the first \(infinity\) in row 5"):
        check.close()


def test_float16_that_overflowed_gets_its_own_advice() -> None:
    x = np.array([[np.inf]], np.float32)
    with pytest.raises(DataError, match="float16, which ends at 65504: store it as float32"):
        check_finite(Batch(x, 0, 1), stored_dtype=np.dtype(np.float16))
    with pytest.raises(DataError, match="drop or fill"):
        check_finite(Batch(x * np.nan, 0, 1), stored_dtype=np.dtype(np.float16))
