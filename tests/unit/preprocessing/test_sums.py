from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from gpukm.core.exact import exact_sum, to_float
from gpukm.preprocessing.sums import ColumnSums, Moments

rng = np.random.default_rng(3)
DATA = {
    "normal": rng.standard_normal((3000, 3)),
    "offset": 1e6 + rng.standard_normal((3000, 3)),
    "float32": rng.standard_normal((3000, 3)).astype(np.float32).astype(np.float64),
    "integers": rng.integers(-5, 100, (3000, 3)).astype(np.float64),
    "wide": rng.standard_normal((3000, 3)) * 10.0 ** rng.integers(-40, 40, (3000, 3)),
    "outlier": np.concatenate([rng.standard_normal((2999, 3)), np.full((1, 3), 1e9)]),
    "tiny": rng.standard_normal((3000, 3)) * 1e-300,
    "zeros": np.zeros((3000, 3)),
}


@pytest.mark.parametrize("name", DATA)
def test_column_sums_are_exact_sums(name: str) -> None:
    x = DATA[name]
    sums = ColumnSums(3)
    sums.add(x)
    assert (sums.totals() == exact_sum(x, axis=0)).all()


@pytest.mark.parametrize("name", [n for n in DATA if n != "tiny"])
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_are_the_true_ones_rounded_once(name: str, weighted: bool) -> None:
    x = DATA[name][:300]
    w = np.round(rng.random(300) * 1000) / 7 if weighted else None
    moments = Moments(3)
    moments.add(x, w)
    weights = [Fraction(1)] * 300 if w is None else [Fraction(v) for v in w.tolist()]
    for j in range(3):
        values = [Fraction(v) for v in x[:, j].tolist()]
        total = sum(weights)
        mean = sum(a * b for a, b in zip(weights, values, strict=True)) / total
        variance = sum(a * (b - mean) ** 2 for a, b in zip(weights, values, strict=True)) / total
        assert moments.mean()[j] == float(mean)
        assert moments.variance()[j] == float(variance)
    assert to_float(moments.weight) == float(sum(weights))


def parts(x: np.ndarray, w: np.ndarray | None, cuts: list[int]) -> Moments:
    total = Moments(x.shape[1])
    for a, b in zip([0, *cuts], [*cuts, len(x)], strict=True):
        part = Moments(x.shape[1])
        part.add(x[a:b], None if w is None else w[a:b])
        part.merge(total)
        total = part
    return total


@pytest.mark.parametrize("name", DATA)
def test_merging_parts_in_any_order_changes_nothing(name: str) -> None:
    x, w = DATA[name], rng.random(3000)
    whole, merged, shuffled = Moments(3), parts(x, w, [1, 1000, 1001]), Moments(3)
    whole.add(x, w)
    order = rng.permutation(3000)
    shuffled.add(x[order], w[order])
    for other in (merged, shuffled):
        assert other.mean().tobytes() == whole.mean().tobytes()
        assert other.variance().tobytes() == whole.variance().tobytes()
        assert other.minimum.tobytes() == whole.minimum.tobytes()
        assert (other.weight, other.n_rows) == (whole.weight, whole.n_rows)


def test_weight_two_is_a_row_twice_and_weight_zero_no_row() -> None:
    x = DATA["offset"]
    w = rng.integers(0, 4, len(x))
    weighted, repeated = Moments(3), Moments(3)
    weighted.add(x, w.astype(np.float64))
    repeated.add(np.repeat(x, w, axis=0))
    assert weighted.mean().tobytes() == repeated.mean().tobytes()
    assert weighted.variance().tobytes() == repeated.variance().tobytes()
    assert weighted.minimum.tobytes() == repeated.minimum.tobytes()
