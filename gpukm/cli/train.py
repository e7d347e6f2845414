"""``gpukm train``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpukm.cli._io import Output, output, table
from gpukm.cli._options import (
    Backend,
    BatchRows,
    Cluster,
    ClusterWait,
    ConfigFile,
    Device,
    DeviceMemory,
    Json,
    Log,
    MemoryLimit,
    Model,
    Profile,
    Store,
    Threads,
    TlsCa,
    TlsCert,
    TlsKey,
    Verbose,
    given,
)

if TYPE_CHECKING:
    from gpukm.config import Settings
    from gpukm.core.result import FitResult
    from gpukm.pipeline import GroupedOutcome, TrainOutcome
    from gpukm.pipeline.grouped import GroupOutcome
    from gpukm.snapshots import Snapshot

Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="Parquet, Arrow, CSV or .npy: a file, a folder, a glob or a URL.")
]
Clusters = Annotated[str | None, typer.Option("-k", "--n-clusters", metavar="N", help="Number of clusters.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--columns", metavar="NAMES", help="Columns to cluster: a,b,c (default: all numeric)."),
]
Exclude = Annotated[list[str] | None, typer.Option("--exclude", metavar="NAMES", help="Columns to leave out.")]
IdColumn = Annotated[
    list[str] | None, typer.Option("--id-column", metavar="NAMES", help="Columns that identify a row: not clustered.")
]
WeightColumn = Annotated[str | None, typer.Option("--weight-column", metavar="NAME", help="Column of sample weights.")]
NullPolicy = Annotated[
    str | None,
    typer.Option("--null-policy", metavar="POLICY", help="Missing values: error, drop or mean (default: error)."),
]
OneHot = Annotated[
    list[str] | None, typer.Option("--one-hot", metavar="NAMES", help="Columns of categories to expand.")
]
Step = Annotated[
    list[str] | None,
    typer.Option(
        "--step",
        metavar="STEP",
        help="Preprocessing step, repeatable, in order: log1p, clip:lower=L,upper=U, standardize, minmax, robust, l2, "
        "pca:n_components=N; columns may follow, such as log1p:delay,distance.",
    ),
]
Dtype = Annotated[str | None, typer.Option("--dtype", metavar="TYPE", help="auto, float32 or float64 (default: auto).")]
Algorithm = Annotated[
    str | None,
    typer.Option("--algorithm", metavar="NAME", help="lloyd, or minibatch for huge data (default: lloyd)."),
]
BatchSize = Annotated[
    str | None,
    typer.Option("--batch-size", metavar="N", help="minibatch: rows of the first batch (default: 64 a cluster)."),
]
MaxExcess = Annotated[
    str | None,
    typer.Option(
        "--max-excess", metavar="X", help="minibatch: stop at an inertia estimated so much too high (default: 0.001)."
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        "--init", metavar="METHOD", help="auto, pooled, k-means++, random; minibatch: breathing (default: auto)."
    ),
]
NInit = Annotated[
    str | None, typer.Option("--n-init", metavar="N", help="Starts to make; the best wins (default: auto).")
]
MaxIter = Annotated[str | None, typer.Option("--max-iter", metavar="N", help="Iterations at most (default: 300).")]
Tol = Annotated[
    str | None,
    typer.Option("--tol", metavar="X", help="Stop when centroids move less; 0 for none at all (default: 0.0001)."),
]
Seed = Annotated[str | None, typer.Option("--seed", metavar="N", help="Seed of all random draws (default: 0).")]
Metric = Annotated[
    str | None, typer.Option("--metric", metavar="NAME", help="euclidean or cosine (default: euclidean).")
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="exact; on a GPU also fast, tf32 or ieee: iterations do not certify labels, the result does "
        "(default: exact).",
    ),
]

Quality = Annotated[
    str | None,
    typer.Option(
        "--quality",
        metavar="NAME",
        help="standard, or best: swap centroids after the fit, for a lower inertia at several times the cost "
        "(default: standard).",
    ),
]


def train(
    ctx: typer.Context,
    source: Source,
    n_clusters: Clusters = None,
    model: Model = None,
    store: Store = None,
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
    tol: Tol = None,
    seed: Seed = None,
    metric: Metric = None,
    precision: Precision = None,
    quality: Quality = None,
    backend: Backend = None,
    device: Device = None,
    device_memory: DeviceMemory = None,
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
    batch_rows: BatchRows = None,
    cluster: Cluster = None,
    cluster_wait: ClusterWait = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    profile: Profile = None,
    log: Log = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="URL", help="Save the state of the fit in this folder or URL.")
    ] = None,
    checkpoint_seconds: Annotated[
        str | None,
        typer.Option("--checkpoint-seconds", metavar="SECONDS", help="Save it so often at most (default: 10)."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint, if there is one.")
    ] = False,
    report: Annotated[
        str | None, typer.Option("--report", metavar="PATH", help="Write a report: .html, .md or .json.")
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by",
            metavar="COLUMN",
            help="Train one model for each value of this column, MODEL.VALUE; the rows must fit in memory.",
        ),
    ] = None,
    small_groups: Annotated[
        str,
        typer.Option("--small-groups", metavar="DO", help="Groups of fewer rows than clusters: error or skip."),
    ] = "error",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, stop.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Cluster a data file and publish the result as a snapshot.

    The same data and settings give the same snapshot id on any machine. Settings come from flags, then GPUKM_*
    variables, then gpukm.toml, then defaults; see: gpukm config show.

    With --group-by everything is per group, preprocessing included: each model is the one that training on the rows of
    its group alone gives. What a model's name cannot hold stands in it as _ and hexadecimal digits.
    """
    with output("train", as_json, verbose) as out:
        from gpukm.cli._report import check_target, write_report
        from gpukm.config import load

        loaded = load(given(ctx), file=config)
        for warning in loaded.warnings:
            out.warn(warning)
        settings = loaded.settings
        target = check_target(report)
        if group_by is not None:
            _refuse_with_groups(resume, report, settings.cluster)
            _train_groups(out, settings, source, group_by, small_groups, dry_run, log)
            return
        from gpukm.pipeline import train as run
        from gpukm.snapshots import Store as Snapshots

        if resume and settings.checkpoint is not None:
            _say_if_absent(out, settings.checkpoint)
        from gpukm.pipeline.cluster import open_executor
        from gpukm.pipeline.logged import logged

        workers = open_executor(settings, [source], out.note, out.warn, profile)
        with workers as executor, logged(out.progress(), log) as progress:
            try:
                done = run(settings, source, resume=resume, dry_run=dry_run, progress=progress, executor=executor)
            finally:
                progress.close()
        for warning in done.warnings:
            out.warn(warning)
        if done.ref is None:
            out.result({"dry_run": True, "model": done.model, "store": done.store, "plan": done.plan.to_json()}, (
                f"would train model {done.model} in {done.store}; nothing was written (see: gpukm plan)"
            ))  # fmt: skip
            return
        snapshot = Snapshots.open(settings.store).load(done.model, done.ref.number)
        if target is not None:
            write_report(snapshot, target)
            out.note(f"report: {target}")
        out.detail("seconds: " + ", ".join(f"{name} {value}" for name, value in done.seconds.items()))
        assert done.result is not None
        out.detail(done.result.labelling)
        if done.result.work is not None:
            out.detail(done.result.effort_there)
        out.result(_data(done, report), lambda: _render(done, snapshot))


