"""``gpukm version``."""

from __future__ import annotations

from gpukm.cli._io import output
from gpukm.cli._options import Json


def version(as_json: Json = False) -> None:
    """Print the version of gpukm."""
    with output("version", as_json) as out:
        number = installed_version()
        out.result({"version": number}, number)


def installed_version() -> str:
    """Version of the installed package; ``0+unknown`` when it runs from a source tree."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of

    try:
        return of("gpukm")
    except PackageNotFoundError:
        return "0+unknown"
