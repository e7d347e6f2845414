"""``gpukm plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from gpukm.cli._io import output, table
from gpukm.cli._options import Backend, BatchRows, ConfigFile, Device, DeviceMemory, Json, MemoryLimit, given
from gpukm.cli.train import (
    Algorithm,
    BatchSize,
    Clusters,
    Columns,
    Dtype,
    Exclude,
    IdColumn,
    Init,
    MaxExcess,
    MaxIter,
    NInit,
    NullPolicy,
    OneHot,
    Precision,
    Quality,
    Source,
    Step,
    WeightColumn,
)

if TYPE_CHECKING:
    from gpukm.plan import TrainPlan


def plan(
    ctx: typer.Context,
    source: Source,
    n_clusters: Clusters = None,
    columns: Columns = None,
    exclude: Exclude = None,
    id_column: IdColumn = None,
    weight_column: WeightColumn = None,
    null_policy: NullPolicy = None,
    one_hot: OneHot = None,
    step: Step = None,
    dtype: Dtype = None,
    algorithm: Algorithm = None,
    batch_size: BatchSize = None,
    max_excess: MaxExcess = None,
    init: Init = None,
    n_init: NInit = None,
    max_iter: MaxIter = None,
    precision: Precision = None,
    quality: Quality = None,
    backend: Backend = None,
    device: Device = None,
    device_memory: DeviceMemory = None,
    memory_limit: MemoryLimit = None,
    batch_rows: BatchRows = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Say what training would take: memory, passes and work, from the file's metadata alone."""
    with output("plan", as_json) as out:
        from gpukm.config import load
        from gpukm.errors import ConfigError

        loaded = load(given(ctx), file=config)
        for warning in loaded.warnings:
            out.warn(warning)
        settings = loaded.settings
        if settings.n_clusters is None:
            raise ConfigError("the number of clusters is missing; give it with -k N")
        from gpukm.backends import select
        from gpukm.pipeline.inputs import open_input, preprocessing_of
        from gpukm.plan import plan as make

        raw = open_input(source)
        chosen = select(
            settings.backend, settings.device, settings.threads, settings.device_memory, settings.precision
        ).backend
        planned = make(raw, settings, preprocessing_of(raw, settings), source, backend=chosen)
        out.result(planned.to_json(), lambda: _render(planned))


def _render(planned: TrainPlan) -> str:
    """For people."""
    from gpukm.plan import describe, human_bytes

    rows = "unknown" if planned.n_rows is None else f"{planned.n_rows:,}"
    where = "held in memory" if planned.resident else "streamed from the file"
    facts = [
        ("source", planned.source),
        ("rows", rows),
        ("features", str(planned.n_features or "unknown")),
        ("clusters", str(planned.n_clusters)),
        ("algorithm", planned.algorithm),
        ("prepared", f"{human_bytes(planned.data_bytes)} of {planned.dtype}, {where}"),
        ("memory", f"{human_bytes(planned.memory_bytes)} of {human_bytes(planned.memory_limit_bytes)} allowed"),
        ("batches", f"{planned.batch_rows:,} rows"),
    ]
    if planned.follow_bytes:
        facts.append(("bounds", f"{human_bytes(planned.follow_bytes)} at most, for streamed rows"))
    if planned.device is not None:
        on = planned.device
        how = "all rows at once" if on.resident else f"{on.batch_rows:,} rows at a time, copied in every pass"
        taken = f"{human_bytes(on.memory_bytes)} of {human_bytes(on.room_bytes)} that may be taken, {how}"
        facts.append((on.device, taken))
        if on.locked_bytes:
            facts.append(("page-locked", f"{human_bytes(on.locked_bytes)} of the host's memory, for copies"))
    if planned.flop_per_iteration is not None:
        facts.append(("work", f"{planned.flop_per_iteration / 1e9:.3g} GFLOP an iteration at most"))
    notes = "".join(f"\nnote: {note}" for note in planned.notes)
    passes = table(describe(planned.passes), ("PASSES FOR", "COUNT", "OVER"))
    return f"{table(facts)}\n\n{passes}\nover the file: up to {planned.file_passes}{notes}"
