"""Contract 3: one hash for centroids, labels and inertia, whatever ran it."""

import numpy as np
import pytest
from gpukm_kernels import native_status

from gpukm.functional import kmeans
from gpukm.sources.array import ArraySource

native = native_status()[0]


class Streamed(ArraySource):
    """An array that refuses to be resident, so that every pass reads batches."""

    def array(self):
        return None

    def weights(self):
        return None


def data(dtype, weighted, n=1200, d=20, k=15):
    rng = np.random.default_rng(0)
    x = (3 * rng.normal(size=(k, d))[rng.integers(0, k, n)] + rng.normal(size=(n, d))).astype(dtype)
    return x, rng.uniform(0, 2, n) if weighted else None


def runs():
    """Name, source class and settings of every way to run one fit."""
    yield "numpy", ArraySource, {"backend": "numpy"}
    yield "numpy, streamed", Streamed, {"backend": "numpy", "batch_size": 100}
    yield "numpy, streamed in two shards", Streamed, {"backend": "numpy", "batch_size": 333, "n_shards": 2}
    if native:
        yield "cpu, 1 thread", ArraySource, {"backend": "cpu", "threads": 1, "watched": True}
        yield "cpu, 2 threads", ArraySource, {"backend": "cpu", "threads": 2, "watched": True}
        yield "cpu, small problems in one call", ArraySource, {"backend": "cpu"}
        yield "cpu, 3 shards", ArraySource, {"backend": "cpu", "n_shards": 3, "watched": True}
        yield "cpu, streamed, 1 thread", Streamed, {"backend": "cpu", "threads": 1, "batch_size": 77}
        yield "cpu, streamed, 2 threads", Streamed, {"backend": "cpu", "threads": 2, "batch_size": 1000}


def bits(result):
    """Everything a snapshot is made of, but not what depends on how the work was cut up."""
    history = [(r.iteration, r.inertia, r.shift, r.n_empty) for r in result.history]
    return result.digest(), result.n_iter, result.stop, history, result.counts.tolist(), result.weights.tolist()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("init", ["random", "k-means++", "pooled", "array"])
def test_one_hash(init, dtype, weighted, metric):
    x, w = data(dtype, weighted)
    start = x[:15].copy() if init == "array" else init
    found = {
        name: bits(kmeans(kind(x, weight=w), 15, init=start, n_init=2, max_iter=8, metric=metric, seed=3, **settings))
        for name, kind, settings in runs()
    }
    first = found["numpy"]
    assert [name for name, b in found.items() if b != first] == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_hash_where_rows_are_tracked(dtype):
    x, w = data(dtype, True, n=4000, d=12, k=40)
    found = {
        name: bits(kmeans(kind(x, weight=w), 160, init="random", n_init=1, max_iter=12, seed=5, **settings))
        for name, kind, settings in runs()
    }
    assert [name for name, b in found.items() if b != found["numpy"]] == []


def test_empty_clusters_and_duplicates():
    rng = np.random.default_rng(1)
    x = np.repeat(rng.normal(size=(40, 3)), 10, axis=0)
    start = np.concatenate([x[:20:2], 1e3 + rng.normal(size=(6, 3))])
    found = {name: bits(kmeans(kind(x), 16, init=start, **settings)) for name, kind, settings in runs()}
    assert len({b[0] for b in found.values()}) == 1
    assert next(iter(found.values()))[3][0][3] == 6 + 8  # six far centres and eight copies of two rows began empty


def test_the_hash_is_pinned():
    """The same on every machine that ever runs this."""
    x, _ = data(np.float32, False)
    found = kmeans(x, 15, seed=3, max_iter=8).digest()
    assert found == "e5425fbc5200653d1501f4d3e9b089fcd548274da38eea68e2edfd1a1733a4c9"


def test_seeds_differ():
    x, _ = data(np.float32, False)
    assert (
        kmeans(x, 15, seed=3, init="random", n_init=1).digest()
        != kmeans(x, 15, seed=4, init="random", n_init=1).digest()
    )


def test_agrees_with_scikit_learn():
    from sklearn.cluster import KMeans

    for dtype in (np.float32, np.float64):
        x, w = data(dtype, True)
        for weight in (None, w):
            theirs = KMeans(15, init=x[:15], n_init=1, max_iter=100).fit(x, sample_weight=weight)
            ours = kmeans(x, 15, init=x[:15], max_iter=100, sample_weight=weight)
            assert abs(ours.inertia - theirs.inertia_) <= 1e-6 * theirs.inertia_
