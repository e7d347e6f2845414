"""The GPU engine on the emulated device, in place of what a name selects."""

from __future__ import annotations

from importlib import import_module

import pytest
from gpukm_kernels.screening import PLAIN

from gpukm.backends.gpu import GpuBackend
from gpukm.backends.plain_screen import PlainScreen
from gpukm.backends.select import Selection
from tests.emulator import Emulated

#: Where ``select`` is called by its name.
_CALLERS = ("gpukm.functional", "gpukm.batched", "gpukm.minibatch", "gpukm.estimators.base", "gpukm.pipeline.training")


def emulated(seed: int = 3) -> GpuBackend:
    """The backend, with the screen that any device can run."""
    device = Emulated(seed=seed)
    return GpuBackend(device, PlainScreen(device, PLAIN))


@pytest.fixture
def as_cupy(monkeypatch: pytest.MonkeyPatch) -> GpuBackend:
    """``backend="cupy"`` takes it."""
    backend = emulated()
    real = import_module("gpukm.backends.select").select

    def select(name: str = "auto", device: str = "auto", threads: int | None = None) -> Selection:
        """As the real one, but for one name."""
        return Selection(backend, ()) if name == "cupy" else real(name, device, threads)

    for caller in _CALLERS:
        monkeypatch.setattr(f"{caller}.select", select)
    return backend
