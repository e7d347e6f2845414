import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpukm.core.stats import ClusterStats, Grid, limbs_to_float, split

big = st.integers(-(2**93), 2**93)


def limbs(values):
    return np.array([v >> 32 for v in values], np.int64), np.array([v & 0xFFFFFFFF for v in values], np.int64)


@given(st.lists(big, min_size=1, max_size=20))
def test_limbs_round_once(values):
    assert limbs_to_float(*limbs(values)).tolist() == [float(v) for v in values]


@given(st.integers(1, 38), st.integers(0, 1), st.integers(-1, 1))
def test_limbs_round_half_to_even(bits, odd, nudge):
    value = (((1 << 53) + odd) << bits >> 1) + nudge
    assert limbs_to_float(*limbs([value, -value])).tolist() == [float(value), -float(value)]


@given(st.floats(-(2.0**82), 2.0**82))
def test_split_is_rint(value):
    hi, lo = split(np.array([value]))
    assert (int(hi[0]) << 32) + int(lo[0]) == int(np.rint(value))


def random_stats(rng, weighted=True):
    stats = ClusterStats.zero(3, 2, weighted)
    for name in ("hi", "lo", "counts", "weight_hi", "weight_lo"):
        array = getattr(stats, name)
        if array is not None:
            array += rng.integers(-(2**40), 2**40, array.shape)
    return stats


def same(a, b):
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("hi", "lo", "counts", "weight_hi", "weight_lo"))


@given(st.integers(0, 2**32))
def test_merge_laws(seed):
    rng = np.random.default_rng(seed)
    a, b, c = (random_stats(rng) for _ in range(3))
    assert same(a.merge(b), b.merge(a))
    assert same(a.merge(b).merge(c), a.merge(b.merge(c)))
    zero = ClusterStats.zero(3, 2, True)
    assert same(a.merge(zero), zero.merge(a))


def test_weight_two_is_the_row_twice():
    from gpukm.backends.numpy import NumpyBackend

    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4)).astype(np.float32)
    labels = rng.integers(0, 3, 50).astype(np.int32)
    w = rng.integers(1, 4, 50)
    grid = Grid.of(np.abs(x).max(axis=0), float(w.sum()))
    weighted, repeated = ClusterStats.zero(3, 4, True), ClusterStats.zero(3, 4, False)
    NumpyBackend().accumulate(weighted, x, w.astype(np.float64), labels, None, grid)
    NumpyBackend().accumulate(repeated, np.repeat(x, w, axis=0), None, np.repeat(labels, w), None, grid)
    np.testing.assert_array_equal(weighted.hi, repeated.hi)
    np.testing.assert_array_equal(weighted.lo, repeated.lo)
    np.testing.assert_array_equal(weighted.weights(grid), repeated.weights(grid))


def test_grid_holds_any_feature():
    grid = Grid.of(np.array([0.0, 1e-300, 1.0, 1e30]), 1e9)
    assert np.isfinite(grid.scales).all()
    assert (np.array([0.0, 1e-300, 1.0, 1e30]) * 1e9 * grid.scales <= 2.0**82).all()
