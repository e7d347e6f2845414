"""JSON with one spelling per value, and its SHA-256.

Canonical means: keys sorted by code point, no white space, UTF-8 without escapes, floats as the shortest decimal
that reads back to the same bits, no NaN and no infinity. Equal values have equal bytes, so bytes can be named by
their digest and a record can be checked by writing it again.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np

from gpukm.errors import ConfigError, SnapshotCorruptError


def canonical_json(value: Any) -> bytes:
    """Encode JSON types, tuples and NumPy scalars canonically.

    Parameters
    ----------
    value : object
        Dictionaries with string keys, lists, tuples, strings, integers, finite floats, booleans, None and NumPy
        scalars of these.

    Returns
    -------
    bytes

    Raises
    ------
    ConfigError
        Another type, a float that is not finite, or text that is not Unicode, with its place in ``value``.
    """
    text = json.dumps(_plain(value, "$"), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"text with the lone surrogate {text[error.start]!r} cannot be stored; fix it first"
        ) from None


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Decode one JSON object strictly; ``what`` names it in the SnapshotCorruptError that any defect raises."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors, and so are endless integers
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SnapshotCorruptError(f"{what} is damaged: not valid JSON ({reason}); restore it from a copy") from None
    if not isinstance(value, dict):
        raise SnapshotCorruptError(f"{what} is damaged: expected a JSON object, got {type(value).__name__}")
    return value


def field(value: dict[str, Any], name: str, kind: type | tuple[type, ...], what: str) -> Any:
    """``value[name]`` if it is of type ``kind``; else a SnapshotCorruptError that names ``what``."""
    if not isinstance(value.get(name), kind) or (isinstance(value[name], bool) and kind is int):
        got = type(value[name]).__name__ if name in value else "nothing"
        raise SnapshotCorruptError(f"{what} is damaged: {name!r} is {got}, expected {kind}; restore it from a copy")
    return value[name]


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def _plain(value: Any, place: str) -> Any:
    """``value`` in plain JSON types; ``place`` names it in errors."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{place} is {value}, which cannot be stored as JSON; expected a finite number")
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{place}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{place} has the key {key!r}; expected strings as keys")
        return {key: _plain(item, f"{place}.{key}") for key, item in value.items()}
    raise ConfigError(f"{place} is a {type(value).__name__}; expected JSON types (text, number, list, dict, None)")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object and refuse a key given twice, which readers resolve differently."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _refuse_constant(name: str) -> Any:
    """NaN and infinities are not JSON."""
    raise ValueError(f"{name} is not a JSON number")
