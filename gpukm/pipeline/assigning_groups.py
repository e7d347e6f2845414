"""Label a data file whose groups of rows have a model each: every row by the model of its group."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpukm.errors import ConfigError, DataError
from gpukm.pipeline.assigning import OWN_COLUMNS, check_ids, check_output, fields_of, output, thresholds, writer_of
from gpukm.pipeline.files import atomic_file
from gpukm.pipeline.inputs import model_name, open_input
from gpukm.pipeline.progress import Progress
from gpukm.preprocessing.columns import some

if TYPE_CHECKING:
    import pyarrow as pa

    from gpukm.config import Settings
    from gpukm.snapshots import Snapshot, Store
    from gpukm.sources.table import Table

UNKNOWN_GROUPS = ("error", "null")
_READ_ROWS = 1 << 16


@dataclass(frozen=True)
class AssignedGroup:
    """What one group's rows got.

    Attributes
    ----------
    value : str
        The group's value as text.
    model : str
    number : int
    id : str
        Of the snapshot.
    n_rows : int
        Rows of the group in the input.
    n_dropped, n_outliers : int
    counts : tuple of int
        Rows per cluster.
    """

    value: str
    model: str
    number: int
    id: str
    n_rows: int
    n_dropped: int = 0
    n_outliers: int = 0
    counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class AssignedGroups:
    """What was written.

    Attributes
    ----------
    column : str
        The group column.
    out : str
        The Parquet file; empty in a dry run.
    n_rows, n_dropped, n_outliers : int
        As of :class:`gpukm.pipeline.assigning.AssignOutcome`; in a dry run ``n_rows`` counts the input.
    unknown : dict of str to int
        Rows of each group without a model, whose labels are null; in ascending order of the values.
    n_missing : int
        Rows without a group, whose labels are null too.
    groups : tuple of AssignedGroup
        In ascending order of the values' text.
    columns : tuple of str
    warnings : tuple of str
    """

    column: str
    out: str
    n_rows: int
    n_dropped: int
    n_outliers: int
    unknown: dict[str, int]
    n_missing: int
    groups: tuple[AssignedGroup, ...]
    columns: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def assign_groups(
    store: Store,
    source: str,
    out: str | os.PathLike[str],
    by: str,
    settings: Settings,
    *,
    ref: str = "latest",
    unknown_groups: str = "error",
    where: Sequence[str] = (),
    progress: Progress | None = None,
    dry_run: bool = False,
) -> AssignedGroups:
    """Write, for each row and in input order, its cluster by the model of its group, as Parquet.

    A row gets the bits that :func:`gpukm.pipeline.assigning.assign` gives it with the model
    ``group_model(model, value)``. The columns are those of ``assign``, with the group column after the id columns. The
    input is read twice: the group column first, so that a group without a model is found before anything is labelled.

    Parameters
    ----------
    store : Store
    source : str
        A table: file, folder, glob or URL.
    out : str or path
    by : str
        Column of text, whole numbers, booleans or dates.
    settings : Settings
        ``model`` is the first part of the models' names; None takes the name of the data.
    ref : str
        Which snapshot of every model: ``latest``, or a number.
    unknown_groups : {"error", "null"}
        What to do about rows whose group has no model, or that have no group: refuse, or leave their labels null.
    where, progress, dry_run
        As of ``assign``.

    Raises
    ------
    ConfigError
        The file cannot be written there, a name is taken, or a model is of another column's groups.
    DataError
        The data does not fit a snapshot, or there are groups without a model.
    SnapshotNotFoundError, SnapshotCorruptError
    """
    from gpukm.sources.table import Table

    progress = progress or Progress()
    if unknown_groups not in UNKNOWN_GROUPS:
        raise ConfigError(f"--unknown-groups is {unknown_groups!r}, expected one of {', '.join(UNKNOWN_GROUPS)}")
    ids = settings.id_column
    check_ids(ids)
    target = check_output(source, out)
    if by in OWN_COLUMNS:
        raise ConfigError(f"group column {by!r} has the name of a column that assign writes; rename it")
    raw = open_input(source, where)
    if not isinstance(raw, Table):
        raise ConfigError(f"--group-by needs named columns, and {source} has none; give a Parquet, Arrow or CSV file")
    model = settings.model or model_name(source)
    counts, n_missing = _count(raw, by, progress)
    models = _models(store, model, counts)
    unknown = {value: counts[value] for value in sorted(set(counts) - set(models))}
    _check_known(source, by, model, models, unknown, n_missing, unknown_groups)
    groups = {value: _Labeller(value, name, store.load(name, ref), raw, by, settings) for value, name in models.items()}
    fields = fields_of(raw, ids)
    if by not in ids:
        fields.append(raw.schema.field(by).remove_metadata())
    columns = (*[field.name for field in fields], *OWN_COLUMNS)
    n_rows = sum(counts.values()) + n_missing
    written = ""
    if not dry_run:
        progress.stage("assigning", n_rows)
        with atomic_file(target) as stream, writer_of(stream, fields) as writer:
            for batch in _labelled(raw, by, groups, fields, writer.schema, settings, progress):
                writer.write_batch(batch)
        written = os.fspath(target)
    found = tuple(group.outcome(counts[value]) for value, group in sorted(groups.items()))
    n_dropped = sum(group.n_dropped for group in found)
    warnings = tuple(f"group {value}: {text}" for value, group in sorted(groups.items()) for text in group.warnings)
    if unknown or n_missing:
        warnings += (f"{_no_model(by, unknown, n_missing)}; their labels are null",)
    n_outliers = sum(group.n_outliers for group in found)
    return AssignedGroups(
        by, written, n_rows - n_dropped, n_dropped, n_outliers, unknown, n_missing, found, columns, warnings
    )


class _Labeller:
    """A group's snapshot, and what it has labelled so far."""

    def __init__(self, value: str, model: str, snapshot: Snapshot, raw: Table, by: str, settings: Settings) -> None:
        from gpukm.preprocessing import PreparedSource

        trained = dict(snapshot.provenance).get("group", {}).get("column", by)
        if trained != by:
            raise ConfigError(
                f"model {model} was trained for a group of column {trained!r}, not of {by!r}; use --group-by {trained}"
            )
        self.value, self.model, self.snapshot, self.settings = value, model, snapshot, settings
        with _named(by, value):
            PreparedSource(raw, snapshot.fitted)  # refuses columns that are not those of the training
        self.far = thresholds(snapshot)
        self.counts = np.zeros(len(snapshot.centroids), np.int64)
        self.n_dropped = self.n_outliers = 0
        self._unseen: Counter[str] = Counter()

    @property
    def columns(self) -> list[str]:
        """What the model reads."""
        return [column.name for column in self.snapshot.fitted.columns]

    def label(self, rows: pa.Table) -> tuple[np.ndarray, ...]:
        """Which rows are kept, and their labels, squared distances to two centroids, and whether they are outliers."""
        from gpukm.functional import assign_batches
        from gpukm.preprocessing import PreparedSource
        from gpukm.sources.table import MemoryTable

        prepared = PreparedSource(MemoryTable(rows), self.snapshot.fitted)
        batches = list(
            assign_batches(
                prepared,
                self.snapshot.centroids,
                metric=self.snapshot.metric,
                backend=self.settings.backend,
                device=self.settings.device,
                threads=self.settings.threads,
                batch_rows=max(rows.num_rows, 1),
            )
        )
        kept = np.concatenate([batch.row_numbers for batch, *_ in batches])
        labels, nearest, second = (np.concatenate([found[i] for found in batches]) for i in (1, 2, 3))
        outlier = np.sqrt(nearest) > self.far[labels]
        self._unseen += prepared.unknown
        self.counts += np.bincount(labels, minlength=len(self.counts))
        self.n_outliers += int(outlier.sum())
        self.n_dropped += rows.num_rows - len(kept)
        return kept, labels, nearest, second, outlier

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was doubtful in the group's rows."""
        return tuple(
            f"{count} rows have a category in column {name!r} that training has not seen; they count as none of them"
            for name, count in sorted(self._unseen.items())
        )

    def outcome(self, n_rows: int) -> AssignedGroup:
        """The sum of it."""
        return AssignedGroup(
            self.value,
            self.model,
            self.snapshot.number,
            self.snapshot.id,
            n_rows,
            self.n_dropped,
            self.n_outliers,
            tuple(self.counts.tolist()),
        )


