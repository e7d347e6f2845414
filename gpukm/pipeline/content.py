"""What a snapshot holds, gathered from a finished fit."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpukm.pipeline.progress import Progress, Watched
from gpukm.pipeline.spread import HERE, Spread
from gpukm.sources.ranges import over

if TYPE_CHECKING:
    import numpy as np

    from gpukm.backends import Selection
    from gpukm.config import Settings
    from gpukm.core.result import FitResult
    from gpukm.core.summary import Accumulator, Survey
    from gpukm.pipeline.reading import Reading
    from gpukm.plan import TrainPlan
    from gpukm.preprocessing import Fitted
    from gpukm.snapshots import SnapshotContent
    from gpukm.sources.base import Source
    from gpukm.sources.ranges import RowRange


def content_of(
    rows: Source,
    result: FitResult,
    fitted: Fitted,
    reading: Reading,
    settings: Settings,
    batch_rows: int,
    progress: Progress,
    spread: Spread = HERE,
) -> SnapshotContent:
    """Describe the clusters in two more passes and put everything together; see :class:`SnapshotContent`."""
    from gpukm.core.summary import NON_FINITE, Survey, survey
    from gpukm.snapshots import Golden, SnapshotContent, result_fields

    clustered = _Clustered(settings.metric, settings.backend, settings.device, settings.threads)
    how = settings.backend, settings.device, settings.threads, batch_rows, spread.told(progress)
    executor = spread.executor
    with spread.placed(rows, clustered.of) as placed:
        find = partial(survey, seed=settings.seed, batch_rows=batch_rows)
        look: Survey = over(executor, placed, find, merge=Survey.merge)
        centroids, shared = executor.share(result.centroids), executor.share(look)
        totals: Accumulator = over(executor, placed, _describe, centroids, shared, *how)
    if not spread.here:
        progress.seen(reading.n_rows)
    summary = totals.finish(look)
    return SnapshotContent(
        centroids=result.centroids,
        golden=Golden(summary.golden.x, summary.golden.labels, summary.golden.row_numbers),
        tensors=summary.tensors(),
        non_finite=NON_FINITE,
        schema=fitted.schema,
        preprocessing=fitted.to_json(),
        preprocessing_tensors=fitted.tensors(),
        settings={**result.settings, "weight_column": settings.weight_column},
        data=reading.data_fields(),
        result={**result_fields(result), "notes": list(summary.notes)},
    )


@dataclass(frozen=True)
class _Clustered:
    """Opens rows as they were clustered: of unit length where the metric is cosine, hence euclidean from there on."""

    metric: str
    backend: str
    device: str
    threads: int | None
    part: RowRange | None = None

    def of(self, part: RowRange) -> _Clustered:
        """Of a range."""
        return replace(self, part=part)

    def open(self) -> Source:
        """The rows; which backend scales them is chosen where they are."""
        from gpukm.backends import select
        from gpukm.sources.normalized import NormalizedSource

        assert self.part is not None
        rows: Source = self.part.open()
        if self.metric != "cosine":
            return rows
        return NormalizedSource(rows, select(self.backend, self.device, self.threads).backend)


def _describe(
    rows: Source,
    centroids: np.ndarray,
    look: Survey,
    backend: str,
    device: str,
    threads: int | None,
    batch_rows: int,
    progress: Progress,
) -> Accumulator:
    """Label a range and take in its rows."""
    from gpukm.core.summary import gather
    from gpukm.functional import assign_batches

    assigned = assign_batches(
        Watched(rows, progress), centroids, backend=backend, device=device, threads=threads, batch_rows=batch_rows
    )
    return gather(assigned, centroids, look, threads)


def provenance_of(
    source: str,
    result: FitResult,
    planned: TrainPlan,
    settings: Settings,
    selection: Selection,
    seconds: Mapping[str, float],
    resumed_from: int,
) -> dict[str, Any]:
    """Who, where, when and how: what must not decide a snapshot's id."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for name in ("gpukm", "numpy", "pyarrow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return {
        "source": source if "://" in source else str(Path(source).absolute()),
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "backend": result.backend,
        "rejected_backends": [list(pair) for pair in selection.rejected],
        "threads": settings.threads,
        "resident": planned.resident,
        "batch_rows": planned.batch_rows,
        "memory_limit_bytes": planned.memory_limit_bytes,
        **({} if result.work is None else {"cluster": result.work}),
        "rows_scored": result.n_scored,
        "rows_rechecked": result.n_rechecked,
        "rechecks": None if result.rechecks is None else asdict(result.rechecks),
        "resumed_from_iteration": resumed_from,
        "id_column": list(settings.id_column),
        "seconds": dict(seconds),
        "versions": versions,
    }
