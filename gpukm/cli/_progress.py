"""Progress on stderr: bars on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from gpukm.cli._io import clock, short
from gpukm.pipeline.progress import Progress

_EVERY_SECONDS = 5.0
_EVERY_SECONDS_VERBOSE = 1.0


def reporter(verbose: bool) -> Progress:
    """Bars where stderr is a terminal that can draw them, lines elsewhere."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return Bars(verbose)
    return Lines(_EVERY_SECONDS_VERBOSE if verbose else _EVERY_SECONDS, verbose)


class _Counter(Progress):
    """Counts what both kinds show."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose
        self.name, self.unit = "", "rows"
        self.total: int | None = None
        self.done = self.rows = 0
        self.note = ""
        self.began = time.monotonic()

    def stage(self, name: str, total: int | None = None, unit: str = "rows") -> None:
        """Begin counting anew."""
        self.name, self.total, self.unit = name, total, unit
        self.done = self.rows = 0
        self.note = ""
        self.began = time.monotonic()

    def advance(self, units: int, note: str = "") -> None:
        """Count on."""
        self.done += units
        self.note = note
        self.show()

    def seen(self, rows: int) -> None:
        """Count rows."""
        self.rows += rows
        if self.unit == "rows":
            self.done += rows
        self.show()

    def show(self) -> None:
        """Show what is counted."""

    def rate(self) -> str:
        """Rows a second, in words; empty before anything is known."""
        seconds = time.monotonic() - self.began
        return f"{short(self.rows / seconds)} rows/s" if self.rows and seconds > 0 else ""

    def left(self) -> str:
        """Time left, in words; for iterations, which may end sooner, a limit."""
        if not self.total or not self.done:
            return ""
        seconds = (time.monotonic() - self.began) / self.done * max(0, self.total - self.done)
        most = "at most " if self.unit == "iterations" else ""
        return f"{most}{clock(seconds)} left"

    def line(self) -> str:
        """All of it in one line."""
        total = f"/{short(self.total)}" if self.total else ""
        parts = [f"{self.name}: {short(self.done)}{total} {self.unit}", self.note, self.rate(), self.left()]
        return ", ".join(part for part in parts if part)


class Lines(_Counter):
    """A plain line when a stage begins, then one every few seconds."""

    def __init__(self, every_seconds: float, verbose: bool = False) -> None:
        super().__init__(verbose)
        self._every = every_seconds
        self._last = 0.0

    def stage(self, name: str, total: int | None = None, unit: str = "rows") -> None:
        """Say what begins."""
        super().stage(name, total, unit)
        self._last = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)

    def show(self) -> None:
        """Say how far it is, not too often."""
        if time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """Say it at once."""
        if self.verbose:
            print(text, file=sys.stderr, flush=True)


class Bars(_Counter):
    """One live bar that changes with the stage."""

    def __init__(self, verbose: bool = False) -> None:
        super().__init__(verbose)
        self._display: Any = None
        self._task: Any = None

    def stage(self, name: str, total: int | None = None, unit: str = "rows") -> None:
        """Reset the bar."""
        super().stage(name, total, unit)
        if self._display is None:
            self._display = _display()
            self._display.start()
        elif self._task is not None:
            self._display.remove_task(self._task)
        self._task = self._display.add_task(name, total=total, status="")

    def show(self) -> None:
        """Move the bar."""
        total = f"/{short(self.total)}" if self.total else ""
        parts = [f"{short(self.done)}{total} {self.unit}", self.note, self.rate(), self.left()]
        status = " · ".join(part for part in parts if part)
        self._display.update(self._task, completed=self.done, status=status)

    def detail(self, text: str) -> None:
        """Say it above the bar."""
        if self.verbose and self._display is not None:
            self._display.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Take the bar away."""
        if self._display is not None:
            self._display.stop()
            self._display = None


def _display() -> Any:
    """The bar; rich leaves colours out where NO_COLOR is set."""
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[status]}", markup=False),
    )
    return RichProgress(*columns, console=Console(stderr=True), transient=True)
