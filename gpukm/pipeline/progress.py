"""What long work reports while it runs; this one is silent, the command line has others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpukm.sources.base import Batch, Source


class Progress:
    """Told of stages one after another, and of units done within the current one."""

    def stage(self, name: str, total: int | None = None, unit: str = "rows") -> None:
        """Begin a stage of ``total`` units (None: unknown); the stage before it is over."""

    def advance(self, units: int, note: str = "") -> None:
        """Units done since the last call, and a word on how it goes; not for stages in rows."""

    def iterated(self, iteration: int, inertia: float) -> None:
        """An iteration is done, counted over all runs of a fit that was resumed."""

    def seen(self, rows: int) -> None:
        """Rows looked at since the last call; they are the units of a stage in rows."""

    def record(self, text: str, **facts: Any) -> None:
        """Something happened that only logs tell."""

    def detail(self, text: str) -> None:
        """Say what only those want to know who ask for more."""

    def close(self) -> None:
        """No more stages."""


class Watched(Source):
    """A source that reports its rows as they are read."""

    def __init__(self, source: Source, progress: Progress) -> None:
        self._source, self._progress = source, progress
        self.dtype, self.n_features, self.names = source.dtype, source.n_features, source.names
        self.n_rows = source.n_rows

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """As of the source, each batch reported once it has been used."""
        for batch in self._source.batches(rows, start, stop):
            yield batch
            self._progress.seen(batch.n_rows)
