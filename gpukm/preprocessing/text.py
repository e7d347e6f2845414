r"""Steps as text, for flags and settings files: ``standardize``, ``clip:lower=-3,upper=3``, ``log1p:columns=a|b``.

A step is its kind, and after a colon its options separated by commas. An option is ``name=value``; an item without
``=`` names columns, so that ``log1p:a,b`` and ``log1p:a|b`` are ``log1p:columns=a|b``. A backslash takes the next
character literally, for column names that hold one of ``, | = \``.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import fields
from typing import Any

from gpukm.errors import ConfigError
from gpukm.preprocessing.spec import STEPS, Step


def parse_step(text: str) -> Step:
    """Read one step.

    Parameters
    ----------
    text : str
        Such as ``"standardize"``, ``"clip:lower=-3,upper=3"``, ``"log1p:columns=a|b"`` or ``"pca:n_components=8"``.

    Raises
    ------
    ConfigError
        Unknown kind or option (with the closest name), or a value that does not fit.

    Examples
    --------
    >>> parse_step("clip:lower=-3,upper=3,columns=delay")
    Clip(columns=('delay',), lower=-3.0, upper=3.0)
    """
    kind, _, rest = text.strip().partition(":")
    kind = kind.strip()
    if kind not in STEPS:
        raise ConfigError(f"unknown preprocessing step {kind!r}; {_hint(kind, list(STEPS))}")
    step = STEPS[kind]
    known = {f.name: str(f.type) for f in fields(step)}
    options: dict[str, Any] = {}
    columns: list[str] = []
    for item in _split(rest, ","):
        if not item.strip():
            continue
        name, *value = _split(item, "=")
        name = name.strip()
        if not value:
            columns += [_plain(part.strip()) for part in _split(name, "|")]
            continue
        if len(value) > 1:
            raise ConfigError(f"step {text!r}: {item.strip()!r} has two '='; put a backslash before one in a name")
        if name == "columns":
            columns += [_plain(part.strip()) for part in _split(value[0], "|")]
            continue
        if name not in known:
            raise ConfigError(f"step {text!r} has the unknown option {name!r}; {_hint(name, list(known))}")
        if name in options:
            raise ConfigError(f"step {text!r} gives {name} twice; give it once")
        options[name] = _number(text, name, value[0].strip(), int if known[name] == "int" else float)
    if columns:
        options["columns"] = tuple(columns)
    return step(**options)


def step_text(step: Step) -> str:
    """Write a step so that :func:`parse_step` reads it back.

    Examples
    --------
    >>> from gpukm.preprocessing import Clip
    >>> step_text(Clip(lower=-3, columns=("a", "b")))
    'clip:lower=-3.0,columns=a|b'
    """
    items = [
        f"{f.name}={getattr(step, f.name)!r}"
        for f in fields(step)
        if f.name != "columns" and getattr(step, f.name) is not None
    ]
    if step.columns is not None:
        items.append("columns=" + "|".join(re.sub(r"([\\,|=])", r"\\\1", name) for name in step.columns))
    return step.kind + (":" + ",".join(items) if items else "")


def steps_help() -> list[tuple[str, str]]:
    """Each step's form and what it does, for ``--help`` and the documentation."""
    rows = []
    for kind, step in STEPS.items():
        options = [f.name + "=" + f.name[0].upper() for f in fields(step) if f.name != "columns"]
        about = (step.__doc__ or "").partition("\n")[0].removeprefix(f"{kind}: ")
        rows.append((kind + (":" + ",".join(options) if options else ""), about))
    return rows


def _split(text: str, mark: str) -> list[str]:
    """Split at a mark that no backslash precedes; backslashes stay."""
    return list(re.findall(rf"(?:^|{re.escape(mark)})((?:\\.|[^{re.escape(mark)}\\])*)", text))


def _plain(text: str) -> str:
    """Text without its backslashes."""
    return re.sub(r"\\(.)", r"\1", text)


def _number(text: str, name: str, value: str, kind: type[int] | type[float]) -> int | float:
    """A number of the option's type."""
    try:
        return kind(value)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise ConfigError(f"step {text!r}: {name} is {value!r}, expected {expected}") from None


def _hint(name: str, names: list[str]) -> str:
    """``did you mean ...?`` or the whole list."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(names)}"
