"""Run a fit step by step: report each iteration, and save what is needed to go on after a stop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpukm.checkpoint import Checkpoint, check_same, load, save
from gpukm.functional import FitProgress, Resume, fit_iter
from gpukm.pipeline.progress import Progress

if TYPE_CHECKING:
    from gpukm.config import Settings
    from gpukm.core.result import FitResult
    from gpukm.pipeline.reading import Reading
    from gpukm.plan import TrainPlan
    from gpukm.sources.base import Source

#: Saving may take this share of the time.
_SHARE = 0.05


def fit_with_checkpoints(
    rows: Source,
    settings: Settings,
    semantic: Mapping[str, Any],
    reading: Reading,
    planned: TrainPlan,
    *,
    resume: bool,
    progress: Progress,
) -> tuple[FitResult, int]:
    """Fit, and return the result and the iteration at which an earlier run had stopped (0: none).

    Raises
    ------
    ConfigError
        The checkpoint belongs to other settings or other data.
    SnapshotCorruptError
        The checkpoint is damaged.
    """
    keeper = _Keeper(settings.checkpoint, semantic, reading.data_fields())
    start = keeper.load() if resume else None
    steps = fit_iter(
        rows,
        settings.n_clusters or 1,
        init=settings.init,
        n_init=settings.n_init,
        max_iter=settings.max_iter,
        tol=settings.tol,
        seed=settings.seed,
        metric=settings.metric,
        backend=settings.backend,
        device=settings.device,
        device_memory=settings.device_memory,
        precision=settings.precision,
        quality=settings.quality,
        threads=settings.threads,
        batch_size=planned.batch_rows,
        follow_bytes=planned.follow_bytes,
        keep_labels=False,
        resume=Resume(start.centroids, start.history, start.init, start.best) if start else None,
    )
    current: tuple[int, int] | None = None
    try:
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                result: FitResult = end.value
                return result, start.iteration if start else 0
            if (step.init, step.swap) != current:
                current = step.init, step.swap
                name = f"start {step.init + 1} of {step.n_init}" if step.n_init > 1 else "iterating"
                name = f"swap {step.swap}" if step.swap else name
                progress.stage(name, settings.max_iter, "iterations")
            if reading.held is not None:  # rows that are streamed are seen as they are read
                progress.seen(reading.n_rows)
            progress.advance(len(step.state.records), f"inertia {step.state.record.inertia:.6g}")
            progress.detail(f"iteration {step.state.record.iteration}: {step.state.effort}")
            keeper.see(step)
    finally:
        keeper.save()


class _Keeper:
    """Saves the newest state, rarely enough to cost little, and once more when the fit is interrupted."""

    def __init__(self, path: str | None, settings: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        self._path, self._settings, self._data = path, settings, data
        self._newest: Checkpoint | None = None
        self._history: list[Any] = []
        self._init = 0
        self._next = 0.0

    def load(self) -> Checkpoint | None:
        """The saved state, None when there is none yet."""
        if self._path is None or not Path(self._path).exists():
            return None
        found = load(self._path)
        check_same(found, self._settings, self._data, self._path)
        self._init, self._history = found.init, list(found.history)
        return found

    def see(self, step: FitProgress) -> None:
        """Note the state after an iteration."""
        if self._path is None or step.swap:
            # Swaps follow from what the starts found; a resumed fit makes them again.
            return
        if step.init != self._init:
            self._init, self._history = step.init, []
        self._history.extend(step.state.records)
        if step.state.stop is not None:
            # The loop is over; going on from here would add an iteration, so the state before stays.
            return
        self._newest = Checkpoint(
            self._settings, self._data, self._init, step.state.centroids, tuple(self._history), step.best
        )
        if time.monotonic() >= self._next:
            self.save()

    def save(self) -> None:
        """Write the newest state, if it is not written yet."""
        if self._newest is None or self._path is None:
            return
        began = time.monotonic()
        save(self._path, self._newest)
        self._newest = None
        self._next = time.monotonic() + (time.monotonic() - began) / _SHARE
