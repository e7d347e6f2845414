"""Starts from a sample: the rows it takes, the centres it chooses, and the same bits whatever ran it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from gpukm_kernels import native_status

from gpukm.backends import select
from gpukm.backends.base import Pool
from gpukm.core import rng
from gpukm.core.lloyd import Problem
from gpukm.core.pooled import Shape, pooled, stratified
from gpukm.functional import kmeans
from gpukm.problem import look_at
from gpukm.sources.array import ArraySource

native = native_status()[0]
BACKENDS = ["numpy", "cpu"] if native else ["numpy"]


class Streamed(ArraySource):
    """An array that refuses to be resident."""

    def array(self) -> None:
        """Not in memory as far as a fit can see."""

    def weights(self) -> None:
        """Nor are its weights."""


def problem(source: ArraySource, k: int, backend: str = BACKENDS[-1], threads: int = 2, **cut: int) -> Problem:
    """The problem as a fit sees it."""
    settings = {"batch_size": None, "n_shards": 1} | cut
    chosen = select(backend, "auto", threads if backend == "cpu" else None)
    return look_at(source, chosen, k, 10, 0.0, "euclidean", settings["batch_size"], None, settings["n_shards"])


def mixture(n: int, d: int, k: int, seed: int = 0) -> np.ndarray:
    """Rows around k centres."""
    rng = np.random.default_rng(seed)
    return (4 * rng.normal(size=(k, d))[rng.integers(0, k, n)] + rng.normal(size=(n, d))).astype(np.float32)


def digest(x: np.ndarray) -> str:
    """Hash of the bytes."""
    return hashlib.sha256(x.tobytes()).hexdigest()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits_whatever_runs_it(dtype: type, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shape, "of", classmethod(lambda cls, n, k: cls(400, 3)))
    x = mixture(1000, 11, 30).astype(dtype)
    w = np.random.default_rng(1).exponential(size=1000) * (np.arange(1000) % 7 > 0) if weighted else None
    runs = [(backend, kind, {}) for backend in BACKENDS for kind in (ArraySource, Streamed)]
    runs += [(BACKENDS[-1], Streamed, {"batch_size": 77}), (BACKENDS[-1], ArraySource, {"n_shards": 3})]
    runs += [(BACKENDS[-1], Streamed, {"batch_size": 301, "n_shards": 2}), (BACKENDS[-1], ArraySource, {"threads": 1})]
    runs += [(BACKENDS[-1], ArraySource, {"threads": 5})]
    found = {digest(pooled(problem(kind(x, weight=w), 90, b, **cut), 90, 5)) for b, kind, cut in runs}
    assert len(found) == 1


@pytest.mark.skipif(not native, reason="needs the native kernels")
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e30])
def test_screening_changes_nothing(scale: float) -> None:
    """Squares that underflow or overflow float32, an outlier, duplicates, and data far from the origin."""
    x = mixture(1500, 9, 40)
    x[:300] = x[300:600]
    x[7] *= 1e4
    for rows in (x * np.float32(scale), x + np.float32(1e5)):
        found = {digest(pooled(problem(ArraySource(rows), 450, b), 450, 1)) for b in BACKENDS}
        assert len(found) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_pool_chooses_what_gains_most(backend: str, weighted: bool) -> None:
    """Candidates that come in turns with choices, against a restatement that looks at all of them every time."""
    x = np.concatenate([mixture(300, 5, 12), mixture(300, 5, 12)[:60]])
    w = np.random.default_rng(2).uniform(0.5, 2, len(x)) if weighted else None
    given = problem(ArraySource(x, weight=w), 8, backend)
    d = given.shards[0].backend.cross_distances(x, x)
    nearest, expected, exponent = d[7].copy(), d[7].copy(), 40
    labels, centres = np.zeros(len(x), np.int32), [7]
    pool = given.shards[0].backend.pool(x, w, labels, nearest, given.fixed.frame)

    def share(v: np.ndarray) -> np.ndarray:
        """Potential of rows at such distances."""
        return np.rint(np.ldexp(v if w is None else w * v, exponent)).astype(np.int64)

    candidates: list[int] = []
    for start, n in ((0, 4), (3, 1), (1, 9)):
        added = np.arange(start, len(x), 4)
        pool.add(added)
        candidates += added.tolist()
        plain = []
        for _ in range(n):
            gains = [int((share(expected) - share(np.minimum(expected, d[c]))).sum()) for c in candidates]
            plain.append(candidates.pop(int(np.argmax(gains))))
            expected = np.minimum(expected, d[plain[-1]])
        exponent -= 1
        assert pool.choose(n, len(centres), exponent + 1, 1 << 62).tolist() == plain
        centres += plain
        np.testing.assert_array_equal(nearest, expected)
        np.testing.assert_array_equal(labels, d[:, centres].argmin(axis=1))
    before = int(share(nearest).sum())
    assert 1 < len(pool.choose(len(x), 0, exponent, before // 2)) < len(candidates)
    assert before // 4 < share(nearest).sum() <= before - before // 2
    pool.choose(len(x), 0, exponent, 1 << 62)
    assert (nearest[candidates] == 0).all() and len(pool.choose(5, 0, exponent, 1 << 62)) == 0


def test_candidates_are_drawn_by_potential(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round draws so many rows a centre, each by its share of the potential, and none of them twice."""
    backend = select("numpy", "auto", None).backend
    added: list[np.ndarray] = []
    pool = type(backend.pool(np.zeros((1, 1)), None, np.zeros(1, np.int32), np.zeros(1), None))
    add = pool.add
    monkeypatch.setattr(pool, "add", lambda self, rows: (added.append(rows), add(self, rows))[1])
    monkeypatch.setattr(Shape, "of", classmethod(lambda cls, n, k: cls(10_000, 4)))
    x = np.concatenate([np.zeros(9000), np.linspace(1, 2, 1000)])[:, None]
    found = pooled(problem(ArraySource(x), 7, "numpy"), 7, 3)
    rows = np.concatenate(added)
    assert len(np.unique(rows)) == len(rows) <= 4 * 6
    assert len(added[0]) == 4 and (np.concatenate(added[1:]) >= 9000).all()
    assert found.shape == (7, 1) and (found[1:] != found[0]).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_group_far_from_the_others_gets_a_centre(backend: str) -> None:
    rng = np.random.default_rng(0)
    x = (1e3 * rng.normal(size=(40, 3))[np.arange(4000) % 40] + rng.normal(size=(4000, 3))).astype(np.float32)
    result = kmeans(x, 40, init="pooled", seed=1, backend=backend)
    assert np.bincount(result.labels, minlength=40).tolist() == [100] * 40


