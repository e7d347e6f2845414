"""Rows of 16-bit floats on a device: used as they are, with the bits that the same values have as float32."""

# ruff: noqa: F811
from __future__ import annotations

import numpy as np
import pytest
from gpukm_kernels.screening import mode

from gpukm import KMeans
from gpukm.backends.matrix_screen import MatrixScreen
from gpukm.batched import kmeans_batched
from gpukm.errors import DataError
from gpukm.functional import assign, kmeans
from gpukm.minibatch import minibatch_kmeans
from tests.emulated import as_cupy, shared  # noqa: F401
from tests.parity.test_bits import bits, data
from tests.unit.backends.test_gpu_memory import SETTINGS

KINDS = ("float16", "bfloat16")


def values(kind, weighted=False):
    """Rows that the type holds, as float32, and weights."""
    x, w = data(np.float32, weighted)
    if kind == "float16":
        return x.astype(np.float16).astype(np.float32), w
    return (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32), w


def placed(device, x, kind):
    """On the device, in 16 bits."""
    return device.place(x.astype(np.float16)) if kind == "float16" else device.place_bfloat16(x)


def fits_are_equal(device, kind, settings):
    """Of the rows, of the same in float32 on the device, and on the host."""
    x, w = values(kind, weighted=settings.get("init") == "k-means++")
    rows, asked = placed(device, x, kind), {**SETTINGS, "sample_weight": w, **settings}
    found, wide = (kmeans(a, 15, **asked) for a in (rows, device.place(x)))
    assert device.kind(rows) == kind and device.owns(found.labels)
    assert bits(found) == bits(wide) and found.centroids.dtype == np.float32
    assert bits(found) == bits(kmeans(x, 15, backend="numpy", **asked))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("float16", {}),
        ("float16", {"init": "pooled"}),
        ("bfloat16", {"metric": "cosine"}),
        ("bfloat16", {"init": "k-means++"}),
        ("bfloat16", {"quality": "best", "max_iter": 3}),
    ],
)
def test_a_fit(shared, kind, settings):
    fits_are_equal(shared, kind, settings)


@pytest.fixture
def by_matrix(as_cupy, shared):
    """With the screen of the matrix units."""
    as_cupy.__init__(shared, MatrixScreen(shared, mode("fp16", (9, 0))))
    as_cupy.name = "cupy"
    return shared


@pytest.mark.parametrize("kind", KINDS)
def test_by_the_matrix_units(by_matrix, kind):
    fits_are_equal(by_matrix, kind, {})


@pytest.mark.parametrize("kind", KINDS)
def test_no_wider_copy_is_made(by_matrix, kind, monkeypatch):
    """Only sums of 64 bits, a screen's own copy, numbers a row, and a sample are; here with rows as wide as many."""
    rng = np.random.default_rng(0)
    x = np.round(rng.normal(size=(3000, 64)) * 8).astype(np.float32)  # which both types hold
    rows, taken = placed(by_matrix, x, kind), []
    empty = type(by_matrix).empty

    def counted(self, shape, dtype):
        if isinstance(shape, tuple) and len(shape) == 2 and shape[0] >= len(x):
            taken.append(np.dtype(dtype).itemsize)
        return empty(self, shape, dtype)

    monkeypatch.setattr(type(by_matrix), "empty", counted)
    kmeans(rows, 4, init=x[:4].copy(), max_iter=4, watched=True)
    assert max(taken, default=0) <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_following_bounds(shared, kind):
    rng = np.random.default_rng(4)
    x = (rng.integers(0, 40, (400, 1)) * 4 + np.round(rng.normal(size=(400, 3)) * 4) / 4).astype(np.float32)
    x = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    settings = {"init": x[:256].copy(), "max_iter": 12, "tol": 0.0, "watched": True}
    found = kmeans(placed(shared, x, kind), 256, **settings)
    assert shared.launched["follow.score"]
    assert bits(found) == bits(kmeans(x, 256, backend="numpy", **settings))


@pytest.mark.parametrize("kind", KINDS)
def test_all_else_that_takes_them(shared, kind):
    x, w = values(kind, True)
    rows = placed(shared, x, kind)
    fit = kmeans(x, 6, backend="numpy", max_iter=3)
    ours, theirs = (assign(a, fit.centroids, sample_weight=w) for a in (rows, x))
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_array_equal(ours.distances, theirs.distances)
    assert ours.inertia == theirs.inertia
    for init in ("k-means++", "random", "pooled"):
        many, them = (kmeans_batched(a.reshape(10, 120, 20), 4, init=init, max_iter=5) for a in (rows, x))
        for one, other in zip(many, them, strict=True):
            assert one.digest() == other.digest()
    parts, them = (kmeans_batched([a[:50], a[50:]], 4, metric="cosine", max_iter=5) for a in (rows, x))
    assert parts[1].digest() == them[1].digest()
    small, them = (minibatch_kmeans(a, 5, batch_size=64, max_excess=1e-2) for a in (rows, x))
    assert small.digest() == them.digest()
    model = KMeans(6, random_state=0).fit(rows)
    np.testing.assert_array_equal(model.labels_, model.predict(x))
    np.testing.assert_array_equal(model.transform(rows), model.transform(x))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_is_found(shared, kind):
    x, _ = values(kind)
    x[41, 3], x[50, 0] = np.inf, np.nan
    with pytest.raises(DataError, match=r"2 values, the first \(infinity\) in row 41"):
        kmeans(placed(shared, x, kind), 3)


def test_every_number_of_16_bits_is_read(shared):
    """Denormals, zeros of both signs and the largest: through the copies that cosine, samples and the host take."""
    every = np.arange(1 << 16, dtype=np.uint16)
    halves = every.view(np.float16).astype(np.float32)
    brains = (every.astype(np.uint32) << 16).view(np.float32)
    from gpukm.backends.gpu_rows import fetch

    for wide, there in ((halves, shared.place(every.view(np.float16))), (brains, shared.place(every))):
        there.brain = wide is brains
        found = fetch(shared, there.reshape(-1, 16)).reshape(-1)
        known = ~np.isnan(wide)
        assert found[known].tobytes() == wide[known].tobytes() and np.isnan(found[~known]).all()
