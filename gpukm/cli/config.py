"""``gpukm config``: settings and where they come from."""

from __future__ import annotations

import typer

from gpukm.cli._io import output, table
from gpukm.cli._options import ConfigFile, Json

app = typer.Typer(help="Look at the settings.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Look at the settings."""


@app.command("show")
def show(config: ConfigFile = None, as_json: Json = False) -> None:
    """Print every setting, its value and where it came from: a variable, the file, or the default."""
    with output("config show", as_json) as out:
        from gpukm.config import Settings, load

        loaded = load(file=config)
        for warning in loaded.warnings:
            out.warn(warning)
        values = loaded.settings.model_dump()
        data = {key: {"value": value, "origin": loaded.origins[key]} for key, value in values.items()}
        rows = [
            (key, _show(value), loaded.origins[key], Settings.model_fields[key].description or "")
            for key, value in values.items()
        ]
        out.result(data, lambda: table(rows, ("SETTING", "VALUE", "FROM", "MEANING")))


def _show(value: object) -> str:
    """A value as people write it."""
    if value is None or value == ():
        return "-"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
