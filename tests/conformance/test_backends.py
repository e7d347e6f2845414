import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gpukm_kernels import native_status

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
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
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
