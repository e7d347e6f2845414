"""Availability of the kernels; the only package that knows hardware, and it imports nothing heavy."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpukm_kernels.cuda.driver import CudaDevice

__all__ = ["cuda_devices", "cuda_status", "native", "native_status"]


def native() -> ModuleType:
    """Return the native CPU module.

    Raises
    ------
    ImportError
        When it was not built; :func:`native_status` tells why.
    """
    from gpukm_kernels import _cpu

    return _cpu


def native_status() -> tuple[bool, str]:
    """Whether the native kernels can be used, and a line that says what they are or what is missing."""
    try:
        module = native()
        return True, f"native kernels, {module.isa()}, {module.max_threads()} threads"
    except ImportError as error:
        return False, (
            f"the native kernels are not built ({error}); install a C++ compiler and run "
            "'GPUKM_REQUIRE_NATIVE=1 pip install --force-reinstall gpukm'"
        )
    except RuntimeError as error:
        return False, str(error)


def cuda_devices() -> list[CudaDevice]:
    """Devices that the NVIDIA driver shows to this process, in the order of their numbers; none without a driver.

    No library is loaded but the driver's own, which heeds CUDA_VISIBLE_DEVICES; a process that is forked later cannot
    use it.
    """
    from gpukm_kernels.cuda import driver

    try:
        return driver.devices()
    except (ImportError, RuntimeError, MemoryError):
        return []


def cuda_status() -> tuple[bool, str]:
    """Whether there is a device that the CUDA kernels run on, and a line that lists those or says what is missing."""
    from gpukm_kernels.cuda import driver

    try:
        found = driver.devices()
    except (ImportError, RuntimeError, MemoryError) as error:
        return False, str(error)
    if not found:
        return False, f"no CUDA device is visible (CUDA_VISIBLE_DEVICES={driver.visible()})"
    usable = [device for device in found if device.capability >= driver.MINIMUM_CAPABILITY]
    if not usable:
        return False, "; ".join(driver.too_old(device) for device in found)
    return True, "; ".join(str(device) for device in usable)
