"""From a data file to a published snapshot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gpukm.backends import select
from gpukm.config import SEMANTIC, Settings
from gpukm.errors import ConfigError, DataError, SnapshotNotFoundError
from gpukm.executors.local import LocalExecutor
from gpukm.pipeline.checkpoints import Checkpoints
from gpukm.pipeline.content import content_of, provenance_of
from gpukm.pipeline.fitting import fit_with_checkpoints
from gpukm.pipeline.inputs import model_name, open_input, preprocessing_of
from gpukm.pipeline.minibatch import fit_minibatch
from gpukm.pipeline.progress import Progress, Watched
from gpukm.pipeline.reading import Reading, read
from gpukm.pipeline.spread import HERE, Spread
from gpukm.plan import TrainPlan, human_bytes, plan

if TYPE_CHECKING:
    from gpukm.backends import Selection
    from gpukm.core.result import FitResult
    from gpukm.executors import Executor
    from gpukm.preprocessing import PreparedSource, Preprocessing
    from gpukm.snapshots import SnapshotContent, SnapshotRef, Store
    from gpukm.sources.base import Source
    from gpukm.sources.table import Table

    #: Publishes as :meth:`gpukm.snapshots.Store.publish` does: ``publisher(store, model, content, provenance)``.
    Publisher = Callable[[Store, str, SnapshotContent, Mapping[str, Any]], SnapshotRef]


@dataclass(frozen=True)
class TrainOutcome:
    """What a training run made; in a dry run only the plan.

    Attributes
    ----------
    model, store : str
    plan : TrainPlan
    ref : SnapshotRef or None
        The published snapshot.
    result : FitResult or None
    reading : Reading or None
        What the data was.
    resumed_from : int
        Iteration at which an earlier run had stopped; 0 when this one began at the beginning.
    warnings : tuple of str
    seconds : dict of str to float
        Wall time by stage.
    """

    model: str
    store: str
    plan: TrainPlan
    ref: SnapshotRef | None = None
    result: FitResult | None = None
    reading: Reading | None = None
    resumed_from: int = 0
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


def train(
    settings: Settings,
    source: str,
    *,
    resume: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
    n_ranges: int | None = None,
    checkpoints: Checkpoints | None = None,
    publisher: Publisher | None = None,
) -> TrainOutcome:
    """Cluster a data file and publish the result as the next snapshot of a model.

    Everything that can be checked without reading the data is checked first. Nothing but the checkpoint is written
    before the snapshot is published.

    Parameters
    ----------
    settings : Settings
        ``n_clusters`` must be set.
    source : str
        File, folder, glob or URL.
    resume : bool
        Go on from the newest checkpoint if there is one; the result has the bits of an undisturbed run.
    dry_run : bool
        Stop after the checks.
    progress : Progress or None
    executor : Executor or None
        Where the data is read and worked on; None: here.
    n_ranges : int or None
        Ranges to cut the data into; None chooses by its size, one where it is worked on here. Changes no bit.
    checkpoints : Checkpoints or None
        Where to save the state of the fit; None takes ``settings.checkpoint``.
    publisher : callable or None
        Puts the snapshot into the store; None: :meth:`gpukm.snapshots.Store.publish`.

    Raises
    ------
    ConfigError, DataError, BackendUnavailableError
    SnapshotCorruptError
        The store or the checkpoint is damaged.
    """
    from gpukm.snapshots import Store
    from gpukm.sources.prefetch import Prefetch

    progress, clock = progress or Progress(), Clock()
    if settings.n_clusters is None:
        raise ConfigError("the number of clusters is missing; give it with -k N")
    model = settings.model or model_name(source)
    store = Store.open(settings.store, create=True)
    with suppress(SnapshotNotFoundError):
        store.find(model)
    if checkpoints is None and settings.checkpoint is not None:
        checkpoints = Checkpoints.open(settings.checkpoint)
    _check_checkpoints(checkpoints, resume)
    elsewhere = not (executor is None or isinstance(executor, LocalExecutor))
    if elsewhere:
        if settings.algorithm == "minibatch":
            raise ConfigError("algorithm 'minibatch' works in one process; leave --cluster out, or set 'lloyd'")
        # Plans alone are made here.
        selection = select(device="cpu")
    else:
        asked = settings.backend, settings.device, settings.threads, settings.device_memory, settings.precision
        selection = select(*asked)
    raw = open_input(source)
    preprocessing = preprocessing_of(raw, settings)
    planned = plan(raw, settings, preprocessing, source, backend=selection.backend)
    if planned.n_rows is not None and planned.n_rows < settings.n_clusters:
        raise DataError(
            f"{source} has {planned.n_rows} rows, fewer than the {settings.n_clusters} clusters asked for; lower -k"
        )
    if dry_run:
        return TrainOutcome(model, store.location, planned)
    ready = prepare(raw, source, preprocessing, settings, clock, progress, spread=Spread.of(raw, executor, n_ranges))
    if ready.reading.n_samples < settings.n_clusters:
        raise DataError(
            f"{source} has {ready.reading.n_samples} rows to cluster, fewer than the {settings.n_clusters} clusters "
            "asked for; lower -k"
        )
    doubts: tuple[str, ...] = ()
    rows: Source = ready.prepared
    if not elsewhere:
        rows = ready.reading.held.packed() if ready.reading.held else Watched(Prefetch(ready.prepared), progress)
    with clock.stage("fit", progress, "seeding"):
        if settings.algorithm == "minibatch":
            result, resumed_from = fit_minibatch(rows, settings, ready.reading, ready.planned, progress), 0
        else:
            result, resumed_from, doubts = fit_with_checkpoints(
                rows,
                settings,
                semantic_settings(settings),
                ready.reading,
                ready.planned,
                checkpoints=checkpoints,
                resume=resume,
                progress=progress,
                executor=executor if elsewhere else None,
            )
    outcome = publish(
        store,
        model,
        ready,
        result,
        settings,
        selection,
        clock,
        progress,
        resumed_from=resumed_from,
        publisher=publisher,
    )
    progress.close()
    if checkpoints is not None:
        checkpoints.clear()
    return replace(outcome, warnings=(*outcome.warnings, *doubts))


@dataclass(frozen=True)
class Ready:
    """Data read once and ready to be clustered.

    Attributes
    ----------
    source : str
        How the data is called.
    prepared : PreparedSource
    planned : TrainPlan
    reading : Reading
    spread : Spread
        Where they are read again.
    """

    source: str
    prepared: PreparedSource
    planned: TrainPlan
    reading: Reading
    spread: Spread = HERE


def prepare(
    raw: Source | Table,
    source: str,
    preprocessing: Preprocessing,
    settings: Settings,
    clock: Clock,
    progress: Progress,
    *,
    hold: bool = False,
    spread: Spread = HERE,
) -> Ready:
    """Fit the preprocessing and read the prepared rows once; ``hold`` keeps them in memory whatever the limit.

    What is worked on elsewhere is read there, and held by nobody here.

    Raises
    ------
    DataError
        Something in the data cannot be clustered.
    """
    from gpukm.preprocessing import PreparedSource, fit
    from gpukm.sources.prefetch import Prefetch

    batch_rows = plan(raw, settings, preprocessing, source).batch_rows
    with clock.stage("preprocess", progress, "fitting the preprocessing"):
        fitted = fit(
            raw,
            preprocessing,
            weight_column=settings.weight_column,
            batch_rows=batch_rows,
            executor=spread.executor,
            ranges=spread.ranges,
        )
    prepared = PreparedSource(raw, fitted, weight_column=settings.weight_column)
    planned = plan(raw, settings, preprocessing, source, n_features=prepared.n_features)
    with clock.stage("read", progress, "reading", raw.n_rows):
        hold_rows = (raw.n_rows or 0) if hold else planned.hold_rows
        reading = read(Prefetch(prepared), planned.batch_rows, hold_rows, progress, spread)
    return Ready(source, prepared, planned, reading, spread)


def publish(
    store: Store,
    model: str,
    ready: Ready,
    result: FitResult,
    settings: Settings,
    selection: Selection,
    clock: Clock,
    progress: Progress,
    *,
    resumed_from: int = 0,
    more: Mapping[str, Any] | None = None,
    publisher: Publisher | None = None,
) -> TrainOutcome:
    """Describe the clusters and publish the fit as the next snapshot of a model; ``more`` joins its provenance."""
    from gpukm.snapshots import Store
    from gpukm.sources.prefetch import Prefetch

    reading, fitted = ready.reading, ready.prepared.fitted
    whole: Source = reading.held or Prefetch(ready.prepared)
    with clock.stage("summarize", progress, "summarizing", reading.n_rows):
        content = content_of(
            whole,
            result,
            fitted,
            reading,
            settings,
            ready.planned.batch_rows,
            progress,
            ready.spread if reading.held is None else HERE,
        )
    planned = replace(ready.planned, resident=reading.held is not None)
    provenance = provenance_of(ready.source, result, planned, settings, selection, clock.seconds, resumed_from)
    with clock.stage("publish", progress, "publishing"):
        ref = (publisher or Store.publish)(store, model, content, {**provenance, **(more or {})})
    facts = {"model": model, "number": ref.number, "id": ref.id, "inertia": result.inertia, "n_iter": result.n_iter}
    progress.record("published", **facts, seconds=dict(clock.seconds), cluster=result.work)
    warnings = (*_tight(planned, settings), *fitted.warnings, *result.warnings)
    return TrainOutcome(
        model, store.location, planned, ref, result, reading, resumed_from, warnings, dict(clock.seconds)
    )


def semantic_settings(settings: Settings) -> dict[str, Any]:
    """Every setting that decides the result, as JSON types."""
    return settings.model_dump(mode="json", include=set(SEMANTIC) - {"id_column"})


def _check_checkpoints(checkpoints: Checkpoints | None, resume: bool) -> None:
    """Refuse what would lose a checkpoint or could not write one."""
    if checkpoints is None:
        if resume:
            raise ConfigError("--resume needs to know from where; give --checkpoint PATH")
        return
    checkpoints.check()
    if not resume and checkpoints.exist():
        raise ConfigError(
            f"the checkpoint {checkpoints.location} of an unfinished fit is there; add --resume to go on, or delete it "
            "to start over"
        )


def _tight(planned: TrainPlan, settings: Settings) -> list[str]:
    """A warning where the user's memory limit was below what the run takes."""
    if settings.memory_limit is None or planned.memory_bytes <= settings.memory_limit:
        return []
    return [
        f"the memory limit of {human_bytes(settings.memory_limit)} is below the {human_bytes(planned.memory_bytes)} "
        "expected, the program itself included; raise --memory-limit or lower --batch-rows"
    ]


class Clock:
    """Wall time by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, progress: Progress, title: str, total: int | None = None) -> Iterator[None]:
        """Time a block and announce it."""
        progress.stage(title, total)
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 3)
