"""The GPU engine on the emulated device, in place of what a name selects."""

from __future__ import annotations

from importlib import import_module

import pytest
from gpukm_kernels.screening import PLAIN

from gpukm.backends.gpu import GpuBackend
from gpukm.backends.plain_screen import PlainScreen
from tests.emulator import Emulated


def emulated(seed: int = 3) -> GpuBackend:
    """The backend, with the screen that any device can run."""
    device = Emulated(seed=seed)
    return GpuBackend(device, PlainScreen(device, PLAIN))


@pytest.fixture
def as_cupy(monkeypatch: pytest.MonkeyPatch) -> GpuBackend:
    """``backend="cupy"`` takes it; with another precision than exact, a backend of the same device and screen."""
    backend = emulated()
    module = import_module("gpukm.backends.select")
    probe, make = module.probe, module._make

    def made(name: str, *rest: object) -> object:
        if name != "cupy":
            return make(name, *rest)
        return backend if rest[-1] == "exact" else GpuBackend(backend.device, backend.screen, certify=False)

    # At the end, so that nothing takes it by itself.
    monkeypatch.setattr(module, "probe", lambda: [*(p for p in probe() if p[0] != "cupy"), ("cupy", True, "emulated")])
    monkeypatch.setattr(module, "_make", made)
    return backend


@pytest.fixture
def shared(as_cupy: GpuBackend, monkeypatch: pytest.MonkeyPatch) -> Emulated:
    """The device, whose arrays are known for what they are."""
    device = as_cupy.device
    as_cupy.name = "cupy"
    for module in ("gpukm.functional", "gpukm.backends.select", "gpukm.estimators.base", "gpukm.batched"):
        found_on = lambda a: ("cupy", "auto") if device.owns(a) else None  # noqa: E731
        monkeypatch.setattr(import_module(module), "gpu_array", found_on)
    assert isinstance(device, Emulated)
    return device
