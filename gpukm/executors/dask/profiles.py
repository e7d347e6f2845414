"""Profiles: TOML files that describe a cluster, checked strictly. Messages name keys and never show values."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from gpukm.errors import ConfigError

P = TypeVar("P")
_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table", list: "a list"}


@dataclass(frozen=True)
class Adapt:
    """How many jobs or workers to have, by the work there is.

    Attributes
    ----------
    minimum, maximum : int
    """

    maximum: int
    minimum: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum or self.maximum < 1:
            raise ConfigError("expected 0 <= minimum <= maximum, and a maximum of at least 1")


def read_profile(path: str, kind: type[P]) -> P:
    """Read a TOML file as the dataclass ``kind``, whose fields are the keys.

    Raises
    ------
    ConfigError
        It cannot be read, a key is unknown (with the nearest one) or missing, or a value has another type.
    """
    try:
        values = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}; correct it") from None
    found = _build(kind, values, path, "")
    assert isinstance(found, kind)
    return found


def read_text(path: str) -> str:
    """A profile's text."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no profile {path}; check the path, or write one (see the README)") from None
    except OSError as error:
        raise ConfigError(f"cannot read the profile {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the profile {path} is not text in UTF-8") from None


def at_least(least: int, **values: float | None) -> None:
    """Raise ConfigError for the first value below ``least``."""
    for name, value in values.items():
        if value is not None and not value >= least:
            raise ConfigError(f"{name} is {value}, expected at least {least}")


def _build(kind: type, table: Mapping[str, Any], path: str, inside: str) -> Any:
    """A dataclass from a table."""
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key.lower().replace("-", "_"), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
            raise ConfigError(f"{path}: unknown key {inside}{key}; {hint}")
    for name, field in known.items():
        if name not in table and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{path}: the key {inside}{name} is missing; add it")
    values = {key: _convert(value, hints[key], path, inside + key) for key, value in table.items()}
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {inside and inside.rstrip('.') + ': '}{error}") from None


def _convert(value: Any, hint: Any, path: str, key: str) -> Any:
    """A value as its field has it."""
    if isinstance(hint, UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    base = get_origin(hint) or hint
    if is_dataclass(hint):
        return _build(hint, _expect(value, dict, path, key), path, f"{key}.")  # type: ignore[arg-type]
    if base is tuple:
        items = _expect(value, list, path, key)
        return tuple(_convert(item, get_args(hint)[0], path, f"{key}[{i}]") for i, item in enumerate(items))
    if base is dict:
        items = _expect(value, dict, path, key)
        return {name: _convert(item, get_args(hint)[1], path, f"{key}.{name}") for name, item in items.items()}
    return value if hint is Any else _expect(value, hint, path, key)


def _expect(value: Any, kind: type, path: str, key: str) -> Any:
    """A value of this type; a whole number is a number too, and true is none."""
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    got = _KINDS.get(type(value), type(value).__name__)
    raise ConfigError(f"{path}: {key} is {got}, expected {_KINDS[kind]}")
