import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gpukm_kernels import native_status

from gpukm.backends.base import Frame
from gpukm.backends.numpy import NumpyBackend

HERE = Path(__file__).parent


def load_conformance():
    """The class beside this file; tests are not a package."""
    spec = importlib.util.spec_from_file_location("backend_conformance", HERE / "backend.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BackendConformance = load_conformance().BackendConformance


class TestNumpy(BackendConformance):
    @pytest.fixture
    def backend(self):
        return NumpyBackend()


@pytest.mark.native
@pytest.mark.skipif(not native_status()[0], reason=native_status()[1])
class TestCpu(BackendConformance):
    @pytest.fixture(params=[1, 2])
    def backend(self, request):
        from gpukm.backends.cpu import CpuBackend

        return CpuBackend(threads=request.param)

    def tracker(self, backend, x, c):
        return backend.follow(x, c, max(2, len(c) // 4))


@pytest.mark.native
@pytest.mark.skipif(not native_status()[0], reason=native_status()[1])
@pytest.mark.parametrize("isa", ["portable", "avx2", "vnni", "avx512"])
def test_every_instruction_set_of_this_processor(isa):
    """The instruction set is chosen once a process, so the others run in processes of their own."""
    env = dict(os.environ, GPUKM_ISA=isa)
    probe = [sys.executable, "-c", "from gpukm_kernels import native_status as s; print(s()[0])"]
    if subprocess.run(probe, env=env, capture_output=True, text=True, check=True).stdout.strip() != "True":
        pytest.skip(f"this processor does not run {isa}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull]
    command += ["--import-mode=importlib", f"{__file__}::TestCpu"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.native
@pytest.mark.skipif(not native_status()[0], reason=native_status()[1])
def test_a_group_of_two_tiles_is_judged_by_both():
    """A far centroid has a tile, and a wider bound, of its own; its group's best centroid must not speak for it."""
    from gpukm.backends.cpu import CpuBackend

    d, u = 512, 2.0**-24
    x = np.full((40, d), 2.0**-12, np.float32)
    x[:, 0] = 1
    own, near, far = np.zeros((3, d), np.float32)
    own[0] = 1 / 16
    near[0] = 1 - np.sqrt((15 / 16) ** 2 + 600 * u)
    # Every product is a little below half a unit in the last place of the sum, and lost: this one seems farther.
    far[:] = 2.0**-12 * (1 - 2.0**-10)
    far[0] = 1 + np.sqrt((15 / 16) ** 2 + 311 * u)
    # Others, out of reach: with so many centroids bounds are left in the first call.
    others = np.zeros((60, d), np.float32)
    others[:, 0] = -1 - np.arange(60) / 64
    c = np.concatenate([[own, near, far], others])
    backend = CpuBackend(1)
    assert backend.cross_distances(x[:1], c).argmin() == 2
    tracker = backend._cpu.TrackerF32(len(x), d, 2, np.array([0, 1, 1] + [0] * 60, np.int32), 2, 2)
    labels = np.zeros(len(x), np.int32)
    backend.track(tracker, x, c, Frame(np.zeros(d), 1.0), labels)
    assert backend.effort(tracker).plans == {"fill"}
    assert labels.tolist() == [2] * len(x)


@pytest.mark.native
@pytest.mark.skipif(not native_status()[0], reason=native_status()[1])
def test_squares_that_overflow_bound_nothing():
    """Rows farther out than the frame tells, as those of weight zero: their squares are infinite in float32."""
    from gpukm.backends.cpu import CpuBackend

    rng = np.random.default_rng(0)
    n, d, k = 4000, 16, 250
    centers = rng.normal(size=(k, d)) * 3e13
    x = (centers[rng.integers(0, k, n)] + rng.normal(size=(n, d)) * 1e13).astype(np.float32)
    x[:200] = rng.normal(size=(200, d)) * 1e20
    backend = CpuBackend(2)
    frame = Frame(np.zeros(d), float(np.abs(x[200:]).max()))
    tracker, labels, plans = backend.follow(x, x[200 : 200 + k], 8), np.zeros(n, np.int32), set()
    c = x[200 : 200 + k].astype(np.float64)
    for step in range(12):
        c32 = c.astype(np.float32)
        backend.track(tracker, x, c32, frame, labels)
        plans |= backend.effort(tracker).plans
        np.testing.assert_array_equal(labels, backend.cross_distances(x, c32).argmin(axis=1))
        jump = np.where(np.arange(k) == step, 1e14 if step % 2 else 3e19, 1e9)
        c += rng.normal(size=c.shape) * jump[:, None]
    assert "follow" in plans


@pytest.mark.native
@pytest.mark.skipif(not native_status()[0], reason=native_status()[1])
@pytest.mark.parametrize("n", [240, 257, 300])
def test_one_group_of_all_centroids(n):
    from gpukm.backends.cpu import CpuBackend

    x = np.random.default_rng(1).normal(size=(n, 32)).astype(np.float32)
    backend, c = CpuBackend(1), x[:60].copy()
    tracker, labels = backend.follow(x, c, 1), np.zeros(n, np.int32)
    for _ in range(3):
        backend.track(tracker, x, c, frame_of(x), labels)
        np.testing.assert_array_equal(labels, backend.cross_distances(x, c).argmin(axis=1))
        c = c + np.float32(1e-3)


def frame_of(x):
    return Frame(np.zeros(x.shape[1]), float(np.abs(x).max()))
