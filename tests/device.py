"""Real devices for tests marked gpu, which are skipped where there is none."""

from __future__ import annotations

import pytest

from gpukm.backends.gpu import GpuBackend, gpu_backend
from gpukm.backends.select import probe

#: Parameters of a fixture: every library, on a device.
LIBRARIES = [pytest.param(name, marks=pytest.mark.gpu) for name in ("torch", "cupy")]


def needs(library: str) -> None:
    """Skip, and say why, where a library finds no device."""
    usable, reason = next((usable, reason) for name, usable, reason in probe() if name == library)
    if not usable:
        pytest.skip(f"not run: {reason}")


def on_device(library: str) -> GpuBackend:
    """The backend that users get."""
    needs(library)
    return gpu_backend(library, None)