def _codes(batch: pa.RecordBatch, by: str, type_: pa.DataType) -> tuple[list[str], np.ndarray]:
    """The groups in a batch as text, and the place of each row's among them, -1 for none."""
    from gpukm.pipeline.groups import texts

    encoded = batch.column(by).cast(type_).dictionary_encode()
    return texts(encoded.dictionary), encoded.indices.fill_null(-1).to_numpy()


def _count(raw: Table, by: str, progress: Progress) -> tuple[dict[str, int], int]:
    """Rows of each group, and of none."""
    from gpukm.pipeline.groups import group_type

    type_ = group_type(raw, by)
    counts: Counter[str] = Counter()
    n_missing = 0
    progress.stage("reading groups", raw.n_rows)
    for _, batch in raw.record_batches([by], _READ_ROWS):
        values, codes = _codes(batch, by, type_)
        n_missing += int(np.count_nonzero(codes < 0))
        counts.update(dict(zip(values, np.bincount(codes[codes >= 0], minlength=len(values)).tolist(), strict=True)))
        progress.seen(batch.num_rows)
    return dict(counts), n_missing


def _models(store: Store, model: str, values: Iterable[str]) -> dict[str, str]:
    """The models of groups, of those that have one."""
    from gpukm.pipeline.groups import group_model

    there = set(store.models())
    found = {}
    for value in values:
        with suppress(ConfigError):  # a name too long for a model is that of none
            if group_model(model, value) in there:
                found[value] = group_model(model, value)
    return found


