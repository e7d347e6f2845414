"""What every backend must do, bit for bit, against a float64 oracle written from the definition."""

from fractions import Fraction

import numpy as np
import pytest

from gpukm.backends.base import SHARE_ROWS, Backend, Frame
from gpukm.backends.numpy import NumpyBackend, NumpyPool
from gpukm.core.seeding import first_exponent
from gpukm.core.stats import ClusterStats, Grid


def oracle_distances(x, c):
    """D by its definition, one pair at a time."""
    out = np.empty((len(x), len(c)))
    for i, row in enumerate(x.astype(np.float64)):
        for j, centre in enumerate(c.astype(np.float64)):
            lanes = [0.0] * 8
            for f, (a, b) in enumerate(zip(row.tolist(), centre.tolist(), strict=True)):
                lanes[f % 8] += (a - b) * (a - b)
            low = (lanes[0] + lanes[4]) + (lanes[2] + lanes[6])
            high = (lanes[1] + lanes[5]) + (lanes[3] + lanes[7])
            out[i, j] = low + high
    return out


def fast_distances(x, c):
    """The same for larger shapes: vectorised over pairs, in the same order of operations."""
    lanes = np.zeros((8, len(x), len(c)))
    for f in range(x.shape[1]):
        diff = x[:, f, None].astype(np.float64) - c[None, :, f].astype(np.float64)
        lanes[f % 8] += diff * diff
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))


def frame_of(x):
    center = np.median(x[:1000].astype(np.float64), axis=0).astype(x.dtype).astype(np.float64)
    return Frame(center, float(np.abs(x - center).max()))


SHAPES = [
    # n, d, k: off every tile, and each number of features that has a kernel of its own
    (1, 1, 1),
    (5, 3, 2),
    (1000, 1, 7),
    (333, 2, 50),
    (999, 4, 13),
    (257, 5, 9),
    (200, 7, 64),
    (500, 8, 100),
    (300, 15, 33),
    (777, 16, 65),
    (500, 17, 40),
    (300, 32, 97),
    (200, 100, 30),
    (100, 513, 11),
    (50, 1500, 5),
    (400, 20, 1),
]


