"""Run a fit step by step: report each iteration, and save what is needed to go on after a stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gpukm.checkpoint import Checkpoint, check_same
from gpukm.errors import ConfigError, ExecutorError
from gpukm.functional import FitProgress, Resume, fit_iter
from gpukm.pipeline.progress import Progress

if TYPE_CHECKING:
    from gpukm.config import Settings
    from gpukm.core.result import FitResult
    from gpukm.executors import Executor
    from gpukm.pipeline.checkpoints import Checkpoints
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
    checkpoints: Checkpoints | None,
    resume: bool,
    progress: Progress,
    executor: Executor | None = None,
) -> tuple[FitResult, int, tuple[str, ...]]:
    """Fit, and return the result, the iteration at which an earlier run had stopped (0: none), and warnings.

    ``executor`` names where the rows are worked on; None: here.

    Raises
    ------
    ConfigError
        The checkpoint belongs to other settings or other data.
    SnapshotCorruptError
        The checkpoint is damaged.
    """
    keeper = _Keeper(checkpoints, settings.checkpoint_seconds, semantic, reading.data_fields(), progress)
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
        executor=executor or "local",
        batch_size=planned.batch_rows if executor is None else settings.batch_rows,
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
                keeper.save()
                return result, start.iteration if start else 0, keeper.warnings()
            if (step.init, step.swap) != current:
                current = step.init, step.swap
                name = f"start {step.init + 1} of {step.n_init}" if step.n_init > 1 else "iterating"
                name = f"swap {step.swap}" if step.swap else name
                progress.stage(name, settings.max_iter, "iterations")
            # Rows that are streamed here are seen as they are read.
            if reading.held is not None or executor is not None:
                progress.seen(len(step.state.records) * reading.n_rows)
            who = "" if executor is None else f", {executor.width()} workers"
            progress.advance(len(step.state.records), f"inertia {step.state.record.inertia:.6g}{who}")
            for record in step.state.records:
                progress.iterated(record.iteration, record.inertia)
            progress.detail(f"iteration {step.state.record.iteration}: {step.state.effort}")
            keeper.see(step)
    except ExecutorError:
        # What was not brought here is lost with the workers; what was saved stands.
        keeper.forget()
        raise
    finally:
        keeper.save()


class _Keeper:
    """Saves the newest state, rarely enough to cost little, and once more when the fit ends or is interrupted."""

    def __init__(
        self,
        place: Checkpoints | None,
        every_seconds: float,
        settings: Mapping[str, Any],
        data: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        self._place, self._every, self._settings, self._data = place, every_seconds, settings, data
        self._progress = progress
        # Made when it is saved: centroids may lie elsewhere, and are brought here only for that.
        self._newest: Callable[[], Checkpoint] | None = None
        self._history: list[Any] = []
        self._init = 0
        self._next = 0.0
        self._saved = False
        self._failures: list[str] = []
        self._warnings: list[str] = []

    def load(self) -> Checkpoint | None:
        """The saved state, None when there is none yet."""
        found = None if self._place is None else self._place.newest(self._warn)
        if found is None or self._place is None:
            return None
        check_same(found, self._settings, self._data, self._place.location)
        self._init, self._history = found.init, list(found.history)
        return found

    def see(self, step: FitProgress) -> None:
        """Note the state after an iteration."""
        if self._place is None or step.swap:
            # Swaps follow from what the starts found; a resumed fit makes them again.
            return
        if step.init != self._init:
            self._init, self._history = step.init, []
        self._history.extend(step.state.records)
        if step.state.stop is not None:
            # The loop is over; going on from here would add an iteration, so the state before stays.
            return
        # The history as it is now: the loop's end, which comes later, is not of these centroids.
        where, history = (self._settings, self._data, self._init), tuple(self._history)
        self._newest = lambda: Checkpoint(*where, step.state.centroids, history, step.best)
        if time.monotonic() >= self._next:
            self.save()

    def save(self) -> None:
        """Write the newest state, if it is not written yet.

        Where the first cannot be written none could, and that is an error; a later one that fails costs work only if
        the fit stops before the next.
        """
        if self._newest is None or self._place is None:
            return
        began = time.monotonic()
        newest, self._newest = self._newest(), None
        try:
            self._place.save(newest)
            self._saved = True
        except ConfigError as error:
            if not self._saved:
                raise
            self._failures.append(str(error))
            self._progress.detail(f"warning: checkpoint of iteration {newest.iteration} not saved: {error}")
        now = time.monotonic()
        self._next = now + max(self._every, (now - began) / _SHARE)

    def forget(self) -> None:
        """Leave it at what is saved."""
        self._newest = None

    def warnings(self) -> tuple[str, ...]:
        """What was doubtful."""
        failed = f"{len(self._failures)} checkpoints were not saved: {self._failures[-1]}" if self._failures else ""
        return (*self._warnings, failed) if failed else tuple(self._warnings)

    def _warn(self, text: str) -> None:
        """Say it at once to those who ask for more, and to all in the end."""
        self._warnings.append(text)
        self._progress.detail(f"warning: {text}")
