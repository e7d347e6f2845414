"""A log that programs read: a JSON object a line, of what a command does while it does it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from gpukm.pipeline.files import check_writable
from gpukm.pipeline.progress import Progress
from gpukm.snapshots.redact import redact


class Logged(Progress):
    """Hands on what it is told, and writes it down.

    Every record has ``at`` (UTC), ``level``, ``text`` and facts by name. Secrets are taken out.

    Parameters
    ----------
    progress : Progress
        Is told everything, too.
    stream : text file
        Written line by line.
    """

    def __init__(self, progress: Progress, stream: TextIO) -> None:
        self._progress, self._stream = progress, stream

    def write(self, text: str, level: str = "info", **facts: Any) -> None:
        """Write one record."""
        self._stream.write(json.dumps(record_of(text, level, **facts)) + "\n")
        self._stream.flush()

    def stage(self, name: str, total: int | None = None, unit: str = "rows") -> None:
        self._progress.stage(name, total, unit)
        self.write("stage", stage=name, total=total, unit=unit)

    def advance(self, units: int, note: str = "") -> None:
        self._progress.advance(units, note)

    def iterated(self, iteration: int, inertia: float) -> None:
        self._progress.iterated(iteration, inertia)
        self.write("iteration", iteration=iteration, inertia=inertia)

    def record(self, text: str, **facts: Any) -> None:
        self._progress.record(text, **facts)
        self.write(text, **facts)

    def seen(self, rows: int) -> None:
        self._progress.seen(rows)

    def detail(self, text: str) -> None:
        self._progress.detail(text)
        self.write(text, "debug")

    def close(self) -> None:
        self._progress.close()


def record_of(text: str, level: str, **facts: Any) -> dict[str, Any]:
    """A line of a log: when, how bad, what, and facts by name; secrets are taken out."""
    record: dict[str, Any] = redact({"at": now(), "level": level, "text": text, **facts})
    return record


def now() -> str:
    """The time of day, as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@contextmanager
def logged(progress: Progress, path: str | None) -> Iterator[Progress]:
    """Log to a file, behind what it holds already; None logs nothing. An error is logged on its way out.

    Raises
    ------
    ConfigError
        The file cannot be written there.
    """
    if path is None:
        yield progress
        return
    with Path(check_writable(path, "the log")).open("a", encoding="utf-8") as stream:
        log = Logged(progress, stream)
        try:
            yield log
        except BaseException as error:
            log.write(str(error) or type(error).__name__, "error", error=type(error).__name__)
            raise
        log.write("done")
