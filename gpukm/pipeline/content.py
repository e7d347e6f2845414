"""What a snapshot holds, gathered from a finished fit."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpukm.pipeline.progress import Progress, Watched

if TYPE_CHECKING:
    from gpukm.backends import Selection
    from gpukm.config import Settings
    from gpukm.core.result import FitResult
    from gpukm.pipeline.reading import Reading
    from gpukm.plan import TrainPlan
    from gpukm.preprocessing import Fitted
    from gpukm.snapshots import SnapshotContent
    from gpukm.sources.base import Source


def content_of(
    rows: Source,
    result: FitResult,
    fitted: Fitted,
    reading: Reading,
    settings: Settings,
    selection: Selection,
    batch_rows: int,
    progress: Progress,
) -> SnapshotContent:
    """Describe the clusters in two more passes and put everything together; see :class:`SnapshotContent`."""
    from gpukm.core.summary import NON_FINITE, summarize
    from gpukm.functional import as_source, assign_batches
    from gpukm.snapshots import Golden, SnapshotContent, result_fields

    # As they were clustered: of unit length where the metric is cosine, hence euclidean from here on.
    clustered = as_source(rows, None, settings.metric, selection)
    assigned = assign_batches(
        Watched(clustered, progress),
        result.centroids,
        backend=settings.backend,
        device=settings.device,
        threads=settings.threads,
        batch_rows=batch_rows,
    )
    summary = summarize(
        clustered, result.centroids, assigned, seed=settings.seed, batch_rows=batch_rows, threads=settings.threads
    )
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
        "rows_scored": result.n_scored,
        "rows_rechecked": result.n_rechecked,
        "rechecks": None if result.rechecks is None else asdict(result.rechecks),
        "resumed_from_iteration": resumed_from,
        "id_column": list(settings.id_column),
        "seconds": dict(seconds),
        "versions": versions,
    }
