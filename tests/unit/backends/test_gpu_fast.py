"""Labels as the screen of a GPU finds them."""

from __future__ import annotations

import numpy as np
import pytest
from gpukm_kernels.screening import mode

from gpukm import KMeans
from gpukm.backends import screens
from gpukm.backends.base import Frame
from gpukm.backends.gpu import GpuBackend
from gpukm.backends.matrix_screen import MatrixScreen
from gpukm.backends.plain_screen import PlainScreen
from gpukm.backends.screens import screen_of
from gpukm.errors import BackendUnavailableError
from gpukm.functional import assign, kmeans
from gpukm.sources.array import ArraySource
from tests.emulated import as_cupy  # noqa: F401
from tests.emulator import Emulated


@pytest.fixture
def by_matrix(as_cupy):  # noqa: F811
    """The screen by matrix units, whose scores are of 16-bit floats."""
    as_cupy.__init__(as_cupy.device, MatrixScreen(as_cupy.device, mode("fp16", (9, 0))))
    return as_cupy


def between(n=300, k=40, d=24):
    """Rows about midway between two centroids each, which 16 bits cannot tell apart; and the centroids."""
    rng = np.random.default_rng(0)
    c = rng.normal(size=(k, d)).astype(np.float32)
    a, b = rng.integers(0, k, n), rng.integers(0, k, n)
    near = np.where(rng.random((n, 1)) < 0.5, 0.5 + 2e-5, 0.5 - 2e-5)
    return (near * c[a] + (1 - near) * c[b]).astype(np.float32), c


def test_nothing_is_decided_by_d():
    x, c = between()
    found = {}
    for certify in (True, False):
        device = Emulated(seed=2)
        backend = GpuBackend(device, MatrixScreen(device, mode("fp16", (9, 0))), certify=certify)
        labels, prepared = np.empty(300, np.int32), backend.prepare(c, Frame(np.zeros(24), float(np.abs(c).max())))
        rechecked = backend.assign(x, prepared, labels)
        found[certify] = labels, rechecked, device.launched["decide.measure"]
    d = backend.cross_distances(x, c)
    np.testing.assert_array_equal(found[True][0], d.argmin(axis=1))
    assert found[True][1] > 100 and found[True][2]
    assert found[False][1:] == (0, 0)
    assert (found[False][0] != found[True][0]).any()
    # As good as equal: bounds play no part, which would prefer tiles whose centroids are shorter.
    assert (d[np.arange(300), found[False][0]] <= d.min(axis=1) * (1 + 2e-3)).all()
    certified, labels = backend.certified, np.empty(300, np.int32)
    prepared = certified.prepare(c, Frame(np.zeros(24), 4.0))
    certified.assign(x, prepared, labels)
    np.testing.assert_array_equal(labels, found[True][0])
    np.testing.assert_array_equal(certified.assign_two(x, prepared)[0], found[True][0])


@pytest.mark.parametrize("free", [1 << 30, 100_000])
def test_a_result_is_exact_for_its_centroids(by_matrix, free):
    x, c = between()
    by_matrix.device.free = free
    fits = [
        kmeans(x, 40, init=c, max_iter=3, backend="cupy", precision="fast", watched=watched)
        for watched in (False, True)
    ]
    found = fits[0]
    assert by_matrix.certified is by_matrix
    assert fits[0].digest() == fits[1].digest() and found.settings["precision"] == "fast"
    theirs = assign(x, found.centroids, backend="numpy")
    np.testing.assert_array_equal(found.labels, theirs.labels)
    assert found.inertia == theirs.inertia
    np.testing.assert_array_equal(found.counts, np.bincount(theirs.labels, minlength=40))
    # Only the last pass decides rows by D, and iterations have counted some of them elsewhere.
    blocks = -(-300 // (by_matrix.batch_rows(24, 40, 4) if free < 1 << 30 else 300))
    assert by_matrix.device.launched["decide.measure"] == 2 * blocks
    assert found.digest() != kmeans(x, 40, init=c, max_iter=3, backend="cupy").digest()


def test_streamed_and_resident_rows_get_the_same_labels(by_matrix):
    x, c = between()
    digests = set()
    for free in (1 << 30, 100_000, 70_000):
        by_matrix.device.free = free
        digests.add(kmeans(ArraySource(x), 40, init=c, max_iter=4, backend="cupy", precision="fast").digest())
    assert len(digests) == 1


def test_labels_do_not_depend_on_when_the_host_looks(as_cupy):  # noqa: F811
    """Bounds are followed from a look on."""
    rng = np.random.default_rng(4)
    x = (rng.integers(0, 40, (400, 1)) * 10 + rng.normal(size=(400, 3))).astype(np.float32)
    launched = as_cupy.device.launched
    settings = {"init": x[:256].copy(), "max_iter": 12, "tol": 0.0, "backend": "cupy", "watched": True}
    for precision in ("fast", "exact"):
        kmeans(x, 256, precision=precision, **settings)
        assert bool(launched["follow.look"]) == (precision == "exact")


@pytest.mark.parametrize("precision", ["exact", "fast", "ieee"])
def test_a_result_names_it(as_cupy, precision):  # noqa: F811
    x = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    assert kmeans(x, 4, backend="cupy", precision=precision).settings["precision"] == precision
    model = KMeans(4, backend="cupy", precision=precision, random_state=0).fit(x)
    assert model.fit_result_.settings["precision"] == precision
    np.testing.assert_array_equal(model.labels_, model.predict(x))


def test_each_precision_has_its_screen(monkeypatch):
    known, unknown = Emulated((9, 0)), Emulated((7, 5))
    for device, precision, screen, name in (
        (known, "exact", MatrixScreen, "fp16"),
        (known, "fast", MatrixScreen, "fp16"),
        (known, "ieee", PlainScreen, "ieee"),
        (unknown, "exact", PlainScreen, "ieee"),
        (unknown, "fast", PlainScreen, "ieee"),
    ):
        found = screen_of(device, precision)
        assert type(found) is screen and found.mode.name == name
    for device in (known, unknown):
        with pytest.raises(
            BackendUnavailableError, match=r"'tf32' needs PyTorch, Triton.*emulator.*use 'fast' or 'ieee'"
        ):
            screen_of(device, "tf32")
    monkeypatch.setattr(known, "library", "torch", raising=False)
    monkeypatch.setattr(screens, "find_spec", lambda name: None)
    assert type(screen_of(known, "fast")) is MatrixScreen
    with pytest.raises(BackendUnavailableError, match="needs PyTorch, Triton"):
        screen_of(known, "tf32")


def test_triton_has_all_of_them(monkeypatch):
    pytest.importorskip("triton", reason="not run: triton is not installed (scripts/test --interpret)")
    from gpukm.backends.triton_screen import TritonScreen

    device = Emulated((9, 0))
    monkeypatch.setattr(device, "library", "torch", raising=False)
    for precision, name in (("exact", "fp16"), ("fast", "fp16"), ("tf32", "tf32"), ("ieee", "ieee")):
        found = screen_of(device, precision)
        assert type(found) is TritonScreen and found.mode.name == name
