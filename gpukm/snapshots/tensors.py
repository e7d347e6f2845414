"""Named arrays to one safetensors blob and back.

Written here rather than by the safetensors library, because the bytes name the snapshot and so must not change with
a library's version; read by the library, which checks a header it cannot trust.
Format: https://huggingface.co/docs/safetensors/index#format.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from gpukm.errors import DataError, SnapshotCorruptError

_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}


def encode(tensors: Mapping[str, np.ndarray], non_finite: Collection[str] = ()) -> list[bytes | memoryview]:
    """Lay arrays out as a safetensors file, the same bytes on every machine.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        Any order, byte order and strides; stored little-endian in C order, wide types first, then by name.
    non_finite : collection of str
        Names of arrays that may hold NaN (stored with one bit pattern) and infinities.

    Returns
    -------
    list of buffers
        The file is their concatenation; array data is not copied where its layout allows.

    Raises
    ------
    DataError
        An array of another type, or one that is not finite and not named in ``non_finite``.
    """
    arrays = {name: _canonical(name, array, name in non_finite) for name, array in tensors.items()}
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, Any] = {}
    offset = 0
    for name in order:
        array = arrays[name]
        header[name] = {**describe(array), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)  # data starts at a multiple of eight
    data = [arrays[name].reshape(-1).view(np.uint8).data for name in order if arrays[name].size]
    return [len(text).to_bytes(8, "little") + text, *data]


def describe(array: np.ndarray) -> dict[str, Any]:
    """The safetensors type code and the shape of an array, as JSON."""
    return {"dtype": _CODES[array.dtype.name], "shape": list(array.shape)}


def decode(
    data: bytes, expected: Mapping[str, Mapping[str, Any]], non_finite: Collection[str], what: str
) -> dict[str, np.ndarray]:
    """Read a blob whose arrays must be exactly those ``expected`` (name to type code and shape), read-only.

    Raises
    ------
    SnapshotCorruptError
        The blob is no safetensors file, holds other arrays, or values that are not finite where they must be.
    """
    import safetensors
    from safetensors.numpy import load

    try:
        tensors: dict[str, np.ndarray] = load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise SnapshotCorruptError(f"{what} is damaged: not a safetensors file ({error}); restore it") from None
    found = {name: describe(array) for name, array in tensors.items()}
    if found != {name: dict(entry) for name, entry in expected.items()}:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise SnapshotCorruptError(f"{what} does not hold the tensors its manifest lists; they differ in {wrong[:5]}")
    for name, array in tensors.items():
        if name not in non_finite and not _finite(array):
            raise SnapshotCorruptError(f"{what}: tensor {name!r} holds NaN or infinity, expected finite numbers")
        array.flags.writeable = False
    return tensors


def _canonical(name: str, array: np.ndarray, may_be_non_finite: bool) -> np.ndarray:
    """The array little-endian and C-contiguous, checked."""
    array = np.asarray(array)
    if array.dtype.name not in _CODES:
        raise DataError(f"tensor {name!r} is of type {array.dtype}; expected one of {', '.join(_CODES)}")
    if not _finite(array):
        if not may_be_non_finite:
            bad = int(array.size - np.count_nonzero(np.isfinite(array)))
            raise DataError(f"tensor {name!r} holds {bad} values that are NaN or infinite; expected finite numbers")
        array = np.where(np.isnan(array), array.dtype.type(np.nan), array)  # machines differ in the bits of a new NaN
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _finite(array: np.ndarray) -> bool:
    """Whether no value is NaN or infinite; integers never are."""
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
