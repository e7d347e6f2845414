"""Label a data file with a snapshot."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from gpukm.core.quantiles import LEVELS, OUTLIER_LEVEL
from gpukm.errors import ConfigError
from gpukm.executors import Executor, LocalExecutor
from gpukm.pipeline.files import atomic_file, check_writable
from gpukm.pipeline.inputs import open_input
from gpukm.pipeline.parts import Part, PartFolder, part_folder
from gpukm.pipeline.progress import Progress
from gpukm.pipeline.spread import Spread
from gpukm.sources.ranges import over_each

if TYPE_CHECKING:
    import pyarrow as pa

    from gpukm.config import Settings
    from gpukm.preprocessing import Fitted
    from gpukm.snapshots import Snapshot
    from gpukm.sources.base import Source
    from gpukm.sources.table import Table

OWN_COLUMNS = ("label", "distance", "second_distance", "outlier")
_LARGEST_BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class AssignOutcome:
    """What was written.

    Attributes
    ----------
    out : str
        The Parquet file, or the folder of parts; empty in a dry run.
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
    executor: Executor | None = None,
    n_ranges: int | None = None,
) -> AssignOutcome:
    """Write, for each row and in input order, its cluster and how well it fits, as Parquet.

    The columns are the id columns of ``settings`` (``row``, the row's number, when there are none), then ``label``
    (int32), ``distance`` to the centroid and ``second_distance`` to the second nearest one (float64, null where there
    is one cluster only), both Euclidean distances between prepared rows, and ``outlier``: farther than 99 % of the
    cluster's training rows. The output appears whole or not at all, and is written in bounded memory: a file, or where
    an executor works elsewhere a folder of parts, which read in the order of their names are the same rows.

    Parameters
    ----------
    snapshot : Snapshot
    source : str
        File, folder, glob or URL.
    out : path
        Of a file; elsewhere the path or URL of a folder that is not there yet and that all workers reach.
    settings : Settings
    where : sequence of str
        ``column=value`` conditions.
    progress : Progress or None
    dry_run : bool
        Stop after the checks.
    executor : Executor or None
        Where rows are labelled and written; None: here.
    n_ranges : int or None
        Parts; None chooses by the data's size.

    Raises
    ------
    ConfigError
        The output cannot be written there, or a name is taken.
    DataError
        The data does not fit the snapshot: which columns, how.
    """
    from gpukm.preprocessing import PreparedSource
    from gpukm.preprocessing.prepared import doubts

    progress, elsewhere = progress or Progress(), not (executor is None or isinstance(executor, LocalExecutor))
    check_ids(settings.id_column)
    target = part_folder(out) if elsewhere else check_output(source, out)
    raw = open_input(source, where)
    id_fields = fields_of(raw, settings.id_column)
    prepared = PreparedSource(raw, snapshot.fitted, pass_columns=settings.id_column)
    columns = (*([field.name for field in id_fields]), *OWN_COLUMNS)
    if dry_run:
        return AssignOutcome("", raw.n_rows, 0, 0, (), columns)
    progress.stage("assigning", raw.n_rows)
    job = _Job.of(snapshot, settings, prepared, id_fields)
    if isinstance(target, PartFolder):
        done = _write_parts(Spread.of(raw, executor, n_ranges), raw, job, snapshot.centroids, target, progress)
    else:
        # Before there is a file: what interrupts an import may come out of it as any error.
        import pyarrow.parquet  # noqa: F401

        with atomic_file(target) as stream:
            done = _write(raw, job, snapshot.centroids, stream, progress)
    where_to = target.target if isinstance(target, PartFolder) else os.fspath(target)
    return AssignOutcome(
        where_to,
        done.n_rows,
        done.n_dropped,
        done.n_outliers,
        tuple(done.counts.tolist()),
        columns,
        doubts(done.unknown),
    )


@dataclass(frozen=True)
class _Job:
    """How rows are labelled and written, wherever that is done."""

    fitted: Fitted
    id_fields: list[pa.Field]
    ids: tuple[str, ...]
    thresholds: np.ndarray
    metric: str
    backend: str
    device: str
    threads: int | None
    batch_rows: int

    @classmethod
    def of(cls, snapshot: Snapshot, settings: Settings, prepared: Source, id_fields: list[pa.Field]) -> _Job:
        """The same for all ranges, so that a part that is written again gets the same bytes."""
        from gpukm.sources.memory import available_bytes, batch_rows

        limit = settings.memory_limit or available_bytes() // 2
        row_bytes = prepared.n_features * prepared.dtype.itemsize + 64
        rows = settings.batch_rows or min(_LARGEST_BATCH_ROWS, batch_rows(limit, row_bytes, snapshot.centroids.nbytes))
        return cls(
            snapshot.fitted,
            id_fields,
            settings.id_column,
            thresholds(snapshot),
            snapshot.metric,
            settings.backend,
            settings.device,
            settings.threads,
            rows,
        )


