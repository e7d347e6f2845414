"""Availability of the kernels; the only package that knows hardware, and it imports nothing heavy."""

from __future__ import annotations

from types import ModuleType

__all__ = ["native", "native_status"]


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
