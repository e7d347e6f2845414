"""Labels of the Triton screen under its interpreter; run by test_triton.py in a process of its own.

That process has TRITON_INTERPRET=1; the CUDA kernels beside it run on the host by tests/emulator.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from gpukm_kernels.screening import mode
from gpukm_kernels.triton.tiles import Tiles
from triton.runtime.interpreter import TensorHandle, interpreter_builder

from gpukm.backends.base import Frame
from gpukm.backends.gpu import GpuBackend, Tracked
from gpukm.backends.gpu_pool import GpuPool
from gpukm.backends.triton_screen import TritonScreen
from gpukm.backends.tuning import tune
from gpukm.functional import kmeans
from tests.conformance.backend import BackendConformance
from tests.emulated import as_cupy  # noqa: F401
from tests.emulator import Emulated
from tests.unit.backends.test_gpu_as_they_lie import frame_of, labels_of, mixture, nearest, rounded
from tests.unit.backends.test_gpu_short_rows import placed

HOPPER = (9, 0)
# A bound that is infinite rules nothing out.
pytestmark = [pytest.mark.filterwarnings(f"ignore:{kind}") for kind in ("overflow encountered", "invalid value")]


class Interpreted(TritonScreen):
    """On arrays of the emulated device, in two steps wherever there are two tiles."""

    least_tiles, least_rows = 2, 1

    def _tensor(self, array: Any) -> torch.Tensor:
        return super()._tensor(torch.from_numpy(np.asarray(array)))


def backend_of(name: str, tiles: Tiles = Tiles(32, 64, 32, 4, 1)) -> GpuBackend:  # noqa: B008
    """Tiles that small shapes cross."""
    device = Emulated(HOPPER, seed=2)
    return GpuBackend(device, Interpreted(device, mode(name, HOPPER), tiles))


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> None:
    """As matrix units make them.

    The interpreter holds bfloat16 as uint16 and multiplies it as such, and takes all bits of float32 for tf32, of which
    a device may cut off all but ten.
    """
    multiply = interpreter_builder.create_dot

    def taken(operand: TensorHandle, precision: Any) -> TensorHandle:
        if operand.dtype.scalar == tl.bfloat16:
            return TensorHandle((operand.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
        if "TF32" in str(precision):
            return TensorHandle((operand.data.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32), tl.float32)
        return operand

    def dot(a: TensorHandle, b: TensorHandle, d: TensorHandle, precision: Any, most: int) -> TensorHandle:
        return multiply(taken(a, precision), taken(b, precision), d, precision, most)

    monkeypatch.setattr(interpreter_builder, "create_dot", dot)


class TestTriton(BackendConformance):
    @pytest.fixture
    def backend(self) -> GpuBackend:
        # An interpreter takes as long for many rows as for few.
        return backend_of("fp16", Tiles(128, 32, 32, 4, 1))

    def tracker(self, backend: GpuBackend, x: np.ndarray, c: np.ndarray) -> Tracked:
        return Tracked()


@pytest.mark.parametrize("name", ["ieee", "tf32"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (65, 17, 65), (70, 130, 200)])
def test_labels_in_other_modes(n: int, d: int, k: int, dtype: type, name: str, products: None) -> None:
    rng = np.random.default_rng(n + d + k)
    x, c = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(k, d)).astype(dtype)
    BackendConformance().check_labels(backend_of(name), x, c)


@pytest.mark.parametrize("name", ["ieee", "tf32", "fp16"])
def test_rows_all_but_midway_between_two_centroids(name: str, products: None) -> None:
    """A row lies nearer to one of them by a few units in the last place, which no screen sees."""
    rng = np.random.default_rng(2)
    c = rng.normal(size=(32, 40)).astype(np.float32)
    a, b = rng.integers(0, 32, 200), rng.integers(0, 32, 200)
    x = ((c[a] + c[b]) / 2).astype(np.float32)
    x = np.nextafter(x, np.where(rng.random(x.shape) < 0.5, c[a], c[b])).astype(np.float32)
    backend, labels = backend_of(name), np.empty(len(x), np.int32)
    frame = Frame(np.zeros(40), float(np.abs(c).max()))
    assert backend.assign(x, backend.prepare(c, frame), labels) > 50
    np.testing.assert_array_equal(labels, backend.cross_distances(x, c).argmin(axis=1))


@pytest.mark.parametrize("name", ["ieee", "tf32", "fp16"])
def test_labels_without_a_proof(name: str, products: None) -> None:
    """Those of the lowest scores, whatever tiles the centroids are in; nothing is listed."""
    rng = np.random.default_rng(5)
    # Lengths that differ, so that tiles would differ in their bounds.
    c = (rng.normal(size=(150, 40)) * rng.uniform(0.5, 3, size=(150, 1))).astype(np.float32)
    a, b, near = rng.integers(0, 150, 200), rng.integers(0, 150, 200), rng.uniform(0.5 - 1e-3, 0.5 + 1e-3, (200, 1))
    x = (near * c[a] + (1 - near) * c[b]).astype(np.float32)
    exact = backend_of(name)
    backend = GpuBackend(exact.device, exact.screen, certify=False)
    labels = np.empty(len(x), np.int32)
    assert backend.assign(x, backend.prepare(c, Frame(np.zeros(40), float(np.abs(c).max()))), labels) == 0
    assert not backend.device.launched["decide.measure"]
    d = backend.cross_distances(x, c)
    assert (d[np.arange(200), labels] <= d.min(axis=1) * (1 + 5e-3)).all()


@pytest.mark.parametrize("name", ["tf32", "fp16"])
def test_what_rounding_takes_from_a_centroid_counts_by_its_distance(name: str, products: None) -> None:
    """Of two groups far apart each row is found in its own part of its own."""
    rng = np.random.default_rng(8)
    c = (rng.normal(size=(200, 16)) + np.where(np.arange(200) % 2, 40, -40)[:, None]).astype(np.float32)
    x = (c[rng.integers(0, 200, 300)] + 0.3 * rng.normal(size=(300, 16))).astype(np.float32)
    first, labels = backend_of(name), np.empty(300, np.int32)
    backend = GpuBackend(first.device, first.screen, certify=False)
    backend.assign(x, backend.prepare(c, Frame(np.zeros(16), float(np.abs(x).max()))), labels)
    far = nearest(x, c)
    assert (far[np.arange(300), labels] <= far.min(axis=1) * 1.2).all()


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("d", [16, 32, 48, 80])
def test_rows_of_16_bits_as_they_lie(kind: str, d: int, products: None) -> None:
    """Whole rows and pieces of them, of whole tiles of features and of others."""
    x, c = mixture(kind, n=200, k=150, d=d)
    first = backend_of("fp16")
    backend = GpuBackend(first.device, first.screen, certify=False)
    labels, made = labels_of(backend, placed(backend.device, x, kind), c, frame_of(x, kind))
    assert made == 1  # centroids alone
    far = nearest(x, rounded(c, kind))
    reach = np.abs(x).max() * np.abs(c).max() * d
    assert (far[np.arange(200), labels] - far.min(axis=1) <= 2**-14 * reach).all()
    assert (labels == far.argmin(axis=1)).mean() > 0.99


def test_most_rows_are_settled_by_the_screen() -> None:
    rng = np.random.default_rng(3)
    c = rng.normal(size=(100, 48)).astype(np.float32)
    x = (c[rng.integers(0, 100, 3000)] + 0.3 * rng.normal(size=(3000, 48))).astype(np.float32)
    backend, labels = backend_of("fp16"), np.empty(len(x), np.int32)
    assert backend.assign(x, backend.prepare(c, Frame(np.zeros(48), float(np.abs(x).max()))), labels) < 30
    np.testing.assert_array_equal(labels, backend.cross_distances(x, c).argmin(axis=1))


def test_a_device_that_is_not_known_screens_in_float32() -> None:
    assert mode("fp16", (7, 5)) == mode("ieee", HOPPER)


def test_tuning_takes_the_fastest_and_checks_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    device, fast = Emulated(HOPPER), mode("fp16", HOPPER)
    slow, quick = Tiles(16, 16, 16, 4, 1), Tiles(64, 64, 32, 4, 1)
    [found] = tune(device, lambda t: Interpreted(device, fast, t), [20], 40, 20, [slow, quick])
    assert found.features == 20 and found.milliseconds > 0
    taken = iter((3.0, 2.0, 1.0))
    monkeypatch.setattr("gpukm.backends.tuning._timed", lambda *_: (np.zeros(1), next(taken)))
    [found] = tune(device, lambda t: Interpreted(device, fast, t), [20], 96, 70, [slow, quick])
    assert (found.tiles, found.milliseconds, found.table_milliseconds) == (quick, 1e3, 3e3)
    answers = iter(([0, 1], [0, 2]))
    monkeypatch.setattr("gpukm.backends.tuning._timed", lambda *_: (np.array(next(answers)), 1.0))
    with pytest.raises(RuntimeError, match="labels rows otherwise"):
        list(tune(device, lambda t: Interpreted(device, fast, t), [20], 96, 70, [slow]))


def test_one_step_and_two_agree() -> None:
    """Rows that have a centroid in each of several tiles nearly as near, at the edges of blocks and tiles."""
    rng = np.random.default_rng(7)
    k, n = 4 * 64 + 1, 3 * 32 + 1
    c = rng.normal(size=(k, 40)).astype(np.float32)
    a, b = rng.integers(0, k, n), rng.integers(0, k, n)
    x = ((c[a] + c[b]) / 2 + 1e-3 * rng.normal(size=(n, 40))).astype(np.float32)
    expected, listed = None, []
    for least_tiles in (2, 100):
        for certify in (True, False):
            backend, labels = backend_of("fp16"), np.empty(n, np.int32)
            backend.screen.least_tiles = least_tiles  # type: ignore[attr-defined]
            backend = GpuBackend(backend.device, backend.screen, certify=certify)
            listed.append(backend.assign(x, backend.prepare(c, Frame(np.zeros(40), float(np.abs(c).max()))), labels))
            if certify:
                np.testing.assert_array_equal(labels, backend.cross_distances(x, c).argmin(axis=1))
            else:
                expected = labels if expected is None else expected
                assert (labels == expected).mean() > 0.9
            assert bool(backend.device.launched["sort.scatter"]) == (least_tiles == 2)
    assert listed[1] == listed[3] == 0 and 0 < listed[0] <= listed[2] + 3


def test_iterations_are_made_in_two_steps(as_cupy: GpuBackend) -> None:  # noqa: F811
    """Recorded ones, which take no memory of their own; the same bits as on the host."""
    rng = np.random.default_rng(8)
    c = rng.normal(size=(40, 20)).astype(np.float32)
    x = (c[rng.integers(0, 40, 300)] + 0.5 * rng.normal(size=(300, 20))).astype(np.float32)
    device = as_cupy.device
    as_cupy.__init__(device, Interpreted(device, mode("fp16", HOPPER), Tiles(64, 16, 32, 4, 1)))  # type: ignore[misc]
    found = kmeans(x, 40, init=x[:40].copy(), max_iter=8, backend="cupy", watched=True)
    assert found.digest() == kmeans(x, 40, init=x[:40].copy(), max_iter=8, backend="numpy").digest()
    # Labels sort rows by tile, and sums those by cluster.
    launched = device.launched  # type: ignore[attr-defined]
    assert launched["sort.line_up"] == launched["decide.begin"] + launched["sort.add_runs"] > 10


def test_a_label_does_not_depend_on_the_rows_beside_it() -> None:
    """Two centroids of two tiles whose scores differ by less than a place takes, of which the other one's is lower."""
    near = np.float32([[-1, 0], [-1, 2.0**-12]])
    others = np.repeat(np.linspace(0.1, 0.9, 63, dtype=np.float32)[:, None], 2, axis=1) * np.float32([1, 0])
    c, x = np.concatenate([others, near]), np.float32([[-1, 1e-3]])
    beside = np.concatenate([x, np.full((20, 2), 0.5, np.float32)])
    found = []
    for rows in (x, beside):
        exact = backend_of("fp16")
        backend, labels = GpuBackend(exact.device, exact.screen, certify=False), np.empty(len(rows), np.int32)
        backend.assign(rows, backend.prepare(c, Frame(np.zeros(2), 1.0)), labels)
        found.append(labels[0])
    assert found == [64, 64]


