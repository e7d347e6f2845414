"""``gpukm snapshots``: what a store holds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gpukm.cli._errors import INTEGRITY
from gpukm.cli._io import output, table
from gpukm.cli._options import ConfigFile, Json, Store, given

app = typer.Typer(help="Look at a snapshot store.", no_args_is_help=True)

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Model name.")]
Ref = Annotated[str, typer.Argument(metavar="[REF]", help="latest, a number, or the first digits of an id.")]


@app.callback()
def group() -> None:
    """Look at a snapshot store."""


@app.command("list")
def list_(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Only this model.")] = None,
    store: Store = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """List the models of a store and the snapshots of each, oldest first."""
    with output("snapshots list", as_json) as out:
        from gpukm.config import load
        from gpukm.snapshots import Store as Snapshots

        opened = Snapshots.open(load(given(ctx), file=config).settings.store)
        records = [record for name in ([model] if model else opened.models()) for record in opened.records(name)]
        data = [{"model": r.model, "number": r.number, "id": r.snapshot, "provenance": r.provenance} for r in records]
        rows = [(r.model, str(r.number), r.snapshot[:12], str(r.provenance.get("published_at", "-"))) for r in records]
        empty = f"{opened.location} holds no snapshots yet; gpukm train makes one"
        text = table(rows, ("MODEL", "NUMBER", "ID", "PUBLISHED")) if rows else empty
        out.result({"store": opened.location, "snapshots": data}, text)


@app.command("show")
def show(
    ctx: typer.Context,
    model: ModelName,
    ref: Ref = "latest",
    store: Store = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Print what one snapshot is: settings, data, result, schema and provenance."""
    with output("snapshots show", as_json) as out:
        from gpukm.config import load
        from gpukm.snapshots import Store as Snapshots

        opened = Snapshots.open(load(given(ctx), file=config).settings.store)
        record = opened.find(model, ref)
        manifest = opened.manifest(record.snapshot)
        data = {
            "model": record.model,
            "number": record.number,
            "id": record.snapshot,
            "manifest": manifest,
            "provenance": record.provenance,
        }
        out.result(data, lambda: _render(data))


@app.command("verify")
def verify(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Only this model.")] = None,
    ref: Annotated[str | None, typer.Argument(metavar="[REF]", help="Only this snapshot of it.")] = None,
    store: Store = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Check every byte of a store: the chain of records, manifests, blobs, golden rows. Exits with 4 on damage."""
    with output("snapshots verify", as_json) as out:
        from gpukm.config import load
        from gpukm.snapshots import Store as Snapshots

        opened = Snapshots.open(load(given(ctx), file=config).settings.store)
        problems = opened.verify(model, ref)
        where = " ".join(part for part in (opened.location, model, ref) if part)
        text = "\n".join(problems) if problems else f"{where}: everything is as it was written"
        out.result({"store": opened.location, "problems": problems}, text, INTEGRITY if problems else 0)
        for problem in problems if as_json else []:
            out.note(problem)


def _render(data: dict[str, Any]) -> str:
    """For people: one line a fact."""
    manifest = data["manifest"]
    lines = [("model", data["model"]), ("number", str(data["number"])), ("id", data["id"])]
    for section in ("settings", "data", "result", "schema"):
        lines += [(f"{section}.{key}", _short(value)) for key, value in manifest[section].items()]
    lines += [(f"provenance.{key}", _short(value)) for key, value in data["provenance"].items()]
    return table(lines)


def _short(value: Any) -> str:
    """A value in one line."""
    import json

    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."
