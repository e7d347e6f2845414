"""Options that several commands share, and what was given of them.

Settings stay text here, numbers too: :mod:`gpukm.config` reads them, whatever they come from, and says what is wrong.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]
ConfigFile = Annotated[
    str | None, typer.Option("--config", metavar="PATH", help="Settings file; gpukm.toml of this folder by default.")
]
Store = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="Snapshot store: a folder or a URL (default: ./gpukm-store)."),
]
Model = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Model: a named line of snapshots.")]
Ref = Annotated[str, typer.Option("--snapshot", metavar="REF", help="latest, a number, or the first digits of an id.")]
Backend = Annotated[
    str | None, typer.Option("--backend", metavar="NAME", help="auto, torch, cupy, cpu or numpy (default: auto).")
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N (default: auto).")
]
DeviceMemory = Annotated[
    str | None,
    typer.Option("--device-memory", metavar="SIZE", help="Memory to take on a GPU, such as 20GB (default: all free)."),
]
Threads = Annotated[str | None, typer.Option("--threads", metavar="N", help="CPU threads (default: all).")]
MemoryLimit = Annotated[
    str | None,
    typer.Option("--memory-limit", metavar="SIZE", help="Memory to use, such as 2GB (default: half of what is free)."),
]
BatchRows = Annotated[
    str | None, typer.Option("--batch-rows", metavar="N", help="Rows read at a time (default: automatic).")
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="CLUSTER",
        help="Dask cluster: local[:N], cuda[:DEVICES], tcp://host:port, tls://host:port, file:scheduler.json, "
        "slurm:PROFILE or kubernetes:PROFILE.",
    ),
]
ClusterWait = Annotated[
    str | None,
    typer.Option(
        "--cluster-wait", metavar="SECONDS", help="Wait so long for the first worker (default: 60, or the profile's)."
    ),
]
TlsCa = Annotated[
    str | None, typer.Option("--tls-ca", metavar="PATH", help="Certificates of the authority, for a cluster by tls://.")
]
TlsCert = Annotated[str | None, typer.Option("--tls-cert", metavar="PATH", help="Certificate to show to the cluster.")]
TlsKey = Annotated[
    str | None, typer.Option("--tls-key", metavar="PATH", help="Its key (default: in the file of --tls-cert).")
]
Profile = Annotated[
    str | None,
    typer.Option("--profile", metavar="PATH", help="Write Dask's report on the cluster's work, an HTML page."),
]
Log = Annotated[
    str | None,
    typer.Option("--log", metavar="PATH", help="Append what is done to a file, a JSON object a line."),
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="COLUMN=VALUE", help="Only rows whose column has this value (repeatable)."),
]


def given(ctx: typer.Context) -> dict[str, Any]:
    """Settings that the command line gives, by name."""
    from gpukm.config import Settings

    # A list that was not given is empty: a list or a tuple, as the version of typer has it.
    absent: tuple[Any, ...] = (None, [], ())
    return {key: value for key, value in ctx.params.items() if key in Settings.model_fields and value not in absent}
