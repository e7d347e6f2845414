"""``gpukm report``."""

from __future__ import annotations

from typing import Annotated

import typer

from gpukm.cli._io import output
from gpukm.cli._options import ConfigFile, Json, Ref, Store, given


def report(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Model name; the only one by default.")] = None,
    snapshot: Ref = "latest",
    store: Store = None,
    to: Annotated[
        str | None, typer.Option("--out", "-o", metavar="PATH", help="File to write: .html, .md or .json.")
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show the report of a snapshot: on the terminal, or as a file."""
    with output("report", as_json) as out:
        from gpukm.cli._report import as_data, check_target, terminal, write_report
        from gpukm.config import load
        from gpukm.pipeline.inputs import the_model
        from gpukm.snapshots import Store as Snapshots

        target = check_target(to)
        opened = Snapshots.open(load(given(ctx), file=config).settings.store)
        found = opened.load(the_model(opened, model, None), snapshot)
        if target is not None:
            write_report(found, target)
        data = {"model": found.model, "number": found.number, "id": found.id, "out": to}
        if target is not None:
            out.result(data, f"{target}")
        else:
            out.result({**data, "report": as_data(found) if as_json else None}, lambda: terminal(found))
