"""``quality="best"``: never worse, the same bits everywhere, and found again after a stop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpukm.core import swaps
from gpukm.errors import ConfigError
from gpukm.functional import Resume, fit_iter, kmeans
from gpukm.sources.array import ArraySource
from tests.unit.core.test_pooled import BACKENDS, Streamed, mixture, problem


@pytest.mark.parametrize("seed", range(4))
def test_the_inertia_never_ends_higher(seed: int) -> None:
    x = mixture(1500, 3, 30, seed)
    settings: dict[str, Any] = {"init": "random", "n_init": 1, "seed": seed}
    standard, best = kmeans(x, 30, **settings), kmeans(x, 30, quality="best", **settings)
    assert best.inertia_before_swaps == standard.inertia and standard.inertia_before_swaps is None
    # Thirty random rows of thirty groups miss some of them, and swaps find these.
    assert best.inertia < 0.97 * standard.inertia
    assert best.n_scored > standard.n_scored and best.n_iter == len(best.history)
    d = ((x[:, None].astype(float) - best.centroids[None].astype(float)) ** 2).sum(axis=2)
    assert best.labels is not None and (d[np.arange(1500), best.labels] <= d.min(axis=1) * (1 + 1e-12)).all()
    assert best.inertia == pytest.approx(d.min(axis=1).sum(), rel=1e-9)


def test_swaps_that_fail_leave_the_fit_as_it_was() -> None:
    x = np.repeat(1e3 * np.eye(6), 40, axis=0) + np.random.default_rng(0).normal(size=(240, 6))
    standard, best = (kmeans(x, 6, init="auto", seed=0, quality=q) for q in ("standard", "best"))
    assert best.digest() == standard.digest() and best.n_iter == standard.n_iter


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_same_bits_whatever_runs_it(metric: str, weighted: bool) -> None:
    x = mixture(700, 5, 12)
    w = np.random.default_rng(1).exponential(size=700) if weighted else None
    found = set()
    for backend in BACKENDS:
        for kind, cut in ((ArraySource, {}), (ArraySource, {"n_shards": 3}), (Streamed, {"batch_size": 99})):
            fit = kmeans(
                kind(x, weight=w), 12, init="random", n_init=1, max_iter=6, metric=metric, quality="best",
                seed=2, backend=backend, **cut,
            )  # fmt: skip
            found.add((fit.digest(), fit.n_iter, fit.inertia_before_swaps))
    assert len(found) == 1


def test_a_fit_that_stopped_during_swaps_ends_the_same() -> None:
    x = mixture(900, 3, 20)
    settings: dict[str, Any] = {"init": "random", "n_init": 1, "seed": 3, "quality": "best"}
    whole = kmeans(x, 20, **settings)
    history, centroids = [], None
    for step in fit_iter(x, 20, **settings):
        if step.swap:
            break
        if step.state.stop is None:
            history.append(step.state.record)
            centroids = step.state.centroids
    else:
        raise AssertionError("there was no swap")
    assert centroids is not None
    resumed = kmeans(x, 20, resume=Resume(centroids, tuple(history)), **settings)
    assert resumed.digest() == whole.digest()
    assert [(r.iteration, r.inertia, r.shift) for r in resumed.history] == [
        (r.iteration, r.inertia, r.shift) for r in whole.history
    ]


@pytest.mark.parametrize(("n", "k"), [(5, 1), (6, 6), (7, 6), (8, 2)])
def test_hardly_any_rows_or_clusters(n: int, k: int) -> None:
    x = np.random.default_rng(0).normal(size=(n, 2))
    best = kmeans(x, k, init="auto", seed=0, quality="best")
    assert best.centroids.shape == (k, 2) and best.inertia <= kmeans(x, k, init="auto", seed=0).inertia


def test_nothing_is_left_to_gain() -> None:
    x = np.repeat(np.arange(3.0)[:, None], 10, axis=0)
    assert kmeans(x, 3, init="auto", seed=0, quality="best").inertia == 0


def test_the_least_useful_go_but_not_two_neighbours() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([c + rng.normal(size=(50, 2)) for c in ([0, 0], [100, 0], [0, 100])])
    # Two pairs share a group, and each of a pair is of little use while the other is there.
    centroids = np.array([[0, 0], [100, -0.5], [0, 99.5], [100, 0.5], [0, 100.5]], dtype=float)
    left = swaps.shrink(problem(ArraySource(x), 5), centroids, 2)
    assert [0.0, 0.0] in left.tolist() and sorted((left[:, 0] > 50).tolist()) == [False, False, True]
    assert len(swaps.shrink(problem(ArraySource(x), 5), centroids, 4)) == 1


def test_sizes_of_the_first_swap() -> None:
    x = np.random.default_rng(0).normal(size=(100, 2))
    assert [swaps.first_size(problem(ArraySource(x), k), k) for k in (1, 2, 3, 20, 80, 98, 100)] == [
        0,
        1,
        2,
        5,
        8,
        2,
        0,
    ]


def test_quality_is_checked() -> None:
    with pytest.raises(ConfigError, match="quality is 'good', expected 'standard' or 'best'"):
        kmeans(np.zeros((4, 2)), 2, quality="good")
