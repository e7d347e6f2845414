"""The pulse of a driver: it tells the job's store how it is getting on, and learns whether it should stop."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any

from gpukm.errors import GpukmError
from gpukm.pipeline.jobs.events import ENDS, Events, Replaced, newest_attempt
from gpukm.pipeline.jobs.log import LogWriter
from gpukm.pipeline.progress import Progress

_LOGGER = logging.getLogger("gpukm.jobs")


class Pulse(Progress):
    """The progress of a job, told every few seconds by a thread of its own, for as long as the context lasts.

    Every report of progress raises :class:`Replaced` once the job has been cancelled or another driver took over.

    Parameters
    ----------
    events : Events
        For its thread alone.
    attempt : int
        The number of the event that began it.
    log : LogWriter
    every_seconds : float
    """

    def __init__(self, events: Events, attempt: int, log: LogWriter, every_seconds: float) -> None:
        self._events, self._attempt, self._log, self._every = events, attempt, log, every_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpukm-pulse", daemon=True)
        self._reason: str | None = None
        self._stage, self._iteration, self._inertia = "starting", 0, 0.0
        self._rows, self._since, self._logged = 0, float("-inf"), float("-inf")

    def __enter__(self) -> Pulse:
        self._beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.flush()

    def watch(self) -> None:
        """Raise Replaced if there is nothing to do any more."""
        if self._reason is not None:
            raise Replaced(self._reason)

    def stage(self, name: str, total: int | None = None, unit: str = "rows") -> None:
        self._stage, self._rows, self._since = name, 0, float("-inf")
        self._log.add(name)
        self.watch()

    def advance(self, units: int, note: str = "") -> None:
        self.watch()

    def seen(self, rows: int) -> None:
        if self._since == float("-inf"):  # how long the first took is not known
            self._since = time.monotonic()
        else:
            self._rows += rows
        self.watch()

    def iterated(self, iteration: int, inertia: float) -> None:
        self._iteration, self._inertia = iteration, inertia
        if time.monotonic() - self._logged >= self._every:
            self._logged = time.monotonic()
            self._log.add("iteration", **{key: value for key, value in self._facts().items() if key != "stage"})
        self.watch()

    def detail(self, text: str) -> None:
        if text.startswith("warning: "):
            self._log.add(text.removeprefix("warning: "), "warning")

    def flush(self) -> None:
        """Write the log; what cannot be written now is kept for the next time, and the worker's own log told."""
        try:
            self._log.flush()
        except GpukmError as error:
            _LOGGER.warning("the log of a job cannot be written: %s", error)

    def _run(self) -> None:
        """Beat until it is over."""
        while not self._over.wait(self._every):
            self._beat()
            self.flush()

    def _beat(self) -> None:
        """Say how it goes, and see what has happened; a store that cannot be reached now may be later."""
        try:
            self._events.beat(self._attempt, self._facts())
            events, _ = self._events.look()
        except GpukmError as error:
            _LOGGER.warning("a job's store cannot be reached: %s", error)
            self._log.add(f"its store could not be reached: {error}", "warning")
            return
        if events[-1].kind in ENDS:
            self._reason = f"the job is {events[-1].kind}"
        elif newest_attempt(events) != self._attempt:
            self._reason = "the job was submitted again, or another driver took its place"

    def _facts(self) -> dict[str, Any]:
        """What a beat tells."""
        seconds = time.monotonic() - self._since
        facts: dict[str, Any] = {"stage": self._stage, "iteration": self._iteration}
        if self._iteration:
            facts["inertia"] = self._inertia
        if self._rows:
            facts["rows_per_second"] = round(self._rows / seconds, 1)
        return facts
