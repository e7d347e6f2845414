"""Choosing a backend: ``auto`` takes the best usable one and keeps the reasons, a name never falls back."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpukm_kernels.screening import mode

from gpukm.backends.base import Backend
from gpukm.backends.notices import say_once
from gpukm.errors import BackendUnavailableError, ConfigError

if TYPE_CHECKING:
    from gpukm.backends.tuning import Tuned

# In order of preference.
BACKENDS = ("torch", "cupy", "cpu", "numpy")
_GPU = ("torch", "cupy")
#: Exact labels, or those of a screen: the fastest, or in products of one kind.
PRECISIONS = ("exact", "fast", "tf32", "ieee")


@dataclass(frozen=True)
class Selection:
    """A backend, and the better ones that were passed over with the reason for each."""

    backend: Backend
    rejected: tuple[tuple[str, str], ...]

    def open(self) -> Backend:
        """The backend: it is open already."""
        return self.backend


@dataclass(frozen=True)
class Choice:
    """What :func:`select` is asked for, to be chosen where the work is done."""

    backend: str = "auto"
    device: str = "auto"
    threads: int | None = None
    device_memory: int | None = None
    precision: str = "exact"

    def open(self) -> Backend:
        """The backend of this process, made once."""
        return _opened(self, _process_threads)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_process_threads: int | None = None


def usable_threads() -> int:
    """Threads that this process should take where nothing else is said: those it was told, or its cores."""
    return _process_threads or usable_cores()


def use_threads(threads: int | None) -> None:
    """Set how many threads backends of this process take where nothing else is said; None leaves it to OpenMP."""
    global _process_threads
    _process_threads = threads


@lru_cache
def _opened(choice: Choice, process_threads: int | None) -> Backend:
    """One backend for each choice, and for each number of threads that a process may be told to use."""
    return select(choice.backend, choice.device, choice.threads, choice.device_memory, choice.precision).backend


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


def gpus() -> list[str]:
    """NVIDIA devices that this process may see, in the order of their numbers: name, architecture and memory."""
    from gpukm_kernels import cuda_devices

    return [str(device) for device in cuda_devices()]


def kernels() -> dict[str, tuple[bool, str]]:
    """Whether the kernels of ``cpu`` and ``gpu`` can be used, each with a reason; no GPU library is loaded for that."""
    from gpukm_kernels import cuda_status, native_status

    return {"cpu": native_status(), "gpu": cuda_status()}


def kernel_cache() -> Path | None:
    """Folder where compiled CUDA kernels are kept; None where others could put theirs there."""
    from gpukm_kernels.cuda import driver

    return driver.cache_folder()


def tune_screen(device: str, features: Sequence[int]) -> tuple[list[Tuned], str | None]:
    """Find and keep the fastest tiles of torch's screen for rows of so many features; and the file they are kept in.

    Raises
    ------
    BackendUnavailableError
        There is no such device, or its screen has no tiles to choose.
    """
    chosen = select("torch", device).backend
    from gpukm_kernels.triton.tiles import keep, key

    from gpukm.backends.triton_screen import TritonScreen
    from gpukm.backends.tuning import tune

    gpu = chosen.device  # type: ignore[attr-defined]
    fast = mode("fp16", gpu.capability)
    if fast.stored != "float16":
        raise BackendUnavailableError(f"{gpu.name} has compute capability {gpu.capability}; nothing is tuned for that")
    found = list(tune(gpu, lambda t: TritonScreen(gpu, fast, t), features))
    path = keep({key(gpu.model, fast.stored, t.features): t.tiles for t in found})
    return found, None if path is None else str(path)


def select(
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    device_memory: int | None = None,
    precision: str = "exact",
) -> Selection:
    """Choose a backend.

    Parameters
    ----------
    backend : {"auto", "torch", "cupy", "cpu", "numpy"}
    device : {"auto", "cpu", "cuda", "cuda:N"}
        ``auto`` takes a GPU where one can be used, the library's current one; ``cuda`` insists on that.
    threads : int or None
        Threads of the native kernels; None follows OpenMP's own settings.
    device_memory : int or None
        Bytes to take on a GPU; None takes nearly all that is free.
    precision : {"exact", "fast", "tf32", "ieee"}
        All but ``exact`` leave out what certifies labels, on a GPU; there is nothing to be left out on the CPU.

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
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    on_gpu = device.startswith("cuda")
    if backend != "auto" and device != "auto" and on_gpu != (backend in _GPU):
        raise ConfigError(f"backend {backend} does not run on device {device}; leave one of them out")
    candidates = [name for name in BACKENDS if device == "auto" or on_gpu == (name in _GPU)]
    rejected: list[tuple[str, str]] = []
    for name, usable, reason in probe():
        if name not in candidates or backend not in ("auto", name):
            continue
        if usable:
            if precision != "exact" and name not in _GPU:
                raise ConfigError(f"precision {precision!r} is for GPUs, and backend {name} was chosen; leave it out")
            _say_once(rejected)
            return Selection(_make(name, device, threads, device_memory, precision), tuple(rejected))
        rejected.append((name, reason))
    asked = f"backend {backend}" if backend != "auto" else f"device {device}"
    reasons = "; ".join(dict.fromkeys(reason for _, reason in rejected))
    raise BackendUnavailableError(f"{asked} cannot be used: {reasons}")


def select_for(
    source: Any,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    device_memory: int | None = None,
    precision: str = "exact",
) -> Selection:
    """Choose as :func:`select` does; for an array on a GPU its library and its device, where that is left open.

    Raises
    ------
    ConfigError
        Also where the array lies elsewhere than named.
    """
    found = gpu_array(source)
    if found is not None:
        library, place = found
        backend = library if backend == "auto" else backend
        device = place if device in ("auto", "cuda") else device
        if backend not in _GPU or device != place:
            raise ConfigError(
                f"the data is on {place}, and was to be clustered by backend {backend} on {device}; "
                "move it there, or leave these two out"
            )
    return select(backend, device, threads, device_memory, precision)


def gpu_array(source: Any) -> tuple[str, str] | None:
    """The library that should take an array on a GPU, and its device; None for everything else."""
    if type(source).__module__.partition(".")[0] == "torch":
        return ("torch", str(source.device)) if getattr(source, "is_cuda", False) else None
    if hasattr(source, "__cuda_array_interface__"):
        from gpukm_kernels.cuda.driver import location

        return "cupy", location(source)
    return None


def _make(name: str, device: str, threads: int | None, device_memory: int | None, precision: str) -> Backend:
    """Import late: a backend's libraries load only when it is used."""
    if name in _GPU:
        from gpukm.backends.gpu import gpu_backend

        index = int(device[5:]) if ":" in device else None
        return gpu_backend(name, index, device_memory, precision)
    if name == "cpu":
        from gpukm.backends.cpu import CpuBackend

        return CpuBackend(_process_threads if threads is None else threads)
    from gpukm.backends.numpy import NumpyBackend

    return NumpyBackend()


def _say_once(rejected: list[tuple[str, str]]) -> None:
    """Tell on stderr, once in a process, that something slower runs than this machine has parts for, and why."""
    from gpukm_kernels import cuda_devices

    # That there is no GPU is nothing to speak of.
    there = [f"{name}: {reason}" for name, reason in rejected if name not in _GPU or cuda_devices()]
    if there:
        say_once("backend", f"running on a slower backend ({'; '.join(there)})")
