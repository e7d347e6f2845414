import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpukm.core.exact import UNIT_EXPONENT, exact_sum, exact_sum_by, fold, to_float, to_floats

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, max_size=50))
def test_exact_sum_is_exact(values):
    total = exact_sum(np.array(values, dtype=np.float64))
    assert Fraction(total, 1 << -UNIT_EXPONENT) == sum((Fraction(v) for v in values), Fraction(0))


@given(st.lists(st.floats(-1e300, 1e300), max_size=50))
def test_rounding_is_fsum(values):
    assert to_float(exact_sum(np.array(values, dtype=np.float64))) == math.fsum(values)


@given(st.lists(finite, min_size=1, max_size=30), st.integers(0, 30), st.randoms())
def test_order_and_batches_do_not_matter(values, cut, random):
    whole = exact_sum(np.array(values))
    shuffled = list(values)
    random.shuffle(shuffled)
    parts = exact_sum(np.array(shuffled[:cut])) + exact_sum(np.array(shuffled[cut:]))
    assert whole == parts


def test_columns_and_labels():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 3)) * 10.0 ** rng.integers(-200, 200, size=(1000, 3))
    assert to_floats(exact_sum(x, axis=0)).tolist() == [math.fsum(column) for column in x.T]
    labels = rng.integers(0, 4, 1000)
    by = exact_sum_by(x[:, 0], labels, 5)
    assert [to_float(t) for t in by] == [math.fsum(x[labels == j, 0]) for j in range(5)]


def test_infinity_is_refused():
    with pytest.raises(ValueError, match="finite"):
        exact_sum(np.array([1.0, np.inf]))


def test_fold_is_a_fixed_tree():
    assert fold(np.array([1e16, 1.0, -1e16])) == (1e16 + -1e16) + (1.0 + 0.0)
    assert fold(np.empty(0)) == 0.0