def _check_known(
    source: str, by: str, model: str, models: dict[str, str], unknown: dict[str, int], n_missing: int, do: str
) -> None:
    """Raise DataError where rows have no model, unless their labels may be null; and where none has one."""
    if unknown and not models:
        raise DataError(
            f"{source}: no group of {by!r} has a model {model}.VALUE (its groups are {some(sorted(unknown))}); "
            "name the models' first part with --model, or train them with gpukm train --group-by"
        )
    if (unknown or n_missing) and do == "error":
        raise DataError(
            f"{source}: {_no_model(by, unknown, n_missing)}; train them, or leave their labels null with "
            "--unknown-groups null"
        )


def _no_model(by: str, unknown: dict[str, int], n_missing: int) -> str:
    """Which groups have no model, and how many rows have no group."""
    said = []
    if unknown:
        groups = some([f"{value} ({count} rows)" for value, count in unknown.items()])
        said.append(f"{len(unknown)} groups of {by!r} have no model: {groups}")
    if n_missing:
        said.append(f"{n_missing} rows have no value in the group column {by!r}")
    return ", and ".join(said)


def _labelled(
    raw: Table,
    by: str,
    groups: dict[str, _Labeller],
    fields: Sequence[pa.Field],
    schema: pa.Schema,
    settings: Settings,
    progress: Progress,
) -> Iterator[pa.RecordBatch]:
    """Batches of the output."""
    import pyarrow as pa

    from gpukm.pipeline.groups import group_type

    type_ = group_type(raw, by)
    ids = [field.name for field in fields if field.name in raw.schema.names]
    wanted = {by, *settings.id_column, *(name for group in groups.values() for name in group.columns)}
    names = [name for name in raw.schema.names if name in wanted]
    for first, batch in raw.record_batches(names, settings.batch_rows or _READ_ROWS):
        n = batch.num_rows
        values, codes = _codes(batch, by, type_)
        labels, outlier = np.zeros(n, np.int32), np.zeros(n, bool)
        nearest, second = np.zeros(n), np.zeros(n)
        known, dropped = np.zeros(n, bool), np.zeros(n, bool)
        for code, value in enumerate(values):
            if value not in groups:
                continue
            rows = np.flatnonzero(codes == code)
            part = pa.Table.from_batches([batch.take(pa.array(rows))])
            with _named(by, value, f", rows {first} to {first + n - 1} of the input, counted within the group"):
                kept, *found = groups[value].label(part)
            dropped[rows] = True
            rows = rows[kept]
            dropped[rows], known[rows] = False, True
            for whole, piece in zip((labels, nearest, second, outlier), found, strict=True):
                whole[rows] = piece
        columns = [
            batch.column(name) if name in ids else pa.array(np.arange(first, first + n))
            for name in (field.name for field in fields)
        ]
        made = output(schema, columns, labels, nearest, second, outlier, ~known)
        yield made.filter(pa.array(~dropped)) if dropped.any() else made
        progress.seen(n)


@contextmanager
def _named(by: str, value: str, where: str = "") -> Iterator[None]:
    """Say in an error which group it is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{by} {value!r}{where}: {error}") from None
