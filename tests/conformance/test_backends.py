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
    c = np.stack([own, near, far])
    backend = CpuBackend(1)
    assert backend.cross_distances(x[:1], c).argmin() == 2
    tracker = backend._cpu.TrackerF32(len(x), d, 2, np.array([0, 1, 1], np.int32))
    labels = np.zeros(len(x), np.int32)
    backend.track(tracker, x, c, Frame(np.zeros(d), 1.0), labels)
    assert labels.tolist() == [2] * len(x)
