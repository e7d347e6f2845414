"""``gpukm assign``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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
    Ref,
    Store,
    Threads,
    TlsCa,
    TlsCert,
    TlsKey,
    Verbose,
    Where,
    given,
)
from gpukm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpukm.config import Settings
    from gpukm.pipeline import AssignedGroups, AssignOutcome


def assign(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Data to label: a file, a folder, a glob or a URL.")],
    to: Annotated[str, typer.Option("--out", "-o", metavar="PATH", help="Parquet file to write.")],
    model: Model = None,
    snapshot: Ref = "latest",
    store: Store = None,
    id_column: Annotated[
        list[str] | None, typer.Option("--id-column", metavar="NAMES", help="Columns to copy to the output: a,b.")
    ] = None,
    where: Where = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by",
            metavar="COLUMN",
            help="Label each row by the model of its value in this column, MODEL.VALUE, as train --group-by made them.",
        ),
    ] = None,
    unknown_groups: Annotated[
        str,
        typer.Option("--unknown-groups", metavar="DO", help="Rows whose group has no model: error, or null labels."),
    ] = "error",
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, stop.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Label every row with its cluster, by a snapshot.

    Writes Parquet in input order: the id columns (or the row number), label, distance to the centroid, distance to
    the second nearest one, and whether the row is an outlier: farther out than 99 % of the cluster it was trained on.
    With --group-by every row is labelled by the model of its group, and the group column is copied too. With --cluster
    a folder of parts is written, which read in the order of their names are the same rows.
    """
    with output("assign", as_json, verbose) as out:
        from gpukm.config import load

        loaded = load(given(ctx), file=config)
        for warning in loaded.warnings:
            out.warn(warning)
        settings = loaded.settings
        if group_by is not None:
            if settings.cluster is not None:
                raise ConfigError("--group-by works in one process; leave --cluster out")
            _assign_groups(out, settings, source, to, group_by, snapshot, unknown_groups, where or (), dry_run, log)
            return
        if unknown_groups != "error":
            raise ConfigError("--unknown-groups is about groups; give --group-by COLUMN too")
        from gpukm.pipeline import assign as run
        from gpukm.pipeline.cluster import open_executor
        from gpukm.pipeline.inputs import the_model
        from gpukm.pipeline.logged import logged
        from gpukm.snapshots import Store as Snapshots

        opened = Snapshots.open(settings.store)
        found = opened.load(the_model(opened, settings.model, source), snapshot)
        workers = open_executor(settings, [source], out.note, out.warn, profile)
        with workers as executor, logged(out.progress(), log) as progress:
            try:
                done = run(
                    found,
                    source,
                    to,
                    settings,
                    where=where or (),
                    progress=progress,
                    dry_run=dry_run,
                    executor=executor,
                )
            finally:
                progress.close()
        _warn(out, done)
        data = {
            "dry_run": dry_run,
            "model": found.model,
            "number": found.number,
            "id": found.id,
            "out": done.out or None,
            "columns": done.columns,
            "n_rows": done.n_rows,
            "n_dropped": done.n_dropped,
            "n_outliers": done.n_outliers,
            "counts": done.counts,
        }
        name = f"{found.model} #{found.number}"
        if dry_run:
            rows = "all rows" if done.n_rows is None else f"{done.n_rows:,} rows"
            out.result(data, f"would label {rows} with {name} into {to}; nothing was written")
            return
        out.result(data, lambda: _render(done, name))


def _warn(out: Output, done: AssignOutcome | AssignedGroups) -> None:
    """What those should know who get the file."""
    for warning in done.warnings:
        out.warn(warning)
    if done.n_rows == 0:
        out.warn("no row was labelled: the data, or what --where selects of it, is empty")
    if done.n_dropped:
        out.warn(f"{done.n_dropped} rows with missing values were left out, as in training (null policy drop)")


def _assign_groups(
    out: Output,
    settings: Settings,
    source: str,
    to: str,
    by: str,
    ref: str,
    unknown_groups: str,
    where: Sequence[str],
    dry_run: bool,
    log: str | None,
) -> None:
    """Label by the models of groups and list these."""
    from gpukm.pipeline import assign_groups
    from gpukm.pipeline.logged import logged
    from gpukm.snapshots import Store as Snapshots

    with logged(out.progress(), log) as progress:
        try:
            done = assign_groups(
                Snapshots.open(settings.store),
                source,
                to,
                by,
                settings,
                ref=ref,
                unknown_groups=unknown_groups,
                where=where,
                progress=progress,
                dry_run=dry_run,
            )
        finally:
            progress.close()
    _warn(out, done)
    groups = [
        {"value": g.value, "model": g.model, "number": g.number, "id": g.id, "n_rows": g.n_rows}
        | ({} if dry_run else {"n_dropped": g.n_dropped, "n_outliers": g.n_outliers, "counts": g.counts})
        for g in done.groups
    ]
    data = {
        "dry_run": dry_run,
        "group_by": done.column,
        "out": done.out or None,
        "columns": done.columns,
        "n_rows": done.n_rows,
        "n_dropped": done.n_dropped,
        "n_outliers": done.n_outliers,
        "unknown": done.unknown,
        "n_missing": done.n_missing,
        "groups": groups,
    }
    if dry_run:
        n = done.n_rows - sum(done.unknown.values()) - done.n_missing
        out.result(data, f"would label {n:,} rows with {len(groups)} models into {to}; nothing was written")
        return
    out.result(data, lambda: _render_groups(done))


def _render_groups(done: AssignedGroups) -> str:
    """For people: a line for each group, then what was written."""
    lines = [
        (g.value, f"{g.model} #{g.number}", f"{g.n_rows:,}", f"{g.n_outliers:,}", str(sum(c > 0 for c in g.counts)))
        for g in done.groups
    ]
    lines += [(value, "no model", f"{n:,}", "", "") for value, n in done.unknown.items()]
    shown = table(lines, (done.column.upper(), "SNAPSHOT", "ROWS", "OUTLIERS", "CLUSTERS"))
    return f"{shown}\n\n{done.n_rows:,} rows written to {done.out}"


def _render(done: AssignOutcome, name: str) -> str:
    """For people: what was written, then rows per cluster."""
    n_rows = done.n_rows or 0
    facts = [
        ("snapshot", name),
        ("out", done.out),
        ("rows", f"{n_rows:,}" + (f" ({done.n_dropped:,} dropped)" if done.n_dropped else "")),
        ("outliers", f"{done.n_outliers:,}" + (f" ({done.n_outliers / n_rows:.2%})" if n_rows else "")),
    ]
    largest = sorted(range(len(done.counts)), key=lambda c: -done.counts[c])[:20]
    sizes = [(str(c), f"{done.counts[c]:,}", f"{done.counts[c] / max(n_rows, 1):.1%}") for c in largest]
    more = f"\n... and {len(done.counts) - 20} more clusters" if len(done.counts) > 20 else ""
    return f"{table(facts)}\n\n{table(sizes, ('CLUSTER', 'ROWS', 'SHARE'))}{more}"
