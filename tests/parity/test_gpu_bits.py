"""Contract 3 on a GPU: the hash of the reference, on a device where there is one, and on the emulated one."""

from importlib import import_module

import numpy as np
import pytest

from gpukm.batched import kmeans_batched
from gpukm.core.result import on_host
from gpukm.functional import assign, kmeans
from gpukm.minibatch import minibatch_kmeans
from gpukm.sources.array import ArraySource
from tests.device import LIBRARIES, needs
from tests.emulated import as_cupy  # noqa: F401
from tests.parity.test_bits import Streamed, bits, data


@pytest.fixture(params=["emulated", *LIBRARIES])
def gpu(request):
    """Name of a backend on a GPU."""
    if request.param == "emulated":
        request.getfixturevalue("as_cupy")
        return "cupy"
    needs(request.param)
    return request.param


def found(kind, x, w, backend, **settings):
    return bits(kmeans(kind(x, weight=w), 15, backend=backend, seed=3, watched=True, **settings))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("init", ["random", "k-means++", "pooled", "array"])
def test_one_hash(gpu, init, dtype, weighted, metric):
    x, w = data(dtype, weighted)
    settings = {"init": x[:15].copy() if init == "array" else init, "n_init": 2, "max_iter": 8, "metric": metric}
    expected = found(ArraySource, x, w, "numpy", **settings)
    assert found(ArraySource, x, w, gpu, **settings) == expected
    assert found(ArraySource, x, w, gpu, n_shards=2, **settings) == expected
    assert found(Streamed, x, w, gpu, batch_size=500, **settings) == expected


@pytest.mark.parametrize("tol", [0.0, 0.05])
def test_a_fit_to_its_end(gpu, tol):
    """Iterations that the device makes by itself, up to where little or nothing moves."""
    x, _ = data(np.float32, False)
    x = x + 6 * np.random.default_rng(9).normal(size=x.shape).astype(np.float32)
    expected = found(ArraySource, x, None, "numpy", init="random", n_init=1, tol=tol)
    assert (expected[2].name, expected[1] > 4) == ("TOLERANCE" if tol else "CONVERGED", True)
    assert found(ArraySource, x, None, gpu, init="random", n_init=1, tol=tol) == expected


def placed(library, x, kind):
    """Rows on a device as a library's array of some type, and as float32 or float64 on the host."""
    module = import_module(library)
    if library == "torch":
        rows = module.from_numpy(x).to("cuda").to(getattr(module, kind))
        return rows, (rows if kind == "float64" else rows.float()).cpu().numpy()
    rows = module.asarray(x).astype(kind)
    return rows, rows.get().astype("float64" if kind == "float64" else "float32")


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_arrays_on_a_device(library, kind):
    needs(library)
    if (library, kind) == ("cupy", "bfloat16"):
        pytest.skip("CuPy has no bfloat16")
    rows, x = placed(library, data(np.float64, False)[0], kind)
    for settings in ({"init": "random"}, {"init": "k-means++"}, {"metric": "cosine"}, {"quality": "best"}):
        ours, theirs = (kmeans(a, 15, seed=3, watched=True, max_iter=8, **settings) for a in (rows, x))
        assert type(ours.labels) is type(rows) and bits(ours) == bits(theirs)
    fast = [kmeans(rows, 15, seed=3, precision="fast").digest() for _ in range(2)]
    assert fast[0] == fast[1]
    ours, theirs = (assign(a, theirs.centroids) for a in (rows, x))
    np.testing.assert_array_equal(on_host(ours.labels), theirs.labels)
    np.testing.assert_array_equal(on_host(ours.distances), theirs.distances)
    many, them = (kmeans_batched(a.reshape(10, 120, 20), 4, max_iter=5) for a in (rows, x))
    assert [one.digest() for one in many] == [one.digest() for one in them]
    small, them = (minibatch_kmeans(a, 5, batch_size=64, max_excess=1e-2) for a in (rows, x))
    assert small.digest() == them.digest()


@pytest.mark.parametrize("precision", ["fast", "tf32", "ieee"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_labels_of_a_single_precision(library, precision):
    needs(library)
    if (library, precision) == ("cupy", "tf32"):
        pytest.skip("CuPy has no screen in tf32")
    x, _ = data(np.float32, False)
    fits = [kmeans(x, 15, seed=3, backend=library, precision=precision) for _ in range(2)]
    assert fits[0].digest() == fits[1].digest()
    theirs = assign(x, fits[0].centroids, backend="numpy")
    np.testing.assert_array_equal(fits[0].labels, theirs.labels)
    assert fits[0].inertia == theirs.inertia


def test_rows_that_moved_are_counted_as_elsewhere(as_cupy):  # noqa: F811
    x, _ = data(np.float32, False)
    histories = [
        kmeans(x, 15, init="random", n_init=1, seed=3, backend=b, watched=True).history for b in ("numpy", "cupy")
    ]
    assert histories[0] == histories[1]
    assert as_cupy.device.launched["loop.commit"] > 4


def test_iterations_that_cannot_be_recorded_are_launched(as_cupy, monkeypatch, capsys):  # noqa: F811
    def fails(self, work):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(type(as_cupy.device), "record", fails)
    x, _ = data(np.float32, False)
    expected = found(ArraySource, x, None, "numpy", init="random", n_init=1)
    assert found(ArraySource, x, None, "cupy", init="random", n_init=1) == expected
    assert "not recorded as a CUDA graph" in capsys.readouterr().err


def test_clusters_that_lose_all_rows_on_the_way(gpu):
    """The device leaves an iteration with an empty cluster to the host, and goes on after it."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        x = np.concatenate([rng.normal(size=(60, 2)), 4 + rng.normal(size=(4, 2))]).astype(np.float32)
        start = x[rng.integers(0, 64, 12)] + rng.normal(size=(12, 2)).astype(np.float32)
        late = [r.n_empty for r in kmeans(x, 12, init=start, backend="numpy").history[2:]]
        if any(late):
            break
    assert any(late)
    expected = kmeans(x, 12, init=start, backend="numpy")
    result = kmeans(x, 12, init=start, backend=gpu, watched=True)
    assert bits(result) == bits(expected)
    assert result.history == expected.history


def test_empty_clusters_and_duplicates(gpu):
    rng = np.random.default_rng(1)
    x = np.repeat(rng.normal(size=(40, 3)), 10, axis=0)
    start = np.concatenate([x[:20:2], 1e3 + rng.normal(size=(6, 3))])
    assert bits(kmeans(x, 16, init=start, backend=gpu, watched=True)) == bits(
        kmeans(x, 16, init=start, backend="numpy")
    )
