"""One model for each group of rows: all groups prepared, fitted side by side, and published one after another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gpukm.backends import select
from gpukm.config import Settings
from gpukm.errors import ConfigError, DataError
from gpukm.pipeline.inputs import model_name, open_input, preprocessing_of
from gpukm.pipeline.progress import Progress
from gpukm.pipeline.training import Clock, Ready, TrainOutcome, prepare, publish
from gpukm.plan import plan

if TYPE_CHECKING:
    from gpukm.core.result import FitResult
    from gpukm.pipeline.groups import Group

SMALL_GROUPS = ("error", "skip")


@dataclass(frozen=True)
class GroupOutcome:
    """What one group became.

    Attributes
    ----------
    value : str
        The group's value as text.
    model : str
    n_rows : int
    outcome : TrainOutcome or None
        None where the group was skipped, and in a dry run.
    skipped : str
        Why it was, or empty.
    """

    value: str
    model: str
    n_rows: int
    outcome: TrainOutcome | None = None
    skipped: str = ""


@dataclass(frozen=True)
class GroupedOutcome:
    """What training by groups made.

    Attributes
    ----------
    column, model, store : str
    groups : tuple of GroupOutcome
        In ascending order of the values.
    warnings : tuple of str
    seconds : dict of str to float
        Wall time by stage.
    """

    column: str
    model: str
    store: str
    groups: tuple[GroupOutcome, ...]
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


def train_groups(
    settings: Settings,
    source: str,
    by: str,
    *,
    small_groups: str = "error",
    dry_run: bool = False,
    progress: Progress | None = None,
) -> GroupedOutcome:
    """Cluster the rows of each value of a column by themselves, and publish a snapshot for each.

    Everything is per group, the preprocessing included: a group's snapshot has the id that training on its rows alone
    gives (with the group column left out). All groups are fitted before the first is published; a stop in between
    leaves those already published, each whole. The rows of all groups are held in memory.

    Parameters
    ----------
    settings : Settings
        ``n_clusters`` must be set; ``model`` is the first part of the models' names, see
        :func:`gpukm.pipeline.groups.group_model`.
    source : str
        A table: file, folder, glob or URL.
    by : str
        Column of text, whole numbers, booleans or dates. Rows without a value are an error, or left out by the null
        policy ``drop``.
    small_groups : {"error", "skip"}
        What to do about groups of fewer rows than clusters.
    dry_run : bool
        Stop after the checks, which read the columns.
    progress : Progress or None

    Raises
    ------
    ConfigError, DataError, BackendUnavailableError
    """
    from gpukm.pipeline.groups import group_model, split
    from gpukm.preprocessing.columns import resolve
    from gpukm.snapshots import Store
    from gpukm.sources.table import Table

    progress, clock = progress or Progress(), Clock()
    n_clusters = settings.n_clusters
    if n_clusters is None:
        raise ConfigError("the number of clusters is missing; give it with -k N")
    if small_groups not in SMALL_GROUPS:
        raise ConfigError(f"--small-groups is {small_groups!r}, expected one of {', '.join(SMALL_GROUPS)}")
    if settings.algorithm != "lloyd":
        raise ConfigError(
            f"--algorithm is {settings.algorithm}, and --group-by clusters with lloyd only; drop one of them"
        )
    if settings.quality != "standard":
        raise ConfigError(f"--quality is {settings.quality}, and --group-by makes standard fits only; drop one of them")
    if settings.precision != "exact":
        raise ConfigError(
            f"--precision is {settings.precision}, and --group-by makes exact fits only; drop one of them"
        )
    if settings.checkpoint is not None:
        raise ConfigError("--checkpoint saves the state of one fit; leave it out with --group-by")
    if by in (*settings.columns, *settings.one_hot, settings.weight_column):
        raise ConfigError(f"column {by!r} is the group column and cannot be clustered or weigh rows too")
    model = settings.model or model_name(source)
    store = Store.open(settings.store, create=True)
    selection = select(settings.backend, settings.device, settings.threads, settings.device_memory)
    raw = open_input(source)
    if not isinstance(raw, Table):
        raise ConfigError(f"--group-by needs named columns, and {source} has none; give a Parquet, Arrow or CSV file")
    own = settings.model_copy(update={"exclude": (*settings.exclude, *([] if by in settings.exclude else [by]))})
    preprocessing = preprocessing_of(raw, own)
    planned = plan(raw, own, preprocessing, source)
    names = [column.name for column in resolve(raw, preprocessing, settings.weight_column)]
    names += [settings.weight_column] if settings.weight_column is not None else []
    with clock.stage("group", progress, "reading", raw.n_rows):
        groups, n_missing = split(raw, by, names, planned.memory_limit_bytes)
    warnings = _missing(n_missing, by, settings)
    if not groups:
        raise DataError(f"{source} has no group: column {by!r} has no value; expected at least one")
    models = {group.value: group_model(model, group.value) for group in groups}
    outcomes = {
        group.value: GroupOutcome(group.value, models[group.value], len(group.rows), None, _too_few(group, n_clusters))
        for group in groups
    }
    _refuse_small(outcomes, small_groups, source, by)
    if dry_run:
        return GroupedOutcome(by, model, store.location, tuple(outcomes.values()), warnings)

    ready: dict[str, tuple[Ready, Clock]] = {}
    with clock.stage("prepare", progress, "preparing groups"):
        for group in groups:
            if outcomes[group.value].skipped:
                continue
            watch = Clock()
            with _named(by, group.value):
                found = prepare(group.table, source, preprocessing, own, watch, Progress(), hold=True)
            if found.reading.n_samples < n_clusters:
                why = f"{found.reading.n_samples} rows are left of {len(group.rows)}, fewer than {n_clusters} clusters"
                outcomes[group.value] = GroupOutcome(group.value, models[group.value], len(group.rows), None, why)
            else:
                ready[group.value] = found, watch
    _refuse_small(outcomes, small_groups, source, by)
    with clock.stage("fit", progress, f"fitting {len(ready)} groups"):
        results = _fit({value: found for value, (found, _) in ready.items()}, by, settings)
    progress.stage("publishing", len(ready), "groups")
    with clock.stage("publish", Progress(), ""):
        for value, (found, watch) in ready.items():
            more = {"group": {"column": by, "value": value}}
            with _named(by, value):
                done = publish(
                    store, models[value], found, results[value], settings, selection, watch, Progress(), more=more
                )
            outcomes[value] = GroupOutcome(value, models[value], outcomes[value].n_rows, done)
            warnings += tuple(f"group {value}: {text}" for text in done.warnings)
            progress.advance(1, models[value])
    progress.close()
    skipped = [value for value, outcome in outcomes.items() if outcome.skipped]
    if skipped:
        warnings += (f"{len(skipped)} groups with fewer rows than clusters were skipped: {_some(skipped)}",)
    return GroupedOutcome(by, model, store.location, tuple(outcomes.values()), warnings, dict(clock.seconds))


def _fit(ready: dict[str, Ready], by: str, settings: Settings) -> dict[str, FitResult]:
    """Fit all groups, those of the same features at once, each as if alone: all have the seed of the settings."""
    from gpukm.batched import kmeans_batched

    alike: dict[Any, list[str]] = {}
    for value, found in ready.items():
        held = found.reading.held
        assert held is not None
        weighted = held.packed().weights() is not None
        alike.setdefault((held.names, held.dtype.name, weighted), []).append(value)
    results: dict[str, FitResult] = {}
    for (names, _, weighted), values in alike.items():
        packed = [ready[value].reading.held.packed() for value in values]  # type: ignore[union-attr]
        fits = kmeans_batched(
            [rows.array() for rows in packed],
            settings.n_clusters or 1,
            sample_weight=[rows.weights() for rows in packed] if weighted else None,
            init=settings.init,
            n_init=settings.n_init,
            max_iter=settings.max_iter,
            tol=settings.tol,
            seed=np.full(len(values), settings.seed, np.uint64),
            metric=settings.metric,
            backend=settings.backend,
            device=settings.device,
            precision=settings.precision,
            threads=settings.threads,
            names=names,
            keys=[f"{by} {value!r}" for value in values],
        )
        results.update(zip(values, fits, strict=True))
    return results


def _missing(n: int, by: str, settings: Settings) -> tuple[str, ...]:
    """What rows without a group come to: an error, or a warning where the null policy drops them."""
    if n and settings.null_policy != "drop":
        raise DataError(f"{n} rows have no value in the group column {by!r}; fill it, or use --null-policy drop")
    return (f"{n} rows without a value in the group column {by!r} were left out (null policy drop)",) if n else ()


def _too_few(group: Group, n_clusters: int) -> str:
    """Why a group is too small, or nothing."""
    n = len(group.rows)
    return f"{n} rows, fewer than {n_clusters} clusters" if n < n_clusters else ""


def _refuse_small(outcomes: dict[str, GroupOutcome], small_groups: str, source: str, by: str) -> None:
    """Raise DataError for groups that are too small, unless they are to be skipped; for all of them in any case."""
    small = [outcome for outcome in outcomes.values() if outcome.skipped]
    if small and (small_groups == "error" or len(small) == len(outcomes)):
        shown = "; ".join(f"{outcome.value}: {outcome.skipped}" for outcome in small[:3])
        hint = "lower -k" if len(small) == len(outcomes) else "lower -k, or leave them out with --small-groups skip"
        raise DataError(
            f"{source}: {len(small)} of {len(outcomes)} groups of {by!r} are too small ({shown}"
            f"{'; ...' if len(small) > 3 else ''}); {hint}"
        )


def _some(values: list[str]) -> str:
    """The first few of them."""
    return ", ".join(values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


@contextmanager
def _named(by: str, value: str) -> Iterator[None]:
    """Say in an error which group it is about."""
    try:
        yield
    except (ConfigError, DataError) as error:
        # Errors of reading are of kinds that are not made of a text alone.
        kind = ConfigError if isinstance(error, ConfigError) else DataError
        raise kind(f"{by} {value!r}: {error}") from None
