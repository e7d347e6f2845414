"""The GPU engine where there is no GPU: its CUDA kernels run on the host by tests/emulator.py."""

import pytest
from gpukm_kernels.screening import mode

from gpukm.backends.gpu import GpuBackend, Tracked
from gpukm.backends.plain_screen import PlainScreen
from tests.conformance.backend import BackendConformance
from tests.emulator import Emulated


class TestPlain(BackendConformance):
    @pytest.fixture
    def backend(self):
        device = Emulated(seed=2)
        return GpuBackend(device, PlainScreen(device, mode("ieee", device.capability)))

    def tracker(self, backend, x, c):
        return Tracked()
