"""Arrays that lie on a device, in all that users call: nothing of their size passes through the host."""

# ruff: noqa: F811
from __future__ import annotations

import numpy as np
import pytest

from gpukm import KMeans, MiniBatchKMeans
from gpukm.batched import kmeans_batched
from gpukm.core.result import on_host
from gpukm.errors import DataError
from gpukm.functional import assign, kmeans
from gpukm.minibatch import minibatch_kmeans
from tests.emulated import as_cupy, shared  # noqa: F401
from tests.parity.test_bits import bits, data
from tests.unit.backends.test_gpu_memory import SETTINGS, expected, problem  # noqa: F401


def test_an_array_on_the_device_is_taken_as_it_is(problem, shared):
    """By the functions that users call."""
    x, w = problem
    placed = shared.place(x)
    found, result = kmeans(placed, 15, sample_weight=w, **SETTINGS), expected(x, w)
    assert shared.owns(found.labels) and bits(found) == bits(result)
    assigned, theirs = (assign(a, result.centroids, sample_weight=w) for a in (placed, x))
    assert shared.owns(assigned.labels) and shared.owns(assigned.distances)
    np.testing.assert_array_equal(assigned.labels, theirs.labels)
    np.testing.assert_array_equal(assigned.distances, theirs.distances)
    assert assigned.inertia == theirs.inertia


@pytest.mark.parametrize("settings", [{"quality": "best"}, {"init": "k-means++", "n_init": 3}, {"init": "array"}])
def test_other_ways_to_fit_an_array_on_the_device(shared, settings):
    x, _ = data(np.float32, False)
    start = {"init": x[:15].copy()} if settings.get("init") == "array" else {}
    found, theirs = (kmeans(a, 15, seed=3, watched=True, **{**settings, **start}) for a in (shared.place(x), x))
    assert bits(found) == bits(theirs)


def test_estimators_take_an_array_on_the_device(shared, monkeypatch):
    x, _ = data(np.float32, False)
    placed = shared.place(x)
    ours, theirs = (KMeans(15, random_state=0).fit(a) for a in (placed, x))
    assert shared.owns(ours.labels_)
    np.testing.assert_array_equal(ours.cluster_centers_, theirs.cluster_centers_)
    np.testing.assert_array_equal(ours.predict(placed), theirs.predict(x))
    monkeypatch.setattr("gpukm.backends.gpu._CROSSED", 1000)
    found, expected = ours.transform(placed), theirs.transform(x)
    assert shared.owns(found) and found.tobytes() == expected.tobytes() and found.dtype == expected.dtype
    assert ours.score(placed) == theirs.score(x)


@pytest.fixture
def largest(shared, monkeypatch):
    """Bytes of the largest array that was copied in either direction since its list was emptied."""
    found = []
    for name in ("place", "fetch"):
        call = getattr(type(shared), name)

        def counted(self, array, out=None, call=call):
            found.append(array.nbytes)
            return call(self, array, out)

        monkeypatch.setattr(type(shared), name, counted)
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_cosine(shared, dtype, weighted):
    x, w = data(dtype, weighted)
    settings = {**SETTINGS, "metric": "cosine", "sample_weight": w}
    found, theirs = kmeans(shared.place(x), 15, **settings), kmeans(x, 15, backend="numpy", **settings)
    assert shared.owns(found.labels) and bits(found) == bits(theirs)
    assigned, them = (assign(a, theirs.centroids, metric="cosine") for a in (shared.place(x), x))
    np.testing.assert_array_equal(assigned.labels, them.labels)
    np.testing.assert_array_equal(assigned.distances, them.distances)
    model = KMeans(15, metric="cosine", init=theirs.centroids, max_iter=1).fit(x)
    np.testing.assert_array_equal(model.predict(shared.place(x)), model.predict(x))


def test_rows_without_direction_are_named(shared):
    x = np.ones((40, 3), np.float32)
    x[[31, 7, 9]] = 0
    for rows in (x, shared.place(x)):
        with pytest.raises(DataError, match="3 rows are zero, the first is row 7; a zero row has no direction"):
            kmeans(rows, 2, metric="cosine")


