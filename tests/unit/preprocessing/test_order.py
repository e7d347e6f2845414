from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from gpukm.errors import DataError
from gpukm.preprocessing.order import QuantileSearch, keys_of, numbers_of

LEVELS = [Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), Fraction(99, 100)]
QS = [float(level) for level in LEVELS]
rng = np.random.default_rng(5)


def data(n: int) -> np.ndarray:
    """Columns of many ties, of wide range, of both zeros, of one value."""
    return np.column_stack(
        [
            rng.integers(-3, 9, n),
            rng.standard_normal(n) * 10.0 ** rng.integers(-300, 300, n),
            np.where(rng.random(n) < 0.5, -0.0, 0.0),
            np.full(n, 7.5),
            rng.standard_normal(n),
        ]
    )


def by_sorting(x: np.ndarray) -> np.ndarray:
    """Hyndman and Fan's definition 2 in exact arithmetic."""
    out = []
    for level in LEVELS:
        rank = level * len(x)
        lower, upper = -int(-rank // 1) - 1, int(rank // 1)
        ordered = np.sort(x + 0.0, axis=0)
        out.append(0.5 * ordered[lower] + 0.5 * ordered[upper])
    return np.array(out)


def search(x: np.ndarray, w: np.ndarray | None = None, rows: int = 97, **options: int) -> np.ndarray:
    found = QuantileSearch(x.shape[1], LEVELS, **options)
    while not found.done:
        for i in range(0, len(x), rows):
            found.add(x[i : i + rows], None if w is None else w[i : i + rows])
        found.finish_pass()
    return found.quantiles()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 100, 1000, 1001])
@pytest.mark.parametrize("options", [{}, {"n_rows": 2000}, {"cells": 64}, {"cells": 1 << 10}])
def test_quantiles_are_those_of_sorting(n: int, options: dict[str, int]) -> None:
    x = data(n)
    expected = by_sorting(x)
    assert search(x, None, **options).tobytes() == expected.tobytes()
    numpys = np.quantile(x, QS, axis=0, method="averaged_inverted_cdf")
    assert np.allclose(expected, numpys, rtol=1e-15, atol=0)


@pytest.mark.parametrize("options", [{}, {"n_rows": 2000}, {"cells": 64}])
def test_weight_two_is_a_row_twice_and_weight_zero_no_row(options: dict[str, int]) -> None:
    x = data(500)
    w = rng.integers(0, 4, 500)
    weighted = search(x, w.astype(np.float64), **options)
    assert weighted.tobytes() == search(np.repeat(x, w, axis=0)).tobytes()


@pytest.mark.parametrize("options", [{}, {"n_rows": 2000}, {"cells": 64}])
def test_fractional_weights(options: dict[str, int]) -> None:
    x, w = data(400), rng.random(400)
    expected = np.quantile(x, QS, axis=0, method="inverted_cdf", weights=w)
    assert (search(x, w, **options) == expected).all()


def test_merged_parts_find_the_same() -> None:
    x, w = data(1000), rng.random(1000)
    found = QuantileSearch(5, LEVELS, cells=256)
    while not found.done:
        part = QuantileSearch(5, LEVELS, cells=256)
        part.__dict__.update({k: v for k, v in found.__dict__.items() if k != "_seen"}, _seen=0)
        part._counts, part._weights, part._gathered = {}, {}, {}
        found.add(x[:300], w[:300])
        part.add(x[300:], w[300:])
        part.merge(found)
        found = part
        found.finish_pass()
    assert found.quantiles().tobytes() == search(x, w).tobytes()


def test_median_of_an_even_number_is_the_middle() -> None:
    assert search(np.array([[1.0], [2.0], [10.0], [20.0]]))[1].tolist() == [6.0]


def test_keys_are_ordered_as_numbers_and_come_back() -> None:
    x = np.array([-np.inf, -1e308, -1.0, -5e-324, 0.0, 5e-324, 1.0, 1e308, np.inf])
    assert (np.diff(keys_of(x).astype(object)) > 0).all()
    assert numbers_of(keys_of(x)).tobytes() == x.tobytes()
    assert keys_of(np.array([-0.0])) == keys_of(np.array([0.0]))


def test_data_that_changes_between_passes_is_an_error() -> None:
    found = QuantileSearch(1, LEVELS, cells=64)
    found.add(np.arange(100.0)[:, None])
    found.finish_pass()
    found.add(np.full((100, 1), -5.0))
    with pytest.raises(DataError, match="changed while it was read"):
        found.finish_pass()