@pytest.mark.parametrize("ties", [3, 60])
def test_a_list_that_is_full(monkeypatch: pytest.MonkeyPatch, ties: int) -> None:
    """Each row is as near to several centroids; what finds no room is compared with all, whatever had found room."""
    monkeypatch.setattr("gpukm.backends.cascade._LEAST_PAIRS", 5)
    c = np.eye(60, dtype=np.float32)
    x = c.reshape(60 // ties, ties, 60).mean(axis=1)[np.arange(33) % (60 // ties)]
    backend, labels = backend_of("fp16"), np.empty(33, np.int32)
    backend.assign(x, backend.prepare(c, Frame(np.zeros(60), 2.0)), labels)
    np.testing.assert_array_equal(labels, backend.cross_distances(x, c).argmin(axis=1))
    # There is room for two pairs a row, of which the first block of 32 rows takes all in its third step.
    assert backend.rechecks().n_crowded == (31 if ties == 3 else 33)


def test_the_sweep_may_take_more_rows_than_what_follows() -> None:
    """Sixteen warps, which only minima leave registers for."""
    rng = np.random.default_rng(10)
    x, c = rng.normal(size=(150, 20)).astype(np.float32), rng.normal(size=(70, 20)).astype(np.float32)
    backend, labels = backend_of("fp16", Tiles(64, 32, 16, 16, 1)), np.empty(150, np.int32)
    backend.assign(x, backend.prepare(c, Frame(np.zeros(20), 5.0)), labels)
    np.testing.assert_array_equal(labels, backend.cross_distances(x, c).argmin(axis=1))


@pytest.mark.parametrize("k", [3, 15, 31, 33])
@pytest.mark.parametrize("far", [1.4e15, 1.53e15, 1.58e15])
def test_centroids_as_far_as_what_fills_tiles_up(k: int, far: float) -> None:
    """Half their squares all but leave float32."""
    rng = np.random.default_rng(k)
    x = rng.uniform(-1, 1, size=(40, 2)).astype(np.float32)
    angle = 2 * np.pi * rng.permutation(k) / k
    c = (far * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.float32)
    backend, labels = backend_of("fp16", Tiles(32, 16, 16, 4, 1)), np.empty(40, np.int32)
    prepared = backend.prepare(c, Frame(np.zeros(2), 1.0))
    backend.assign(x, prepared, labels)
    d = backend.cross_distances(x, c)
    np.testing.assert_array_equal(labels, d.argmin(axis=1))
    found, _, second = backend.assign_two(x, prepared)
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_array_equal(second, np.sort(d, axis=1)[:, 1])


def test_a_pool_whose_pairs_find_no_room_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are counted, so that there is room for them the second time."""
    monkeypatch.setattr("gpukm.backends.cascade._LEAST_PAIRS", 5)
    monkeypatch.setattr("gpukm.backends.gpu_pool._PAIRS", 1)
    rooms: list[tuple[int, int]] = []
    pair = GpuPool._pair
    monkeypatch.setattr(GpuPool, "_pair", lambda s, *a: rooms.append((found := pair(s, *a), a[-1].room)) or found)
    BackendConformance().test_pool(backend_of("fp16", Tiles(64, 32, 32, 4, 1)), "mixture", np.float32, False)
    short = [found for found, room in rooms if found > room]
    assert short and all(found in [f for f, room in rooms if f <= room] for found in short)


def test_labels_without_a_proof_go_by_the_number_of_tiles_alone() -> None:
    """So that blocks of a stream get the labels that the whole would get."""
    rng = np.random.default_rng(11)
    x, c = rng.normal(size=(33, 8)).astype(np.float32), rng.normal(size=(130, 8)).astype(np.float32)
    for certify in (True, False):
        exact = backend_of("fp16")
        exact.screen.least_rows = 34  # type: ignore[attr-defined]
        backend = GpuBackend(exact.device, exact.screen, certify=certify)
        backend.assign(x, backend.prepare(c, Frame(np.zeros(8), 5.0)), np.empty(33, np.int32))
        assert bool(backend.device.launched["sort.scatter"]) == (not certify)  # type: ignore[attr-defined]
