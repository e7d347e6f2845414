"""Which screen a device gets for a precision."""

from __future__ import annotations

from importlib.util import find_spec

from gpukm_kernels.screening import PLAIN, mode

from gpukm.backends.cascade import Screen
from gpukm.backends.device import Device
from gpukm.backends.matrix_screen import MatrixScreen
from gpukm.backends.plain_screen import PlainScreen
from gpukm.errors import BackendUnavailableError


def screen_of(device: Device, precision: str) -> Screen:
    """The fastest screen there is on a device, or the one that is asked for.

    Parameters
    ----------
    device : Device
    precision : {"exact", "fast", "tf32", "ieee"}

    Raises
    ------
    BackendUnavailableError
        There is no such screen.
    """
    wanted = precision if precision in ("tf32", "ieee") else "fp16"
    found = mode(wanted, device.capability)
    by_matrix = mode("fp16", device.capability) != PLAIN
    if by_matrix and device.library == "torch" and find_spec("triton") is not None:
        from gpukm.backends.triton_screen import TritonScreen

        return TritonScreen(device, found)
    if wanted == "tf32":
        has = (
            f"backend {device.library} on {device.name}, of compute capability {device.capability}, has no such kernel"
        )
        raise BackendUnavailableError(
            f"precision 'tf32' needs PyTorch, Triton and matrix units that are known, and {has}; use 'fast' or 'ieee'"
        )
    # By the matrix units where their errors are known.
    return MatrixScreen(device, found) if found.stored == "float16" else PlainScreen(device, PLAIN)
