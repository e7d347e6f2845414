"""Choosing a backend: ``auto`` takes the best usable one and keeps the reasons, a name never falls back."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from gpukm.backends.base import Backend
from gpukm.errors import BackendUnavailableError, ConfigError

# In order of preference.
BACKENDS = ("torch", "cupy", "cpu", "numpy")
_GPU = ("torch", "cupy")
_said = False


@dataclass(frozen=True)
class Selection:
    """A backend, and the better ones that were passed over with the reason for each."""

    backend: Backend
    rejected: tuple[tuple[str, str], ...]


def probe() -> list[tuple[str, bool, str]]:
    """(name, usable, reason or description) of every backend, best first."""
    from gpukm_kernels import native_status

    from gpukm.backends.devices import cupy, torch

    return [
        ("torch", *torch.probe()),
        ("cupy", *cupy.probe()),
        ("cpu", *native_status()),
        ("numpy", True, "always there; the readable reference"),
    ]


def select(backend: str = "auto", device: str = "auto", threads: int | None = None) -> Selection:
    """Choose a backend.

    Parameters
    ----------
    backend : {"auto", "torch", "cupy", "cpu", "numpy"}
    device : {"auto", "cpu", "cuda", "cuda:N"}
        ``auto`` takes a GPU where one can be used, the library's current one; ``cuda`` insists on that.
    threads : int or None
        Threads of the native kernels; None follows OpenMP's own settings.

    Raises
    ------
    ConfigError
        For a name that is not in the list, or names that contradict each other.
    BackendUnavailableError
        For a named backend or device that cannot be used here.
    """
    if backend not in ("auto", *BACKENDS):
        raise ConfigError(f"backend is {backend!r}, expected one of auto, {', '.join(BACKENDS)}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device is {device!r}, expected auto, cpu, cuda or cuda:N")
    on_gpu = device.startswith("cuda")
    if backend != "auto" and device != "auto" and on_gpu != (backend in _GPU):
        raise ConfigError(f"backend {backend} does not run on device {device}; leave one of them out")
    candidates = [name for name in BACKENDS if device == "auto" or on_gpu == (name in _GPU)]
    rejected: list[tuple[str, str]] = []
    for name, usable, reason in probe():
        if name not in candidates or backend not in ("auto", name):
            continue
        if usable:
            _say_once(rejected)
            return Selection(_make(name, device, threads), tuple(rejected))
        rejected.append((name, reason))
    asked = f"backend {backend}" if backend != "auto" else f"device {device}"
    reasons = "; ".join(dict.fromkeys(reason for _, reason in rejected))
    raise BackendUnavailableError(f"{asked} cannot be used: {reasons}")


def _make(name: str, device: str, threads: int | None) -> Backend:
    """Import late: a backend's libraries load only when it is used."""
    if name in _GPU:
        from gpukm.backends.gpu import gpu_backend

        return gpu_backend(name, int(device[5:]) if ":" in device else None)
    if name == "cpu":
        from gpukm.backends.cpu import CpuBackend

        return CpuBackend(threads)
    from gpukm.backends.numpy import NumpyBackend

    return NumpyBackend()


def _say_once(rejected: list[tuple[str, str]]) -> None:
    """Tell on stderr, once in a process, that something slower runs than this machine has parts for, and why."""
    from gpukm_kernels import cuda_devices

    global _said
    # That there is no GPU is nothing to speak of.
    there = [(name, reason) for name, reason in rejected if name not in _GPU or cuda_devices()]
    if there and not _said:
        _said = True
        reasons = "; ".join(f"{name}: {reason}" for name, reason in there)
        print(f"gpukm: running on a slower backend ({reasons})", file=sys.stderr)