def _refuse_with_groups(resume: bool, report: str | None, cluster: str | None) -> None:
    """Options that are about one fit."""
    from gpukm.errors import ConfigError

    if cluster is not None:
        raise ConfigError("--group-by works in one process; leave --cluster out")
    if resume:
        raise ConfigError("--resume goes on with one fit; leave it out with --group-by")
    if report is not None:
        raise ConfigError("--report shows one snapshot; train without it, then: gpukm report MODEL --out PATH")


def _train_groups(
    out: Output, settings: Settings, source: str, group_by: str, small_groups: str, dry_run: bool, log: str | None
) -> None:
    """Train a model a group and list them."""
    from gpukm.pipeline import train_groups
    from gpukm.pipeline.logged import logged

    with logged(out.progress(), log) as progress:
        try:
            done = train_groups(
                settings, source, group_by, small_groups=small_groups, dry_run=dry_run, progress=progress
            )
        finally:
            progress.close()
    for warning in done.warnings:
        out.warn(warning)
    groups = [_group_data(group) for group in done.groups]
    data = {
        "dry_run": dry_run,
        "group_by": done.column,
        "model": done.model,
        "store": done.store,
        "groups": groups,
        "seconds": done.seconds,
    }
    out.detail("seconds: " + ", ".join(f"{name} {value}" for name, value in done.seconds.items()))
    out.result(data, lambda: _render_groups(done, dry_run))


