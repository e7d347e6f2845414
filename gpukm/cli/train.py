"""``gpukm train``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpukm.cli._io import Output, output, table
from gpukm.cli._options import (
    Backend,
    BatchRows,
    ConfigFile,
    Device,
    Json,
    MemoryLimit,
    Model,
    Store,
    Threads,
    Verbose,
    given,
)

if TYPE_CHECKING:
    from gpukm.core.result import FitResult
    from gpukm.pipeline import TrainOutcome
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
Init = Annotated[
    str | None, typer.Option("--init", metavar="METHOD", help="auto, two-level, k-means++ or random (default: auto).")
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
Precision = Annotated[str | None, typer.Option("--precision", metavar="NAME", help="exact (default: exact).")]

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
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
    batch_rows: BatchRows = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="PATH", help="Save the state of the fit in this file.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint, if it is there.")] = False,
    report: Annotated[
        str | None, typer.Option("--report", metavar="PATH", help="Write a report: .html, .md or .json.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, stop.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Cluster a data file and publish the result as a snapshot.

    The same data and settings give the same snapshot id on any machine. Settings come from flags, then GPUKM_*
    variables, then gpukm.toml, then defaults; see: gpukm config show.
    """
    with output("train", as_json, verbose) as out:
        from gpukm.cli._report import check_target, write_report
        from gpukm.config import load

        loaded = load(given(ctx), file=config)
        for warning in loaded.warnings:
            out.warn(warning)
        settings = loaded.settings
        target = check_target(report)
        from gpukm.pipeline import train as run
        from gpukm.snapshots import Store as Snapshots

        if resume and settings.checkpoint is not None:
            _say_if_absent(out, settings.checkpoint)
        progress = out.progress()
        try:
            done = run(settings, source, resume=resume, dry_run=dry_run, progress=progress)
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
        out.result(_data(done, report), lambda: _render(done, snapshot))


def _gain(result: FitResult) -> str:
    """What swaps gained, where any were made."""
    before = result.inertia_before_swaps
    return f" ({1 - result.inertia / before:.3%} lower by swaps)" if before else ""


def _say_if_absent(out: Output, checkpoint: str) -> None:
    """A wrong path would start over silently."""
    from pathlib import Path

    if not Path(checkpoint).exists():
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
    if done.resumed_from:
        facts.append(("resumed", f"from iteration {done.resumed_from}"))
    return f"{table(facts)}\n\n{terminal(snapshot)}"