def hard_data(name, dtype, rng, n=1500, d=24, k=50):
    """Rows and centroids that defeat careless screening."""
    x = rng.normal(size=(n, d))
    if name == "outlier":
        x[7] = 1e9
    elif name == "lognormal":
        x = np.exp(3 * x)
    elif name == "binary":
        x = (x > 0).astype(float)
    elif name == "duplicates":
        x = np.repeat(x[: n // 50], 50, axis=0)
    elif name == "offset":
        x += 1e6
    elif name == "tiny":
        x *= 1e-30
    elif name == "huge":
        x *= 1e30
    elif name == "denormal":
        x *= 1e-42 if dtype == np.float32 else 1e-310
    elif name == "low ties":
        x = rng.integers(0, 4, size=(n, 3)).astype(float)
    elif name == "low huge":
        x = x[:, :5] * 1e30
    elif name == "underflowing squares":
        x *= 1e-25 if dtype == np.float32 else 1e-170
    x = x.astype(dtype)
    return x, x[:: n // k][:k].copy()


HARD = [
    "outlier",
    "lognormal",
    "binary",
    "duplicates",
    "offset",
    "tiny",
    "huge",
    "denormal",
    "low ties",
    "low huge",
    "underflowing squares",
]


class BackendConformance:
    """Inherit and give :meth:`backend`."""

    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    def check_labels(self, backend, x, c):
        d = fast_distances(x, c)
        prepared = backend.prepare(c, frame_of(x))
        labels = np.full(len(x), -1, np.int32)
        rechecked = backend.assign(x, prepared, labels)
        np.testing.assert_array_equal(labels, d.argmin(axis=1))
        assert 0 <= rechecked <= len(x)
        both, nearest, second = backend.assign_two(x, prepared)
        np.testing.assert_array_equal(both, labels)
        np.testing.assert_array_equal(nearest, d.min(axis=1))
        expected = np.sort(d, axis=1)[:, 1] if len(c) > 1 else np.full(len(x), np.inf)
        np.testing.assert_array_equal(second, expected)
        np.testing.assert_array_equal(backend.distances(x, c, labels), d.min(axis=1))

    def test_distance_is_the_definition(self, backend):
        rng = np.random.default_rng(0)
        for d in (1, 2, 3, 4, 5, 7, 8, 9, 31, 64):
            for dtype in (np.float32, np.float64):
                x, c = rng.normal(size=(5, d)).astype(dtype), rng.normal(size=(4, d)).astype(dtype)
                np.testing.assert_array_equal(backend.cross_distances(x, c), oracle_distances(x, c))
                np.testing.assert_array_equal(fast_distances(x, c), oracle_distances(x, c))

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("scale", [1e-30, 1.0, 1e15])
    def test_total_is_exact(self, backend, dtype, scale):
        rng = np.random.default_rng(3)
        for n, d in ((1, 1), (70_001, 3), (999, 40)):
            x = (scale * rng.normal(size=(n, d)) * np.exp(5 * rng.normal(size=(n, 1)))).astype(dtype)
            c, labels = x[:1] if n == 1 else x[:7].copy(), rng.integers(0, min(n, 7), n).astype(np.int32)
            weight = rng.exponential(size=n) * (rng.random(n) > 0.1)
            for w in (None, weight):
                for chosen in (labels, None):
                    distances = backend.distances(x, c, np.zeros(n, np.int32) if chosen is None else chosen)
                    expected = sum(int(Fraction(v) * (1 << 1126)) for v in distances * (1.0 if w is None else w))
                    assert backend.total(x, w, c, chosen) == expected

    def test_total_refuses_infinity(self, backend):
        x = np.full((3, 2), 1e200)
        with pytest.raises(ValueError, match="finite"), np.errstate(over="ignore"):
            backend.total(x, None, np.zeros((1, 2)), None)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_column_range(self, backend, dtype):
        rng = np.random.default_rng(4)
        for n, d in ((1, 1), (1, 300), (5, 3), (1000, 7), (300, 257)):
            x = rng.normal(size=(n, d)).astype(dtype)
            low, high = backend.column_range(x)
            np.testing.assert_array_equal(low, x.min(axis=0).astype(np.float64))
            np.testing.assert_array_equal(high, x.max(axis=0).astype(np.float64))
            for bad in (np.nan, np.inf, -np.inf):
                spoilt = x.copy()
                spoilt[n // 2, d // 2] = bad
                low, high = backend.column_range(spoilt)
                finite = np.isfinite(low) & np.isfinite(high)
                assert np.flatnonzero(~finite).tolist() == [d // 2]

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize(("n", "d", "k"), SHAPES)
    def test_labels(self, backend, n, d, k, dtype):
        rng = np.random.default_rng(n + d + k)
        x = rng.normal(size=(n, d)).astype(dtype)
        c = (x[rng.integers(0, n, k)] + 0.1 * rng.normal(size=(k, d))).astype(dtype)
        self.check_labels(backend, x, c)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("name", HARD)
    def test_labels_of_hard_data(self, backend, name, dtype):
        x, c = hard_data(name, dtype, np.random.default_rng(3))
        self.check_labels(backend, x, c)

    def test_centroids_far_longer_than_the_rows(self, backend):
        """A sum that begins with half a centroid's square loses some of that with every product, always to one side."""
        d, u = 256, 2.0**-16
        x = np.full((3, d), -(0.125 + 0.49 * u), np.float32)
        offset = np.full(d, 0.02)
        offset[0] = -8.98
        c = np.ones((2, d), np.float32)
        c[1] = 1 + offset / 8192
        labels = np.empty(3, np.int32)
        backend.assign(x, backend.prepare(c, Frame(np.zeros(d), 2.0**14)), labels)
        np.testing.assert_array_equal(labels, fast_distances(x, c).argmin(axis=1))

    def test_ties_go_to_the_lowest_index(self, backend):
        x = np.zeros((40, 20), np.float32)
        c = np.ones((30, 20), np.float32)
        c[10:, 0] = -1  # bit-identical within each half, equidistant between them
        labels = np.empty(40, np.int32)
        backend.assign(x, backend.prepare(c, frame_of(x)), labels)
        assert (labels == 0).all()
        _, nearest, second = backend.assign_two(x, backend.prepare(c, frame_of(x)))
        np.testing.assert_array_equal(nearest, second)

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_sums_are_the_integers_of_the_definition(self, backend, dtype, weighted):
        rng = np.random.default_rng(1)
        n, d, k = 211, 11, 5
        x = (rng.normal(size=(n, d)) * 10.0 ** rng.integers(-6, 6, size=d)).astype(dtype)
        w = rng.uniform(0, 3, n) if weighted else None
        labels = rng.integers(0, k, n).astype(np.int32)
        grid = Grid.of(np.abs(x).max(axis=0), float(n if w is None else w.sum()))
        stats = ClusterStats.zero(k, d, weighted)
        assert backend.accumulate(stats, x, w, labels, None, grid) == n
        values = x.astype(np.float64) if w is None else w[:, None] * x.astype(np.float64)
        for j in range(k):
            for f in range(d):
                terms = np.rint(np.ldexp(values[labels == j, f], grid.exponents[f]))
                assert (int(stats.hi[j, f]) << 32) + int(stats.lo[j, f]) == sum(int(t) for t in terms)
            if w is not None:
                terms = np.rint(np.ldexp(w[labels == j], grid.weight_exponent))
                assert (int(stats.weight_hi[j]) << 32) + int(stats.weight_lo[j]) == sum(int(t) for t in terms)
        np.testing.assert_array_equal(stats.counts, np.bincount(labels, minlength=k))

    @pytest.mark.parametrize("weighted", [False, True])
    def test_moving_rows_equals_summing_again(self, backend, weighted):
        rng = np.random.default_rng(2)
        n, d, k = 500, 9, 7
        x = rng.normal(size=(n, d)).astype(np.float32)
        w = rng.uniform(0, 3, n) if weighted else None
        grid = Grid.of(np.abs(x).max(axis=0), float(n if w is None else w.sum()))
        before = rng.integers(0, k, n).astype(np.int32)
        after = np.where(rng.uniform(size=n) < 0.1, rng.integers(0, k, n), before).astype(np.int32)
        moved, fresh = ClusterStats.zero(k, d, weighted), ClusterStats.zero(k, d, weighted)
        backend.accumulate(moved, x, w, before, None, grid)
        assert backend.accumulate(moved, x, w, after, before, grid) == (before != after).sum()
        backend.accumulate(fresh, x, w, after, None, grid)
        for name in ("hi", "lo", "counts", "weight_hi", "weight_lo"):
            if getattr(fresh, name) is not None:
                np.testing.assert_array_equal(getattr(moved, name), getattr(fresh, name))

    @pytest.mark.parametrize("weighted", [False, True])
    def test_seeding_draws(self, backend, weighted):
        rng = np.random.default_rng(4)
        x = rng.normal(size=(300, 6)).astype(np.float32)
        w = rng.uniform(0, 3, 300) if weighted else None
        points = x[:4].copy()
        nearest = rng.uniform(0, 10, 300)
        d = np.minimum(nearest[:, None], fast_distances(x, points))
        expected = np.rint(np.ldexp(d if w is None else w[:, None] * d, 30)).sum(axis=0)
        np.testing.assert_array_equal(backend.potentials(nearest, x, w, points, 30), expected)
        backend.lower(nearest, x, points)
        np.testing.assert_array_equal(nearest, d.min(axis=1))

    @pytest.mark.parametrize("weighted", [False, True])
    def test_shares_of_the_potential(self, backend, weighted):
        rng = np.random.default_rng(6)
        for n in (1, SHARE_ROWS, 2 * SHARE_ROWS + 77):
            nearest = rng.exponential(size=n) * (rng.random(n) < 0.7)
            nearest[-1] = 0.1
            w = rng.exponential(size=n) * (rng.random(n) < 0.9) + 1e-9 if weighted else None
            shares = np.rint(np.ldexp(nearest if w is None else w * nearest, 40)).astype(np.int64)
            totals = np.add.reduceat(shares, np.arange(0, n, SHARE_ROWS))
            np.testing.assert_array_equal(backend.share_totals(nearest, w, 40), totals)
            rows = np.flatnonzero(shares)
            rows = np.unique(np.concatenate([rows[[0, -1]], rng.choice(rows, 10)]))
            blocks = rows // SHARE_ROWS
            ends = np.cumsum(shares)
            last = ends[rows] - 1 - np.concatenate([[0], ends])[blocks * SHARE_ROWS]
            # The first and the last number that each row is drawn for.
            for targets in (last, last + 1 - shares[rows]):
                np.testing.assert_array_equal(backend.share_rows(nearest, w, 40, blocks, targets), rows)

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("name", ["mixture", "one value", *HARD])
    def test_pool(self, backend, name, dtype, weighted):
        """Candidates in turns with choices, until none gains anything: the choices of the reference."""
        rng = np.random.default_rng(7)
        n, d = 250, 9
        if name == "mixture":
            x = 4 * rng.normal(size=(15, d))[rng.integers(0, 15, n)] + rng.normal(size=(n, d))
        else:
            x = np.ones((n, d)) if name == "one value" else hard_data(name, dtype, rng, n, d, 10)[0]
        x = np.ascontiguousarray(x[rng.permutation(len(x))], dtype)
        n = len(x)
        w = rng.exponential(size=n) * (rng.random(n) < 0.8) if weighted else None
        centres = x[[3, 50]]
        labels = fast_distances(x, centres).argmin(axis=1).astype(np.int32)
        nearest = fast_distances(x, centres).min(axis=1)
        expected, own = nearest.copy(), labels.copy()
        plain = NumpyPool(NumpyBackend(), x, w, own, expected)
        pool = backend.pool(x, w, labels, nearest, frame_of(x))
        done = 2
        for rows, most, part in ((np.arange(0, n, 7), 3, 2), (np.arange(1, n, 3), 12, 0.5), (np.arange(2), n, 2)):
            pool.add(rows)
            plain.add(rows)
            value = expected if w is None else w * expected
            exponent = first_exponent(float(value.max()), n)
            enough = int(part * np.ldexp(value, exponent).sum()) + 1
            chosen = plain.choose(most, done, exponent, enough)
            np.testing.assert_array_equal(pool.choose(most, done, exponent, enough), chosen)
            np.testing.assert_array_equal(nearest, expected)
            np.testing.assert_array_equal(labels, own)
            done += len(chosen)
        assert len(pool.choose(5, done, exponent, 1 << 62)) == 0

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize(("n", "d", "k"), [(300, 2, 20), (900, 16, 50), (2500, 17, 40), (400, 130, 30)])
    @pytest.mark.parametrize("name", ["mixture", *HARD[:8]])
    def test_tracked_labels(self, backend, name, n, d, k, dtype):
        """Centroids that settle, jump, coincide and barely move; labels must be those of a fresh look every time."""
        rng = np.random.default_rng(n + k)
        x = 4 * rng.normal(size=(k, d))[rng.integers(0, k, n)] + rng.normal(size=(n, d))
        if name != "mixture":
            x, _ = hard_data(name, dtype, rng, n, d, k)
        x = x.astype(dtype)
        n = len(x)
        c = x[rng.integers(0, n, k)].copy()
        tracker = self.tracker(backend, x, c)
        if tracker is None:
            with pytest.raises(NotImplementedError, match="no trackers"):
                backend.track(tracker, x, c, frame_of(x), np.zeros(n, np.int32))
            return
        labels = np.zeros(n, np.int32)
        frame = frame_of(x)
        for iteration in range(7):
            backend.track(tracker, x, c, frame, labels)
            expected = fast_distances(x, c).argmin(axis=1)
            np.testing.assert_array_equal(labels, expected, err_msg=f"iteration {iteration}")
            for j in np.unique(labels):
                c[j] = x[labels == j].astype(np.float64).mean(axis=0).astype(dtype)
            if iteration == 2:
                c[rng.integers(0, k)] = 1.5 * x[rng.integers(0, n)]
            elif iteration == 3:
                c[1] = c[2]
            elif iteration == 4:
                c[0] = np.nextafter(c[0], dtype(np.inf))

    def tracker(self, backend, x, c):
        """A tracker whatever the size of the problem."""
        return backend.tracker(x, c)

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_means_and_what_they_gain(self, backend, dtype, weighted):
        rng = np.random.default_rng(5)
        n, d, k = 300, 13, 7
        x = (rng.normal(size=(n, d)) * 10.0 ** rng.integers(-20, 10, d)).astype(dtype)
        weight = rng.random(n) if weighted else None
        labels = rng.integers(0, k - 1, n).astype(np.int32)  # the last cluster stays empty
        total = float(n if weight is None else weight.sum())
        grid = Grid.of(np.abs(x).max(axis=0), total)
        stats = ClusterStats.zero(k, d, weighted)
        backend.accumulate(stats, x, weight, labels, None, grid)
        previous = x[:k] + x[k : 2 * k]
        reference = x[0].astype(np.float64)
        means, shifts, gains = backend.means(stats, grid, previous, reference)
        assert means.dtype == dtype
        for j in range(k):
            w = float(stats.weights(grid)[j])
            lanes = [0.0] * 8
            for f in range(d):
                s = float(
                    Fraction((int(stats.hi[j, f]) << 32) + int(stats.lo[j, f])) / Fraction(2) ** int(grid.exponents[f])
                )
                assert means[j, f] == (dtype(s / w) if w > 0 else previous[j, f])
                c = float(previous[j, f]) - reference[f]
                lanes[f % 8] += c * (w * c - 2.0 * (s - w * reference[f]))
            low = (lanes[0] + lanes[4]) + (lanes[2] + lanes[6])
            assert gains[j] == low + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))
        np.testing.assert_array_equal(shifts, np.diagonal(fast_distances(means, previous)))
