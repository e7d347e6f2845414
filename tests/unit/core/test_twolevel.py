"""Starts from a sample: the rows it takes, the centres it chooses, and the same bits whatever ran it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from gpukm_kernels import native_status

from gpukm.backends import select
from gpukm.core import rng
from gpukm.core.lloyd import Problem
from gpukm.core.twolevel import Shape, stratified, two_level
from gpukm.functional import kmeans, look_at
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
@pytest.mark.parametrize("shape", [(1, 0), (6, 0), (6, 3)])
def test_same_bits_whatever_runs_it(
    shape: tuple[int, int], dtype: type, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, neighbours = shape
    monkeypatch.setattr(Shape, "of", classmethod(lambda cls, n, k: cls(400, cells, neighbours, 5)))
    x = mixture(1000, 11, 30).astype(dtype)
    w = np.random.default_rng(1).exponential(size=1000) * (np.arange(1000) % 7 > 0) if weighted else None
    runs = [(backend, kind, {}) for backend in BACKENDS for kind in (ArraySource, Streamed)]
    runs += [(BACKENDS[-1], Streamed, {"batch_size": 77}), (BACKENDS[-1], ArraySource, {"n_shards": 3})]
    runs += [(BACKENDS[-1], Streamed, {"batch_size": 301, "n_shards": 2}), (BACKENDS[-1], ArraySource, {"threads": 1})]
    found = {digest(two_level(problem(kind(x, weight=w), 40, b, **cut), 40, 5)) for b, kind, cut in runs}
    assert len(found) == 1


@pytest.mark.skipif(not native, reason="needs the native kernels")
def test_threads_that_share_a_cell_choose_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shape, "of", classmethod(lambda cls, n, k: cls(3000, 1, 0, 24)))
    x = mixture(3000, 60, 10)
    runs = [("numpy", 1), ("cpu", 1), ("cpu", 2), ("cpu", 5)]
    assert len({digest(two_level(problem(ArraySource(x), 12, b, n), 12, 6)) for b, n in runs}) == 1


@pytest.mark.skipif(not native, reason="needs the native kernels")
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e30])
def test_screening_changes_nothing(scale: float) -> None:
    """Squares that underflow or overflow float32, an outlier, duplicates, and data far from the origin."""
    x = mixture(1500, 9, 40)
    x[:300] = x[300:600]
    x[7] *= 1e4
    for rows in (x * np.float32(scale), x + np.float32(1e5)):
        found = {digest(two_level(problem(ArraySource(rows), 450, b), 450, 1)) for b in BACKENDS}
        assert len(found) == 1


def test_the_choices_are_those_of_greedy_k_means_plus_plus() -> None:
    """One cell of all rows, against a plain restatement over exact integers."""
    x = mixture(120, 5, 8)
    w = np.random.default_rng(2).uniform(0.5, 2, 120)
    backend = select("numpy", "auto", None).backend
    k, trials = 9, Shape.of(120, 9).trials
    found = two_level(problem(ArraySource(x, weight=w), k), k, 3)
    place = [int(np.flatnonzero((x == row).all(axis=1))[0]) for row in found]
    d = backend.cross_distances(x, x)
    for step in range(1, k):
        nearest = d[:, place[:step]].min(axis=1)
        # What is left by the choice is no more than what most rows drawn would leave.
        left = (w[:, None] * np.minimum(nearest[:, None], d)).sum(axis=0)
        chance = w * nearest / (w * nearest).sum()
        better = chance[left < left[place[step]] * (1 - 1e-9)].sum()
        assert (1 - better) ** trials > 1e-6 or better < 0.9
        assert nearest[place[step]] > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_group_far_from_the_others_gets_a_centre(backend: str) -> None:
    rng = np.random.default_rng(0)
    x = (1e3 * rng.normal(size=(40, 3))[np.arange(4000) % 40] + rng.normal(size=(4000, 3))).astype(np.float32)
    result = kmeans(x, 40, init="two-level", seed=1, backend=backend)
    assert np.bincount(result.labels, minlength=40).tolist() == [100] * 40


@pytest.mark.parametrize("k", [5, 450])
def test_fewer_different_rows_than_clusters(k: int) -> None:
    x = np.repeat(np.arange(4.0)[:, None], 200, axis=0)
    for seed in range(3):
        found = two_level(problem(ArraySource(x), k), k, seed)
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
    assert weight is not None and weight.sum() == 1000 and 499 <= weight[rows[:, 0] == 77][0] <= 501
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


def test_shapes_grow_with_thelook_at() -> None:
    assert Shape.of(10**9, 100).cells == 1 and Shape.of(10**9, 1000).cells > 1
    for k in (1, 8, 100, 399, 400, 1000, 4096, 65_536):
        for n in (k, 10 * k, 100 * k, 10**9):
            shape = Shape.of(n, k)
            assert min(n, k) <= shape.rows <= n
            assert shape.rows <= 50 * k and shape.trials % 4 == 0