@dataclass
class _Done:
    """What was written."""

    counts: np.ndarray
    n_rows: int = 0
    n_dropped: int = 0
    n_outliers: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    size_bytes: int = 0

    def merge(self, other: _Done) -> None:
        """Take in what was written of other rows."""
        self.counts = self.counts + other.counts
        self.n_rows += other.n_rows
        self.n_dropped += other.n_dropped
        self.n_outliers += other.n_outliers
        self.unknown += other.unknown


def _write(raw: Source | Table, job: _Job, centroids: np.ndarray, stream: BinaryIO, progress: Progress) -> _Done:
    """Label rows and write them to a Parquet file."""
    from gpukm.functional import assign_batches
    from gpukm.preprocessing import PreparedSource
    from gpukm.sources.prefetch import Prefetch

    prepared = PreparedSource(raw, job.fitted, pass_columns=job.ids)
    labelled = assign_batches(
        Prefetch(prepared),
        centroids,
        metric=job.metric,
        backend=job.backend,
        device=job.device,
        threads=job.threads,
        batch_rows=job.batch_rows,
    )
    done = _Done(np.zeros(len(centroids), np.int64))
    with writer_of(stream, job.id_fields) as writer:
        for batch, labels, nearest, second in labelled:
            outlier = np.sqrt(nearest) > job.thresholds[labels]
            mine = [batch.row_numbers] if batch.columns is None else list(batch.columns.columns)
            writer.write_batch(output(writer.schema, mine, labels, nearest, second, outlier))
            done.counts += np.bincount(labels, minlength=len(centroids))
            done.n_rows, done.n_outliers = done.n_rows + len(labels), done.n_outliers + int(outlier.sum())
            done.n_dropped += batch.n_rows - len(labels)
            progress.seen(batch.n_rows)
    done.unknown = prepared.unknown
    done.size_bytes = stream.tell()
    return done


def _write_parts(
    spread: Spread, raw: Source | Table, job: _Job, centroids: np.ndarray, folder: PartFolder, progress: Progress
) -> _Done:
    """Label ranges, a part each, and publish all of them."""
    folder.begin()
    try:
        shared = spread.executor.share(centroids)
        with spread.placed(raw) as placed:
            numbers = [(number,) for number in range(len(placed))]
            found: list[_Done] = over_each(placed, _write_part, job, shared, folder, each=numbers)
        folder.publish([Part(done.n_rows, done.size_bytes) for done in found])
    except BaseException:
        with suppress(ConfigError):  # a place that cannot be reached any more; the first error tells
            folder.abandon()
        raise
    whole = _Done(np.zeros(len(centroids), np.int64))
    for done in found:
        whole.merge(done)
    progress.seen(whole.n_rows + whole.n_dropped)
    return whole


def _write_part(raw: Source | Table, job: _Job, centroids: np.ndarray, folder: PartFolder, number: int) -> _Done:
    """Label a range."""
    with folder.part(number) as stream:
        return _write(raw, job, centroids, stream, Progress())


def thresholds(snapshot: Snapshot) -> np.ndarray:
    """Distance per cluster beyond which a row is an outlier, float64 of shape (n_clusters,)."""
    return np.asarray(snapshot.tensors["radius_quantiles"])[:, LEVELS.index(OUTLIER_LEVEL)]


def check_output(source: str, out: str | os.PathLike[str]) -> Path:
    """Where the output goes.

    Raises
    ------
    ConfigError
        The file cannot be written there.
    """
    target = check_writable(out, "the output")
    if Path(source).exists() and target.exists() and Path(source).samefile(target):
        raise ConfigError(f"the output {out} is the input; choose another name")
    return target


def check_ids(ids: Sequence[str]) -> None:
    """Raise ConfigError for an id column that has the name of a column of the output."""
    taken = sorted(set(ids) & set(OWN_COLUMNS))
    if taken:
        raise ConfigError(f"id column {taken[0]!r} has the name of a column that assign writes; rename it")


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
