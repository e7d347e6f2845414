"""Label a data file with a snapshot."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpukm.core.quantiles import LEVELS, OUTLIER_LEVEL
from gpukm.errors import ConfigError
from gpukm.pipeline.files import atomic_file, check_writable
from gpukm.pipeline.inputs import open_input
from gpukm.pipeline.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from gpukm.config import Settings
    from gpukm.snapshots import Snapshot
    from gpukm.sources.base import Batch, Source
    from gpukm.sources.table import Table

OWN_COLUMNS = ("label", "distance", "second_distance", "outlier")
_LARGEST_BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class AssignOutcome:
    """What was written.

    Attributes
    ----------
    out : str
        The Parquet file; empty in a dry run.
    n_rows : int or None
        Rows written; in a dry run the rows of the source, None where only reading tells.
    n_dropped : int
        Rows left out by the null policy of the training.
    n_outliers : int
    counts : tuple of int
        Rows per cluster.
    columns : tuple of str
        Columns of the file.
    warnings : tuple of str
        What was doubtful in the data.
    """

    out: str
    n_rows: int | None
    n_dropped: int
    n_outliers: int
    counts: tuple[int, ...]
    columns: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def assign(
    snapshot: Snapshot,
    source: str,
    out: str | os.PathLike[str],
    settings: Settings,
    *,
    where: Sequence[str] = (),
    progress: Progress | None = None,
    dry_run: bool = False,
) -> AssignOutcome:
    """Write, for each row and in input order, its cluster and how well it fits, as Parquet.

    The columns are the id columns of ``settings`` (``row``, the row's number, when there are none), then ``label``
    (int32), ``distance`` to the centroid and ``second_distance`` to the second nearest one (float64, null where there
    is one cluster only), both Euclidean distances between prepared rows, and ``outlier``: farther than 99 % of the
    cluster's training rows. The file appears whole or not at all, and is written in bounded memory.

    Raises
    ------
    ConfigError
        The file cannot be written there, or a name is taken.
    DataError
        The data does not fit the snapshot: which columns, how.
    """
    from gpukm.preprocessing import PreparedSource

    progress = progress or Progress()
    target, ids = check_output(source, out, settings.id_column)
    raw = open_input(source, where)
    id_fields = fields_of(raw, ids)
    prepared = PreparedSource(raw, snapshot.fitted, pass_columns=ids)
    columns = (*([field.name for field in id_fields]), *OWN_COLUMNS)
    if dry_run:
        return AssignOutcome("", raw.n_rows, 0, 0, (), columns)
    progress.stage("assigning", raw.n_rows)
    counts = np.zeros(len(snapshot.centroids), np.int64)
    n_rows = n_dropped = n_outliers = 0
    with atomic_file(target) as stream, writer_of(stream, id_fields) as writer:
        for batch, labels, nearest, second in _labelled(prepared, snapshot, settings):
            outlier = np.sqrt(nearest) > thresholds(snapshot)[labels]
            mine = [batch.row_numbers] if batch.columns is None else list(batch.columns.columns)
            writer.write_batch(output(writer.schema, mine, labels, nearest, second, outlier))
            counts += np.bincount(labels, minlength=len(counts))
            n_rows, n_outliers = n_rows + len(labels), n_outliers + int(outlier.sum())
            n_dropped += batch.n_rows - len(labels)
            progress.seen(batch.n_rows)
    return AssignOutcome(
        os.fspath(target), n_rows, n_dropped, n_outliers, tuple(counts.tolist()), columns, prepared.warnings
    )


def thresholds(snapshot: Snapshot) -> np.ndarray:
    """Distance per cluster beyond which a row is an outlier, float64 of shape (n_clusters,)."""
    return np.asarray(snapshot.tensors["radius_quantiles"])[:, LEVELS.index(OUTLIER_LEVEL)]


def _labelled(
    prepared: Source, snapshot: Snapshot, settings: Settings
) -> Iterator[tuple[Batch, np.ndarray, np.ndarray, np.ndarray]]:
    """Batches with labels and squared distances."""
    from gpukm.functional import assign_batches
    from gpukm.sources.memory import available_bytes, batch_rows
    from gpukm.sources.prefetch import Prefetch

    limit = settings.memory_limit or available_bytes() // 2
    row_bytes = prepared.n_features * prepared.dtype.itemsize + 64
    rows = settings.batch_rows or min(_LARGEST_BATCH_ROWS, batch_rows(limit, row_bytes, snapshot.centroids.nbytes))
    yield from assign_batches(
        Prefetch(prepared),
        snapshot.centroids,
        metric=snapshot.metric,
        backend=settings.backend,
        device=settings.device,
        threads=settings.threads,
        batch_rows=rows,
    )


def check_output(source: str, out: str | os.PathLike[str], ids: Sequence[str]) -> tuple[Path, Sequence[str]]:
    """Where the output goes, and the columns it copies.

    Raises
    ------
    ConfigError
        The file cannot be written there, or a name is taken.
    """
    target = check_writable(out, "the output")
    if Path(source).exists() and target.exists() and Path(source).samefile(target):
        raise ConfigError(f"the output {out} is the input; choose another name")
    taken = sorted(set(ids) & set(OWN_COLUMNS))
    if taken:
        raise ConfigError(f"id column {taken[0]!r} has the name of a column that assign writes; rename it")
    return target, ids


def fields_of(raw: Source | Table, ids: Sequence[str]) -> list[pa.Field]:
    """Fields that identify a row in the output: the id columns, or the row's number."""
    import pyarrow as pa

    from gpukm.sources.table import Table, check_columns

    if not ids:
        return [pa.field("row", pa.int64())]
    if not isinstance(raw, Table):
        raise ConfigError("--id-column needs a table (Parquet, Arrow, CSV); leave it out to number the rows")
    check_columns(raw.schema, ids, raw.location)
    return [raw.schema.field(name).remove_metadata() for name in ids]


def writer_of(stream: Any, id_fields: list[pa.Field]) -> Any:
    """A Parquet writer of the output's schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = [
        pa.field("label", pa.int32()),
        pa.field("distance", pa.float64()),
        pa.field("second_distance", pa.float64()),
        pa.field("outlier", pa.bool_()),
    ]
    return pq.ParquetWriter(stream, pa.schema([*id_fields, *own]), compression="zstd")


def output(
    schema: pa.Schema,
    ids: Sequence[Any],
    labels: np.ndarray,
    nearest: np.ndarray,
    second: np.ndarray,
    outlier: np.ndarray,
    unknown: np.ndarray | None = None,
) -> pa.RecordBatch:
    """One batch of the output; where ``unknown``, nothing is known of a row but its ids."""
    import pyarrow as pa

    alone = np.isinf(second)
    columns = [
        *[column if isinstance(column, pa.Array) else pa.array(column) for column in ids],
        pa.array(labels, pa.int32(), mask=unknown),
        pa.array(np.sqrt(nearest), mask=unknown),
        pa.array(np.sqrt(second), mask=alone if unknown is None else alone | unknown),
        pa.array(outlier, mask=unknown),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
