"""Reports of a snapshot, on the terminal and as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpukm.errors import ConfigError

if TYPE_CHECKING:
    from gpukm.snapshots import Snapshot

_SUFFIXES = (".html", ".md", ".json")


def check_target(path: str | None) -> Path | None:
    """Raise ConfigError, before any long work, unless a report can be written there."""
    if path is None:
        return None
    from gpukm.pipeline.files import check_writable

    target = check_writable(path, "the report")
    if target.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"the report {path} ends in {target.suffix!r}; expected one of {', '.join(_SUFFIXES)}")
    return target


def terminal(snapshot: Snapshot) -> str:
    """The report for a terminal; colours where stdout is one and NO_COLOR is not set."""
    raise NotImplementedError


def as_data(snapshot: Snapshot) -> dict[str, Any]:
    """The report as JSON types."""
    raise NotImplementedError


def write_report(snapshot: Snapshot, target: Path) -> None:
    """Write the report in the format that the name asks for; the file appears whole or not at all."""
    raise NotImplementedError
