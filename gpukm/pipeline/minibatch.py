"""Run a mini-batch fit and report its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpukm.minibatch import minibatch_iter
from gpukm.pipeline.progress import Progress

if TYPE_CHECKING:
    from gpukm.config import Settings
    from gpukm.core.result import FitResult
    from gpukm.pipeline.reading import Reading
    from gpukm.plan import TrainPlan
    from gpukm.sources.base import Source

_DEFAULT_EXCESS = 1e-3


def fit_minibatch(
    rows: Source, settings: Settings, reading: Reading, planned: TrainPlan, progress: Progress
) -> FitResult:
    """Fit with ``algorithm = "minibatch"``; a fit that is interrupted starts over."""
    steps = minibatch_iter(
        rows,
        settings.n_clusters or 1,
        init=settings.init,
        n_init=settings.n_init,
        batch_size=settings.batch_size,
        max_iter=settings.max_iter,
        tol=settings.tol,
        max_excess=_DEFAULT_EXCESS if settings.max_excess is None else settings.max_excess,
        seed=settings.seed,
        metric=settings.metric,
        backend=settings.backend,
        device=settings.device,
        memory_limit=settings.memory_limit,
        read_rows=planned.batch_rows,
        threads=settings.threads,
        keep_labels=False,
    )
    batch = 0
    while True:
        try:
            state = next(steps)
        except StopIteration as end:
            result: FitResult = end.value
            return result
        if state.batch_rows != batch:
            batch = state.batch_rows
            progress.stage(f"iterating on {batch:,} of {reading.n_samples:,} rows", None, "steps")
        progress.advance(1, f"inertia {state.record.inertia:.6g}")
