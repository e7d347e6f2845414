"""Preprocessing steps as people write them: ``log1p``, ``clip=-60,600:delay``, ``pca=8``."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpukm.errors import ConfigError

if TYPE_CHECKING:
    from gpukm.preprocessing import Step

#: How each step is written, and its arguments.
FORMS = {
    "log1p": "log1p",
    "clip": "clip=LOW,HIGH",
    "standardize": "standardize",
    "minmax": "minmax",
    "robust": "robust",
    "l2": "l2",
    "pca": "pca=N",
}


def parse_steps(texts: Sequence[str]) -> tuple[Step, ...]:
    """Read steps of the form ``name[=arguments][:columns]``.

    Parameters
    ----------
    texts : sequence of str
        Columns are separated by commas, and quoted as in CSV where their name holds one; all numeric columns where
        none are named. A bound of ``clip`` may be empty.

    Raises
    ------
    ConfigError
        An unknown step (with the closest name), or wrong arguments.
    """
    return tuple(_parse(text) for text in texts)


def _parse(text: str) -> Step:
    """Read one step."""
    from gpukm import preprocessing

    head, mark, tail = text.partition(":")
    name, _, arguments = head.partition("=")
    name = name.strip().lower()
    if name not in FORMS:
        close = difflib.get_close_matches(name, FORMS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(FORMS.values())}"
        raise ConfigError(f"unknown step {text!r}; {hint}")
    columns = tuple(c.strip() for row in csv.reader([tail], skipinitialspace=True) for c in row if c.strip())
    if mark and not columns:
        raise ConfigError(f"step {text!r} names no columns after the colon; leave the colon out to take all")
    named: dict[str, Any] = {"columns": columns} if columns else {}
    values = [part.strip() for part in arguments.split(",")] if arguments else []
    try:
        if name == "clip" and len(values) == 2 and any(values):
            lower, upper = (float(v) if v else None for v in values)
            return preprocessing.Clip(lower, upper, **named)
        if name == "pca" and len(values) == 1:
            return preprocessing.PCA(int(values[0]), **named)
        if name not in ("clip", "pca") and not values:
            return _PLAIN[name](preprocessing)(**named)
    except ConfigError:
        raise
    except ValueError:
        pass
    raise ConfigError(f"step {text!r} is not written as {FORMS[name]}, with :COLUMNS behind it where not all are meant")


_PLAIN: dict[str, Any] = {
    "log1p": lambda module: module.Log1p,
    "standardize": lambda module: module.Standardize,
    "minmax": lambda module: module.MinMax,
    "robust": lambda module: module.Robust,
    "l2": lambda module: module.L2Normalize,
}