def test_a_callable_gets_the_array(shared):
    x, _ = data(np.float32, False)
    placed = shared.place(x)

    def first_rows(given, k, random_state):
        assert given is placed if shared.owns(given) else given.base is x or given is x
        return given[random_state.permutation(len(x))[:k]]

    found, theirs = (kmeans(a, 15, init=first_rows, n_init=2, max_iter=4) for a in (placed, x))
    assert bits(found) == bits(theirs)


@pytest.mark.parametrize("compute_labels", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_mini_batches(shared, largest, compute_labels, weighted):
    x, w = data(np.float32, weighted)
    x, w = np.concatenate([x, x + 1, x + 2]), None if w is None else np.tile(w, 3)
    settings = {"max_excess": 1e-2, "sample_weight": w, "compute_labels": compute_labels, "seed": 5, "batch_size": 64}
    placed = shared.place(x)
    largest.clear()
    found = minibatch_kmeans(placed, 6, **settings)
    assert max(largest) < x.nbytes // 2
    theirs = minibatch_kmeans(x, 6, backend="numpy", **settings)
    assert found.n_iter == theirs.n_iter > 2
    assert found.centroids.tobytes() == theirs.centroids.tobytes() and found.inertia == theirs.inertia
    if compute_labels:
        assert shared.owns(found.labels)
        np.testing.assert_array_equal(found.labels, theirs.labels)
    model = MiniBatchKMeans(6, random_state=0).fit(placed)
    np.testing.assert_array_equal(model.predict(placed), model.predict(x))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_streams(shared, metric):
    x, _ = data(np.float32, False)
    found = []
    for place in (shared.place, np.asarray):
        stream = MiniBatchKMeans(5, random_state=0, metric=metric, half_life=300)
        for part in np.array_split(x, 4):
            stream.partial_fit(place(part))
        found.append((stream.cluster_centers_.tobytes(), stream.counts_.tolist()))
    assert found[0] == found[1]


def shapes(x):
    """The same rows in every form, and what tells the problems apart."""
    groups = np.random.default_rng(2).integers(0, 6, len(x))
    return {
        "array": (x.reshape(10, 120, -1), {}),
        "offsets": (x, {"offsets": [0, 100, 130, 800, 1200]}),
        "groups": (x, {"groups": groups}),
        "parts": ([x[:100], x[100:400], x[400:]], {}),
    }


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("init", ["k-means++", "pooled"])
@pytest.mark.parametrize("form", ["array", "offsets", "groups", "parts"])
def test_many_problems(shared, largest, form, init, metric):
    """Together, and with a start by the pool one by one."""
    x, _ = data(np.float32, False)
    rows, told = shapes(x)[form]
    placed = [shared.place(part) for part in rows] if form == "parts" else shared.place(rows)
    settings = {**told, "init": init, "metric": metric, "max_iter": 5}
    largest.clear()
    found = kmeans_batched(placed, 4, **settings)
    # The pool looks at a sample on the host, which is all of so few rows.
    assert init == "pooled" or max(largest) < x.nbytes // 2
    theirs = kmeans_batched(rows, 4, backend="numpy", **settings)
    assert shared.owns(found.labels) and found.labels.shape == theirs.labels.shape
    for ours, their in zip(found, theirs, strict=True):
        assert np.asarray(on_host(ours.labels)).tobytes() == their.labels.tobytes()
        assert ours.centroids.tobytes() == their.centroids.tobytes() and ours.inertia == their.inertia


def test_what_is_wrong_with_one_problem_is_told(shared):
    x = np.ones((60, 3), np.float32)
    x[25] = 0
    with pytest.raises(DataError, match=r"problem 1: 1 row is zero, the first is row 5"):
        kmeans_batched(shared.place(x).reshape(3, 20, 3), 2, metric="cosine")
    x[25] = np.nan
    with pytest.raises(DataError, match=r"problem 1: Input contains NaN.*row 5"):
        kmeans_batched(shared.place(x).reshape(3, 20, 3), 2)
    with pytest.raises(DataError, match=r"problem 1: the array on emulated:0 cannot be used"):
        kmeans_batched([shared.place(x), x], 2)