def _group_data(group: GroupOutcome) -> dict[str, Any]:
    """What the JSON object holds of a group."""
    found = {"value": group.value, "model": group.model, "n_rows": group.n_rows, "skipped": group.skipped or None}
    done = group.outcome
    if done is None or done.ref is None or done.result is None:
        return found
    return {
        **found,
        "number": done.ref.number,
        "id": done.ref.id,
        "inertia": done.result.inertia,
        "n_iter": done.result.n_iter,
        "stop": done.result.stop.name.lower(),
        "counts": done.result.counts,
        "backend": done.result.backend,
    }


def _render_groups(done: GroupedOutcome, dry_run: bool) -> str:
    """For people: a line a group."""
    lines = []
    for group in done.groups:
        made = group.outcome
        if made is None or made.ref is None or made.result is None:
            lines.append((group.value, group.model, f"{group.n_rows:,}", "", "", group.skipped or "would be trained"))
            continue
        facts = (f"{made.result.inertia:.6g}", str(made.result.n_iter), f"#{made.ref.number}  {made.ref.id[:12]}")
        lines.append((group.value, group.model, f"{group.n_rows:,}", *facts))
    found = table(lines, (done.column.upper(), "MODEL", "ROWS", "INERTIA", "ITERATIONS", "SNAPSHOT"))
    trained = sum(not group.skipped for group in done.groups)
    verb = "would be trained; nothing was written" if dry_run else "trained"
    return f"{found}\n\n{trained} models {verb} in {done.store}"


def _gain(result: FitResult) -> str:
    """What swaps gained, where any were made."""
    before = result.inertia_before_swaps
    return f" ({1 - result.inertia / before:.3%} lower by swaps)" if before else ""


def _say_if_absent(out: Output, checkpoint: str) -> None:
    """A wrong path would start over silently."""
    from gpukm.pipeline.checkpoints import Checkpoints

    if not Checkpoints.open(checkpoint).exist():
        out.warn(f"there is no checkpoint {checkpoint} yet; starting from the beginning")


def _data(done: TrainOutcome, report: str | None) -> dict[str, Any]:
    """What the JSON object holds."""
    assert done.ref is not None and done.result is not None and done.reading is not None
    return {
        "dry_run": False,
        "model": done.model,
        "store": done.store,
        "number": done.ref.number,
        "id": done.ref.id,
        "data": done.reading.data_fields(),
        "inertia": done.result.inertia,
        "inertia_before_swaps": done.result.inertia_before_swaps,
        "n_iter": done.result.n_iter,
        "stop": done.result.stop.name.lower(),
        "counts": done.result.counts,
        "backend": done.result.backend,
        "resumed_from_iteration": done.resumed_from,
        "report": report,
        "seconds": done.seconds,
    }


def _render(done: TrainOutcome, snapshot: Snapshot) -> str:
    """For people: what came out, then the report."""
    from gpukm.cli._report import terminal

    assert done.ref is not None and done.result is not None and done.reading is not None
    result, reading = done.result, done.reading
    dropped = reading.n_rows - reading.n_samples
    facts = [
        ("snapshot", f"{done.model} #{done.ref.number}  {done.ref.id}"),
        ("store", done.store),
        ("rows", f"{reading.n_samples:,}" + (f" ({dropped:,} dropped)" if dropped else "")),
        ("inertia", f"{result.inertia:.6g}{_gain(result)} after {result.n_iter} iterations: {result.stop.value}"),
        ("backend", result.backend),
    ]
    if result.settings.get("precision", "exact") != "exact":
        facts.append(("precision", f"{result.settings['precision']}: labels of iterations were not certified"))
    if done.resumed_from:
        facts.append(("resumed", f"from iteration {done.resumed_from}"))
    return f"{table(facts)}\n\n{terminal(snapshot)}"
