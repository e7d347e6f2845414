"""Arguments of a launch, checked against the kernel's parameters and made into the values that the driver copies."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

from gpukm_kernels.cuda import VALUES, WIDE, Parameter

#: What arrays a pointer may be given, by NumPy's letters; other types take any. A kernel knows numbers of 16 bits by
#: their bits, and bytes are memory for anything.
_HELD = {
    "bool": "b1 i1",
    "char": "i1",
    "unsigned char": "b1 i1",
    "short": "i2 u2 f2",
    "unsigned short": "i2 u2 f2 bf2",
    "int": "i4 u4",
    "unsigned": "i4 u4",
    "unsigned int": "i4 u4",
    "long long": "i8 u8",
    "unsigned long long": "i8 u8",
    "float": "f4",
    "double": "f8",
    "gpukm_half": "f2",
    "gpukm_brain": "bf2",
}


def pack(
    kernel: str,
    signature: Sequence[Parameter],
    args: Sequence[Any],
    row: str,
    memory_of: Callable[[Any], tuple[int, str]],
) -> list[Any]:
    """Values of a launch, in the order of the parameters.

    Parameters
    ----------
    kernel : str
        Its name, for messages.
    signature : sequence of Parameter
    args : sequence
        Arrays, None for a null pointer, or numbers.
    row : str
        What ``row_t`` is, one of the values of :data:`gpukm_kernels.cuda.ROWS`.
    memory_of : callable
        Address of an array's first element and its type by NumPy's letters, ``f4``; ``bf2`` for bfloat16.

    Returns
    -------
    list of ctypes values
        What each parameter is; they must live until the kernel is launched.

    Raises
    ------
    TypeError
        For another number of arguments, or one of another kind or type.
    OverflowError
        For a number that the parameter's type does not hold.
    """
    if len(args) != len(signature):
        names = ", ".join(parameter.name for parameter in signature)
        raise TypeError(f"{kernel} was given {len(args)} arguments, expected {len(signature)}: {names}")
    values, own = [], {"row_t": row, "wide_t": WIDE.get(row, row)}
    for parameter, arg in zip(signature, args, strict=True):
        where = f"{kernel}: {parameter.name}"
        if parameter.pointer:
            values.append(_pointer(where, own.get(parameter.type, parameter.type), arg, memory_of))
        else:
            values.append(_number(where, parameter.type, arg))
    return values


def _pointer(where: str, points_to: str, array: Any, memory_of: Callable[[Any], tuple[int, str]]) -> ctypes.c_void_p:
    """Address of an array whose elements are what the kernel takes them for."""
    if array is None:
        return ctypes.c_void_p(None)
    if isinstance(array, Real):
        raise TypeError(f"{where} is a pointer to {points_to}, got the number {array!r}")
    address, letters = memory_of(array)
    held = _HELD.get(points_to)
    if held is not None and letters not in (*held.split(), "u1"):
        raise TypeError(
            f"{where} points to {points_to}, got an array of {letters}, expected {held.replace(' ', ' or ')}"
        )
    return ctypes.c_void_p(address)


def _number(where: str, kind: str, value: Any) -> Any:
    """A number as the parameter's type; integers must fit, which ctypes itself does not check."""
    make = getattr(ctypes, VALUES[kind])
    if kind in ("float", "double"):
        if not isinstance(value, Real):
            raise TypeError(f"{where} is a {kind}, got {type(value).__name__}")
        return make(float(value))
    if not isinstance(value, Integral):
        raise TypeError(f"{where} is of type {kind}, got {type(value).__name__}")
    made = make(int(value))
    if made.value != int(value):
        raise OverflowError(f"{where} is {value}, which does not fit {kind}")
    return made
