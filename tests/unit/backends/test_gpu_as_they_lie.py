"""Rows of 16 bits that the matrix units take from where they lie, with precision fast."""

# ruff: noqa: F811
from __future__ import annotations

import numpy as np
import pytest
from gpukm_kernels.screening import mode

from gpukm.backends.base import Frame
from gpukm.backends.gpu import GpuBackend
from gpukm.backends.matrix_screen import MatrixScreen
from gpukm.core.stats import Grid
from gpukm.functional import assign, kmeans
from tests.emulated import as_cupy, shared  # noqa: F401
from tests.emulator import Emulated
from tests.unit.backends.test_gpu_short_rows import KINDS, by_matrix, placed  # noqa: F401

#: Bits that values keep.
BITS = {"float16": 11, "bfloat16": 8}


def rounded(x, kind):
    """Float32 values rounded to the type, half to even."""
    if kind == "float16":
        return x.astype(np.float16).astype(np.float32)
    raised = x.view(np.uint32).astype(np.uint64)
    raised += 0x7FFF + (raised >> 16 & 1)
    return (raised.astype(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def mixture(kind, n=400, k=60, d=48, center=0.0, apart=1.0, spread=0.3):
    """Rows around centroids, in the type, and these centroids, which it does not hold."""
    rng = np.random.default_rng(7)
    c = (apart * rng.normal(size=(k, d)) + center).astype(np.float32)
    return rounded((c[rng.integers(0, k, n)] + spread * rng.normal(size=(n, d))).astype(np.float32), kind), c


def fast():
    device = Emulated((9, 0), seed=2)
    return GpuBackend(device, MatrixScreen(device, mode("fp16", (9, 0))), certify=False)


def frame_of(x, stored):
    return Frame.of(x, x.min(axis=0), x.max(axis=0), np.float32, stored)


def labels_of(backend, x, c, frame):
    """Labels of rows on the device, and how often vectors were rounded."""
    labels, before = np.empty(len(x), np.int32), backend.device.launched.copy()
    assert backend.assign(x, backend.prepare(c, frame), labels) == 0
    return labels, sum((backend.device.launched - before)[f"round.round_{kind}"] for kind in (*KINDS, "float32"))


def nearest(x, c):
    """Squared distances in float64."""
    x, c = x.astype(np.float64), c.astype(np.float64)
    return ((x[:, None] - c[None]) ** 2).sum(axis=2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 60, 700])
def test_labels_are_of_the_nearest_rounded_centroid(kind, k):
    """With 700 in two steps."""
    x, c = mixture(kind, k=k, apart=0.1 if k == 1 else 1.0)
    backend = fast()
    rows = placed(backend.device, x, kind)
    labels, made = labels_of(backend, rows, c, frame_of(x, kind))
    assert made == 1  # centroids alone
    d = nearest(x, rounded(c, kind))
    # Sums of float32, and in a place a few bits less.
    reach = np.abs(x).max() * np.abs(c).max() * 48
    assert (d[np.arange(len(x)), labels] - d.min(axis=1) <= 2**-16 * reach).all()
    assert (labels == d.argmin(axis=1)).mean() > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_what_rounding_takes_from_a_centroid_counts_by_its_distance(kind):
    """Half norms of exact centroids would be off by what was lost times how far rows are from the origin."""
    apart = 2.0 ** (3 - BITS[kind])
    x, c = mixture(kind, center=2.0, apart=apart, spread=apart / 8)
    backend = fast()
    frame = Frame(np.zeros(48), float(np.abs(x).max()), kind)
    labels, made = labels_of(backend, placed(backend.device, x, kind), c, frame)
    assert made == 1
    d = nearest(x, c)
    found = d[np.arange(len(x)), labels] - d.min(axis=1)
    rest = np.linalg.norm(c - rounded(c, kind), axis=1).max()
    assert found.max() <= 4 * rest * (np.sqrt(d.min(axis=1)).max() + rest)


@pytest.mark.parametrize("kind", KINDS)
def test_other_features_are_filled_up(kind):
    """Where rows do not begin at multiples of 16 bytes they are copied, with the same values."""
    x, c = mixture(kind, d=44)
    backend = fast()
    labels, made = labels_of(backend, placed(backend.device, x, kind), c, frame_of(x, kind))
    assert made == 2
    wide, wider = (np.pad(v, ((0, 0), (0, 4))) for v in (x, c))
    same, made = labels_of(backend, placed(backend.device, wide, kind), wider, frame_of(wide, kind))
    assert made == 1
    np.testing.assert_array_equal(labels, same)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_begin_anywhere(kind):
    x, c = mixture(kind)
    backend = fast()
    flat = placed(backend.device, np.concatenate([np.zeros(1, np.float32), x.ravel()])[:, None], kind)
    shifted = flat.reshape(-1)[1:].reshape(x.shape)
    assert backend.device.address(shifted) % 16
    labels, made = labels_of(backend, shifted, c, frame_of(x, kind))
    assert made == 2
    same, _ = labels_of(backend, placed(backend.device, x, kind), c, frame_of(x, kind))
    np.testing.assert_array_equal(labels, same)


@pytest.mark.parametrize(
    ("kind", "center", "scale"),
    [("float16", 8.0, 1.0), ("bfloat16", 8.0, 1.0), ("bfloat16", 0.0, 2.0**-50), ("bfloat16", 0.0, 2.0**60)],
)
def test_rows_that_are_told_apart_about_their_centre_alone(kind, center, scale):
    x, c = mixture("bfloat16", center=center, spread=0.5)
    x, c = (v * np.float32(scale) for v in (x, c))
    backend = fast()
    x = rounded(x, kind)
    x[0] = x[1] * -4  # what one row tells of the reach
    labels, made = labels_of(backend, placed(backend.device, x, kind), c, frame_of(x, kind))
    assert made == 2
    d = nearest(x / scale, c / scale)
    assert (d[np.arange(len(x)), labels] <= d.min(axis=1) * (1 + 1e-2)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_one_wide_feature_does_not_hide_where_the_others_lie(kind):
    x, c = mixture(kind, center=100.0, apart=4.0)
    x[:, 0] -= 100
    c[:, 0] -= 100
    x[5, 0] = 2**14
    frame = frame_of(x, kind)
    assert frame.radius > 16000 and frame.stored is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_rows_of_evenly_distributed_numbers_are_taken(kind, low):
    x = rounded(np.random.default_rng(0).uniform(low, 1, (500, 32)).astype(np.float32), kind)
    assert frame_of(x, kind).stored == kind


@pytest.mark.parametrize("d", [48, 2048])
def test_centroids_beyond_the_type(d):
    """What is cut off lies where it lay: of two the nearer one takes the rows."""
    x, _ = mixture("float16", n=40, k=40, d=d)
    c = np.zeros((2, d), np.float32)
    c[0, 0], c[1, :2] = 1e6, (1e5, 3e4)
    c[:, 2:] = 300
    backend = fast()
    labels, _ = labels_of(backend, placed(backend.device, x, "float16"), c, frame_of(x, "float16"))
    assert (labels == 1).all()


@pytest.mark.parametrize(("reach", "far"), [(1.0, 3e37), (1.0, 3e38), (1e11, 1e26)])
def test_centroids_so_far_away_that_products_would_overflow(reach, far):
    x, c = mixture("bfloat16")
    x, c = x * np.float32(reach), c * np.float32(reach)
    x = rounded(x, "bfloat16")
    c[7] = far
    backend = fast()
    labels, made = labels_of(backend, placed(backend.device, x, "bfloat16"), c, frame_of(x, "bfloat16"))
    d = nearest(x / reach, c / reach)
    assert made == 1 and (d[np.arange(len(x)), labels] <= d.min(axis=1) * (1 + 1e-2)).all()


def test_iterations_take_rows_as_their_own_data_are():
    """Whatever the backend has labelled meanwhile."""
    x, c = mixture("bfloat16", k=40)
    backend = fast()
    device, wide = backend.device, frame_of(x, None)
    rows, labels = device.place(x), device.zeros(len(x), np.int32)
    tracker = backend.tracker(rows, c)
    backend.track(tracker, rows, c, wide, labels)
    backend.prepare(c, frame_of(x, "bfloat16"))
    sums = backend.sums(len(c), x.shape[1], False)
    grid = Grid.of(np.abs(x).max(axis=0), float(len(x)))
    backend.accumulate(sums, rows, None, labels, None, grid)
    before = device.launched["round.round_bfloat16"]
    list(backend.run(tracker, sums, rows, None, labels, c, wide, grid, np.zeros(48), 0.0, 3))
    assert device.launched["round.round_bfloat16"] == before


def test_each_type_has_its_own():
    """Frames of other data change what rows are multiplied as; what was packed before stays what it was."""
    backend, wide = fast(), mixture("bfloat16")[0]
    c = mixture("bfloat16")[1]
    expected = nearest(wide, c).min(axis=1)
    prepared = {stored: backend.prepare(c, frame_of(wide, stored)) for stored in (*KINDS, "float32", None)}
    assert len({prepared[stored].screen for stored in (*KINDS, None)}) == 3
    assert prepared["float32"].screen is prepared[None].screen is backend.screen
    rows = {"bfloat16": placed(backend.device, wide, "bfloat16"), "float32": backend.device.place(wide)}
    for packed in prepared.values():
        for x in rows.values():
            labels = np.empty(len(wide), np.int32)
            backend.assign(x, packed, labels)
            assert (nearest(wide, c)[np.arange(len(wide)), labels] <= expected * (1 + 1e-2)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("init", ["given", "pooled", "k-means++"])
def test_a_fit(by_matrix, kind, watched, init, monkeypatch):
    x, c = mixture(kind, n=900, k=20, d=32)
    rows, taken = placed(by_matrix, x, kind), []
    empty = type(by_matrix).empty

    def counted(self, shape, dtype):
        if isinstance(shape, tuple) and len(shape) == 2 and shape[0] >= len(x) and np.dtype(dtype).itemsize == 2:
            taken.append(shape)
        return empty(self, shape, dtype)

    asked = {"max_iter": 5, "init": c.copy() if init == "given" else init, "watched": watched, "seed": 3}
    with monkeypatch.context() as patched:
        patched.setattr(type(by_matrix), "empty", counted)
        found = kmeans(rows, 20, precision="fast", **asked)
    # The last pass is exact, and rounds rows about the centre.
    assert len(taken) == 1
    theirs = assign(x, found.centroids, backend="numpy")
    np.testing.assert_array_equal(by_matrix.fetch(found.labels), theirs.labels)
    assert found.inertia == theirs.inertia
    exact = kmeans(rows, 20, **asked)
    assert found.inertia <= exact.inertia * 1.01
    assert found.digest() == kmeans(rows, 20, precision="fast", **asked).digest()


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_quality(by_matrix, kind):
    """Takes seconds, which are certified."""
    x, _ = mixture(kind, n=600, k=12, d=16)
    rows = placed(by_matrix, x, kind)
    found = kmeans(rows, 12, precision="fast", quality="best", max_iter=3)
    theirs = assign(x, found.centroids, backend="numpy")
    np.testing.assert_array_equal(by_matrix.fetch(found.labels), theirs.labels)
