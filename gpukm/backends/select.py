"""Choosing a backend: ``auto`` takes the best usable one and keeps the reasons, a name never falls back."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from gpukm.backends.base import Backend
from gpukm.errors import BackendUnavailableError, ConfigError

# In order of preference.
BACKENDS = ("torch", "cupy", "cpu", "numpy")
_NO_GPU = "GPU backends are not part of this version of gpukm; use cpu"
_said = False


@dataclass(frozen=True)
class Selection:
    """A backend, and the better ones that were passed over with the reason for each."""

    backend: Backend
    rejected: tuple[tuple[str, str], ...]


def probe() -> list[tuple[str, bool, str]]:
    """(name, usable, reason or description) of every backend, best first."""
    from gpukm_kernels import native_status

    usable, reason = native_status()
    missing = [(name, False, _NO_GPU) for name in ("torch", "cupy")]
    return [*missing, ("cpu", usable, reason), ("numpy", True, "always there; the readable reference")]


def select(backend: str = "auto", device: str = "auto", threads: int | None = None) -> Selection:
    """Choose a backend.

    Parameters
    ----------
    backend : {"auto", "torch", "cupy", "cpu", "numpy"}
    device : {"auto", "cpu"}
    threads : int or None
        Threads of the native kernels; None follows OpenMP's own settings.

    Raises
    ------
    ConfigError
        For a name that is not in the list.
    BackendUnavailableError
        For a named backend or device that cannot be used here.
    """
    if backend not in ("auto", *BACKENDS):
        raise ConfigError(f"backend is {backend!r}, expected one of auto, {', '.join(BACKENDS)}")
    if device not in ("auto", "cpu") and not device.startswith("cuda"):
        raise ConfigError(f"device is {device!r}, expected auto, cpu, cuda or cuda:N")
    if device.startswith("cuda"):
        raise BackendUnavailableError(
            f"device {device} was asked for, but no backend here runs on a GPU; use --device cpu"
        )
    rejected: list[tuple[str, str]] = []
    for name, usable, reason in probe():
        if backend not in ("auto", name):
            continue
        if usable:
            lost = [(n, why) for n, why in rejected if why != _NO_GPU]
            if lost:
                _say_once(lost)
            return Selection(_make(name, threads), tuple(rejected))
        rejected.append((name, reason))
    raise BackendUnavailableError(f"backend {backend} cannot be used: {rejected[0][1]}")


def _make(name: str, threads: int | None) -> Backend:
    """Import late: a backend's libraries load only when it is used."""
    if name == "cpu":
        from gpukm.backends.cpu import CpuBackend

        return CpuBackend(threads)
    from gpukm.backends.numpy import NumpyBackend

    return NumpyBackend()


def _say_once(rejected: list[tuple[str, str]]) -> None:
    """Tell on stderr, once in a process, that something slower runs and why."""
    global _said
    if not _said:
        _said = True
        reasons = "; ".join(f"{name}: {reason}" for name, reason in rejected)
        print(f"gpukm: running on a slower backend ({reasons})", file=sys.stderr)
