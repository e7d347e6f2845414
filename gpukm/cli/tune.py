"""``gpukm tune``."""

from __future__ import annotations

from typing import Annotated

import typer

from gpukm.cli._io import output, table
from gpukm.cli._options import Json


def tune(
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="The GPU: cuda, which is torch's current one, or cuda:N.")
    ] = "cuda",
    features: Annotated[
        str, typer.Option("--features", metavar="N,...", help="Numbers of features to tune for.")
    ] = "16,32,64,128,256,512",
    as_json: Json = False,
) -> None:
    """Find the fastest tiles of this GPU's screen, and keep them; labels stay the same, whatever is found.

    Needs torch with Triton, and a few minutes.
    """
    with output("tune", as_json) as out:
        from gpukm.errors import ConfigError

        try:
            widths = sorted({int(text) for text in features.split(",")})
        except ValueError:
            widths = [0]
        if widths[0] < 1:
            raise ConfigError(f"features is {features!r}, expected numbers from 1, such as 64,128")
        from gpukm.backends.select import tune_screen

        found, path = tune_screen(device, widths)
        if path is None:
            out.warn("there is no folder of one's own to keep tiles in; set GPUKM_CACHE_DIR")
        rows = [
            (str(t.features), "x".join(map(str, (t.tiles.rows, t.tiles.centroids, t.tiles.features))),
             f"{t.tiles.warps}, {t.tiles.stages}", f"{t.milliseconds:.3g}", f"{t.table_milliseconds:.3g}")
            for t in found
        ]  # fmt: skip
        data = {
            "tiles": [
                {"features": t.features, "milliseconds": t.milliseconds, "table_milliseconds": t.table_milliseconds,
                 "tile": vars(t.tiles)}
                for t in found
            ],
            "file": path,
        }  # fmt: skip
        head = ("FEATURES", "TILE", "WARPS, STAGES", "MS", "MS BEFORE")
        out.result(data, lambda: f"{table(rows, head)}\nkept in {path or 'no file'}")
