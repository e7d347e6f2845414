"""Reports of a snapshot, on the terminal and as files."""

from __future__ import annotations

import os
import shutil
import sys
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
    from gpukm.reports import Report, render_terminal

    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width = shutil.get_terminal_size((100, 24)).columns
    return render_terminal(Report.from_snapshot(snapshot), width=max(60, min(width, 140)), color=color)


def as_data(snapshot: Snapshot) -> dict[str, Any]:
    """The report as JSON types."""
    from gpukm.reports import Report
    from gpukm.reports.json import report_fields

    return report_fields(Report.from_snapshot(snapshot))


def write_report(snapshot: Snapshot, target: Path) -> None:
    """Write the report in the format that the name asks for; the file appears whole or not at all."""
    from gpukm.pipeline.files import atomic_file
    from gpukm.reports import Report, render_html, render_json, render_markdown

    render = {".html": render_html, ".md": render_markdown, ".json": render_json}[target.suffix.lower()]
    text = render(Report.from_snapshot(snapshot))
    with atomic_file(target) as file:
        file.write(text.encode())