@pytest.mark.parametrize("k", [5, 450])
def test_fewer_different_rows_than_clusters(k: int) -> None:
    x = np.repeat(np.arange(4.0)[:, None], 200, axis=0)
    for seed in range(3):
        found = pooled(problem(ArraySource(x), k), k, seed)
        assert found.shape == (k, 1) and sorted(set(found[:, 0])) == [0.0, 1.0, 2.0, 3.0]


def test_a_weight_of_two_is_the_row_twice() -> None:
    x = mixture(600, 4, 10)
    weight = np.where(np.arange(600) % 3 == 0, 2.0, 1.0)
    once, k = problem(ArraySource(x, weight=weight), 8), 8
    twice = problem(ArraySource(np.repeat(x, weight.astype(int), axis=0), weight=np.ones(800)), k)
    for m in (100, 399):
        (a, u), (b, v) = stratified(once, m, 4), stratified(twice, m, 4)
        u, v = (np.ones(len(r)) if w is None else w for r, w in ((a, u), (b, v)))
        np.testing.assert_array_equal(np.repeat(a, u.astype(int), axis=0), np.repeat(b, v.astype(int), axis=0))


def test_the_sample_is_spread_evenly_and_follows_weights() -> None:
    x = np.arange(10_000, dtype=np.float64)[:, None]
    rows, weight = stratified(problem(ArraySource(x), 8), 1000, 0)
    assert weight is None and ((rows[:, 0] // 10) == np.arange(1000)).all()
    heavy = np.ones(10_000)
    heavy[77] = 10_000
    rows, weight = stratified(problem(ArraySource(x, weight=heavy), 8), 1000, 0)
    # Half of the weight is in one row, which is taken for what it weighs; the others share the rest.
    assert weight is not None and len(rows) == 1000 and 998 <= weight[rows[:, 0] == 77][0] <= 1000
    assert (np.delete(weight, np.flatnonzero(rows[:, 0] == 77)) == 1).all() and (np.diff(rows[:, 0]) > 0).all()
    heavy[5000:5600] = 10.0 ** np.arange(600).clip(0, 12)
    rows, weight = stratified(problem(ArraySource(x, weight=heavy), 8), 1000, 0)
    assert len(rows) >= 900 and weight is not None and weight.max() / weight.min() > 1e10
    some = np.where(x[:, 0] < 500, 1.0, 0.0)
    rows, weight = stratified(problem(ArraySource(x, weight=some), 8), 1000, 0)
    assert rows[:, 0].tolist() == list(range(500)) and weight is not None and (weight == 1).all()


def test_strata_cover_the_line_without_a_bias() -> None:
    for total, n in ((10, 10), (1 << 61, 7), (999_999_999_999, 1000), (3, 5)):
        found = rng.strata(total, n, 1, 8, 0)
        edges = [j * total // n for j in range(n + 1)]
        assert all(lo <= t < max(hi, lo + 1) for lo, t, hi in zip(edges, found.tolist(), edges[1:], strict=False))
    draws = rng.raw(3, 1, 0, 50)
    for bound in (1, 7, 1 << 40, (1 << 62) - 1):
        assert rng.below(draws, bound).tolist() == [int(draw) * bound >> 64 for draw in draws]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("place", [0, 7, 500])
def test_an_outlier_leaves_the_shares_their_bits(backend: str, place: int) -> None:
    """Rows whose potential is nothing beside that of one; it may be the first centre, and stand in no part."""
    x = mixture(1000, 3, 150)
    x[place] = 4e7
    w = np.where(np.arange(1000) == place, 2e4, 1.0)
    for weight in (None, w):
        for init in ("pooled", "k-means++"):
            for seed in range(4):
                found = kmeans(x, 150, init=init, seed=seed, sample_weight=weight, backend=backend, max_iter=1)
                assert len(np.unique(found.centroids, axis=0)) == 150


def test_one_heavy_row_leaves_room_for_others() -> None:
    x, w = mixture(20_000, 4, 30), np.ones(20_000)
    w[5] = 1e12
    assert len(np.unique(pooled(problem(ArraySource(x, weight=w), 40), 40, 0), axis=0)) == 40


@pytest.mark.parametrize("backend", BACKENDS)
def test_lists_stay_short_where_groups_far_away_get_the_first_centres(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, n, k = [], 2000, 120
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    x[: n // 20] += 1e4 * rng.normal(size=(k // 2, 5))[np.arange(n // 20) % (k // 2)]
    given = problem(ArraySource(x), k, backend)
    pool = type(given.shards[0].backend.pool(x, None, np.zeros(n, np.int32), np.zeros(n), given.fixed.frame))
    add = pool.add

    def counted(self: Pool, rows: np.ndarray) -> None:
        """Add, and count the pairs that lists are made of."""
        if len(rows):
            listed.append(int((self._backend.cross_distances(self.x, self.x[rows]) < self.nearest[:, None]).sum()))
        add(self, rows)

    monkeypatch.setattr(pool, "add", counted)
    monkeypatch.setattr(pool, "_backend", given.shards[0].backend, raising=False)
    monkeypatch.setattr(Shape, "of", classmethod(lambda cls, n, k: cls(n, 16)))
    assert len(np.unique(pooled(given, k, 0), axis=0)) == k
    # Without a limit a round lists half of all rows for each of nearly a thousand candidates.
    assert max(listed) <= 4 * 16 * n


@pytest.mark.parametrize("k", [1, 8, 100, 1000, 4096, 65_536])
def test_a_start_costs_no_more_than_two_passes(k: int) -> None:
    for n in (k, 2 * k, 10 * k, 100 * k, 10**9):
        shape = Shape.of(n, k)
        assert min(n, k) <= shape.rows <= n
        # A row is a candidate once.
        assert shape.rows * min(shape.trials * k, shape.rows) <= 2 * n * k
