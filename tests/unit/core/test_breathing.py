"""Breathing: a start that Lloyd cannot repair is repaired, and no start becomes worse."""

import numpy as np
import pytest

from gpukm.backends import select
from gpukm.core.breathing import breathe
from gpukm.core.lloyd import Problem, iterate
from gpukm.problem import look_at
from gpukm.sources.array import ArraySource


def problem_of(x, k, weight=None, metric="euclidean"):
    return look_at(ArraySource(x, weight=weight), select("numpy"), k, 4, 0.0, metric, None, None, 1)


def inertia(x, centroids, weight=1.0):
    d = ((x[:, None].astype(float) - centroids[None].astype(float)) ** 2).sum(2)
    return float((weight * d.min(1)).sum())


def lloyd(problem: Problem, centroids, steps=60):
    from dataclasses import replace

    for state in iterate(replace(problem, max_iter=steps), centroids):
        centroids = state.centroids
    return centroids


def test_a_centre_is_moved_from_where_two_share_a_cluster_to_where_one_serves_two():
    rng = np.random.default_rng(0)
    x = (np.repeat([0.0, 100, 200, 210], 200)[:, None] + rng.normal(size=(800, 2))).astype(np.float32)
    start = np.array([[-1, 0], [1, 0], [100, 100], [205, 205]], np.float32)
    problem = problem_of(x, 4)
    stuck = inertia(x, lloyd(problem, start))
    assert inertia(x, breathe(problem, start, 0)) < 0.2 * stuck


@pytest.mark.parametrize("k", [1, 2, 3, 29, 30])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_start_becomes_worse(k, weighted):
    rng = np.random.default_rng(k)
    x = rng.normal(size=(30, 3)).astype(np.float32)
    w = rng.integers(1, 5, 30).astype(float) if weighted else None
    problem = problem_of(x, k, w)
    found = breathe(problem, x[:k].copy(), 1)
    weight = 1.0 if w is None else w
    assert found.shape == (k, 3) and found.dtype == np.float32
    assert inertia(x, found, weight) <= inertia(x, lloyd(problem, x[:k].copy(), 4), weight) * (1 + 1e-9)


def test_duplicates_do_no_harm():
    x = np.repeat(np.eye(3, dtype=np.float32), 50, axis=0)
    found = breathe(problem_of(x, 5), np.repeat(x[:1], 5, axis=0), 0)
    assert np.isfinite(found).all() and inertia(x, found) == 0


def test_cosine_keeps_unit_length():
    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = breathe(problem_of(x, 6, metric="cosine"), x[:6].copy(), 0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_seeds_decide():
    x = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    found = [breathe(problem_of(x, 20), x[:20].copy(), seed).tobytes() for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
