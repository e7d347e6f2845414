"""Whatever the data: fitted numbers depend neither on the order of rows nor on how they are batched or weighted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gpukm.errors import DataError
from gpukm.preprocessing import PCA, L2Normalize, MinMax, PreparedSource, Preprocessing, Robust, Standardize, Step, fit
from gpukm.sources.array import ArraySource
from tests.unit.preprocessing.inputs import bits, rows_of

numbers = st.floats(-1e100, 1e100) | st.integers(-3, 3).map(float)
matrices = st.tuples(st.integers(1, 12), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=numbers)
)
STEPS = [Standardize(), MinMax(), Robust(), PCA(n_components=1)]


def of_length_one(x: np.ndarray) -> np.ndarray:
    """Without zero rows, which have no direction."""
    return np.where((x == 0).all(axis=1)[:, None], 1.0, x)


@pytest.mark.parametrize("step", STEPS, ids=lambda s: s.kind)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), x=matrices)
def test_order_and_batches_change_nothing(step: Step, data: st.DataObject, x: np.ndarray) -> None:
    spec = Preprocessing(steps=(L2Normalize(), step))
    x = of_length_one(x)
    order = data.draw(st.permutations(range(len(x))))
    weight = data.draw(arrays(np.float64, len(x), elements=st.floats(1e-3, 1e3)))
    whole = fit(ArraySource(x, weight), spec)
    shuffled = fit(ArraySource(x[order], weight[order]), spec, batch_rows=data.draw(st.integers(1, 13)))
    assert bits(whole) == bits(shuffled)
    try:
        prepared = rows_of(PreparedSource(ArraySource(x), whole), 100)
    except DataError:
        # Divided by a spread of next to nothing, a number may leave float64.
        with pytest.raises(DataError, match="does not fit"):
            rows_of(PreparedSource(ArraySource(x[order]), shuffled), 2)
        return
    assert rows_of(PreparedSource(ArraySource(x[order]), shuffled), 2).tobytes() == prepared[order].tobytes()


@pytest.mark.parametrize("step", STEPS[:3], ids=lambda s: s.kind)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), x=matrices.filter(lambda x: len(x) > 1 and np.abs(x).max() < 2.0**290))
def test_weight_is_the_number_of_times_a_row_is_there(step: Step, data: st.DataObject, x: np.ndarray) -> None:
    weight = data.draw(arrays(np.int64, len(x), elements=st.integers(0, 3)).filter(lambda w: w.any()))
    spec = Preprocessing(steps=(step,))
    weighted = fit(ArraySource(x, weight.astype(np.float64)), spec)
    assert bits(weighted) == bits(fit(ArraySource(np.repeat(x, weight, axis=0)), spec))
