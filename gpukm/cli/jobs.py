"""``gpukm jobs``: what was submitted, as its store knows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpukm.cli._errors import FINDING, INCONCLUSIVE, OK, UNAVAILABLE
from gpukm.cli._io import Output, clock, output, short, table
from gpukm.cli._options import Cluster, ClusterWait, ConfigFile, Json, Store, TlsCa, TlsCert, TlsKey, given

if TYPE_CHECKING:
    from gpukm.pipeline.jobs.events import Event
    from gpukm.pipeline.jobs.job import Job, Jobs, Status

app = typer.Typer(help="Look at jobs, wait for them, cancel them.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the job, or its first characters.")]
_LOOK_SECONDS = 1.0
_SAY_SECONDS = 5.0


@app.callback()
def group() -> None:
    """Look at jobs, wait for them, cancel them."""


@app.command("list")
def list_(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Only those of this model.")] = None,
    store: Store = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """List the jobs of a store, the newest first."""
    with output("jobs list", as_json) as out:
        from gpukm.errors import GpukmError

        jobs = _jobs(ctx, config)
        found = []
        for job in jobs.all():
            try:
                found.append(job.status())
            except GpukmError as error:
                out.warn(str(error))  # the others can be shown
        found = sorted((s for s in found if model in (None, s.model)), key=lambda s: (s.submitted_at, s.id))[::-1]
        head = ("JOB", "MODEL", "STATE", "ITERATION", "INERTIA", "AGE", "SNAPSHOT")
        empty = f"{jobs.location} holds no jobs; gpukm submit train makes one"
        out.result(
            {"store": jobs.location, "jobs": [_data(status) for status in found]},
            lambda: table([_row(status) for status in found], head) if found else empty,
        )


@app.command("show")
def show(ctx: typer.Context, job: Id, store: Store = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Print what a job is, where it stands, and what happened to it."""
    with output("jobs show", as_json) as out:
        found = _jobs(ctx, config).find(job)
        status, (events, _), request = found.status(), found.events.look(), found.request()
        happened = [{"at": e.at.isoformat(), "event": e.kind.value, **e.facts} for e in events]
        data = {**_data(status), "settings": request.settings, "events": happened}
        out.result(data, lambda: _render(status, request.settings, events))


@app.command("logs")
def logs(
    ctx: typer.Context,
    job: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    store: Store = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Print what a job's driver said."""
    with output("jobs logs", as_json) as out:
        from gpukm.errors import ConfigError

        if follow and as_json:
            raise ConfigError(
                "--follow prints line by line, and --json one object at the end; leave one of the two out"
            )
        found = _jobs(ctx, config).find(job)
        if follow:
            _follow(found, out)
            return
        records = [record for _, record in found.log()]
        out.result(
            {"job": found.id, "records": records},
            lambda: "\n".join(map(_line, records)) if records else f"job {found.id} has said nothing yet",
        )


@app.command("wait")
def wait(
    ctx: typer.Context,
    job: Id,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", min=0, help="Wait so long at most (default: no end)."),
    ] = None,
    store: Store = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Wait until a job ends. Exits with 0 when it finished, 1 when it failed or was cancelled.

    Exits with 6 when its driver is lost, and with 3 after the time given by --timeout.
    """
    with output("jobs wait", as_json) as out:
        found = _jobs(ctx, config).find(job)
        status = _wait(found, timeout, out.note)
        code = OK if status.state == "finished" else FINDING if status.ended else INCONCLUSIVE
        if status.state == "lost":
            code = UNAVAILABLE
        if code == INCONCLUSIVE:
            out.note(f"job {found.id} is {status.state} after {timeout:g} s; it goes on")
        out.result(_data(status), lambda: _render(status, {}), code)


@app.command("cancel")
def cancel(
    ctx: typer.Context,
    job: Id,
    cluster: Cluster = None,
    cluster_wait: ClusterWait = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, stop.")] = False,
    store: Store = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """End a job: its driver stops within seconds and publishes nothing. Its checkpoint stays.

    With --cluster the task of a driver that does not answer, or waits for a worker, is taken from the scheduler too.
    """
    with output("jobs cancel", as_json) as out:
        from gpukm.config import load
        from gpukm.errors import ExecutorError
        from gpukm.pipeline.cluster import open_workers
        from gpukm.pipeline.jobs.submit import withdraw

        settings = load(given(ctx), file=config).settings
        found = _jobs(ctx, config).find(job)
        if dry_run:
            text = f"would cancel job {found.id}, which is {found.status().state}; nothing was changed"
            out.result({**_data(found.status()), "dry_run": True, "withdrawn": False}, text)
            return
        if found.status().state != "cancelled":
            found.cancel()
        withdrawn = False
        if "cluster" in given(ctx):
            try:
                with open_workers(settings, out.note) as client:
                    withdrawn = withdraw(client, found)
            except ExecutorError as error:
                out.warn(f"the cluster could not be told: {error}; a driver that comes to run there stops by itself")
        text = f"job {found.id} is cancelled" + ("; its driver was taken from the cluster" if withdrawn else "")
        out.result({**_data(found.status()), "dry_run": False, "withdrawn": withdrawn}, text)


def _jobs(ctx: typer.Context, config: str | None) -> Jobs:
    """Those of the store that the settings name."""
    from gpukm.config import load
    from gpukm.pipeline.jobs.job import Jobs
    from gpukm.snapshots import Store as Snapshots

    return Jobs(Snapshots.open(load(given(ctx), file=config).settings.store))


def _wait(job: Job, timeout: float | None, say: Callable[[str], None]) -> Status:
    """Look until it ends, is lost, or the time is over; say now and then how far it is."""
    began, told, before = time.monotonic(), float("-inf"), ""
    while True:
        status = job.status()
        left = None if timeout is None else timeout - (time.monotonic() - began)
        if status.ended or status.state == "lost" or (left is not None and left <= 0):
            return status
        text = _progress(status)
        if text != before and time.monotonic() - told >= _SAY_SECONDS:
            say(text)
            told, before = time.monotonic(), text
        time.sleep(_LOOK_SECONDS if left is None else min(_LOOK_SECONDS, left))


def _follow(job: Job, out: Output) -> None:
    """Print lines as they come."""
    last = 0
    while True:
        status = job.status()
        for number, record in job.log(last):
            last = number
            if not out.line(_line(record)):
                return
        if status.state == "lost":
            out.exit_code = UNAVAILABLE
            out.note(status.advice)
        if status.ended or status.state == "lost":
            return
        time.sleep(_LOOK_SECONDS)


def _data(status: Status) -> dict[str, Any]:
    """What the JSON object holds of a job."""
    from dataclasses import asdict

    times = {"submitted_at": status.submitted_at.isoformat(), "changed_at": status.changed_at.isoformat()}
    return {**asdict(status), **times}


def _row(status: Status) -> tuple[str, ...]:
    """A job in the list."""
    age = (datetime.now(UTC) - status.submitted_at).total_seconds()
    inertia = "" if status.inertia is None else f"{status.inertia:.6g}"
    iteration = str(status.iteration) if status.iteration else ""
    return status.id, status.model, status.state, iteration, inertia, clock(max(0.0, age)), _snapshot(status)


def _snapshot(status: Status) -> str:
    """What it published, shortly."""
    return "" if status.snapshot is None else f"#{status.snapshot['number']}  {status.snapshot['id'][:12]}"


def _progress(status: Status) -> str:
    """How far it is, in a line."""
    parts = [f"{status.state}: {status.stage}" if status.stage else status.state]
    if status.iteration:
        parts.append(f"iteration {status.iteration}")
    if status.inertia is not None:
        parts.append(f"inertia {status.inertia:.6g}")
    if status.rows_per_second:
        parts.append(f"{short(status.rows_per_second)} rows/s")
    return ", ".join(parts)


def _render(status: Status, settings: Mapping[str, Any], events: Sequence[Event] = ()) -> str:
    """For people: one line a fact."""
    lines = [
        ("job", status.id),
        ("model", status.model),
        ("source", status.source),
        ("state", _progress(status)),
        ("submitted", f"{_time(status.submitted_at)} ({status.submissions}x)"),
    ]
    if not status.ended:
        lines.append(("heard of", f"{clock(status.silent_seconds)} ago"))
    if status.worker:
        lines.append(("driver", f"{status.worker} on {status.host}, attempt {status.attempts}"))
    if status.snapshot:
        lines.append(("snapshot", f"{status.model} #{status.snapshot['number']}  {status.snapshot['id']}"))
    if status.resumed_from_iteration:
        lines.append(("resumed", f"from iteration {status.resumed_from_iteration}"))
    if status.error:
        lines.append(("error", status.error))
    if status.advice:
        lines.append(("next", status.advice))
    for key, value in settings.items():
        if value not in (None, []):
            lines.append((f"settings.{key}", ",".join(map(str, value)) if isinstance(value, list) else str(value)))
    told = [(_time(event.at), event.kind.value, str(event.facts.get("worker", ""))) for event in events]
    return table(lines) + (f"\n\n{table(told, ('AT', 'EVENT', 'WORKER'))}" if told else "")


def _time(moment: datetime) -> str:
    """A moment, to the second."""
    return moment.isoformat(timespec="seconds")


def _line(record: dict[str, Any]) -> str:
    """A record of the log for people."""
    facts = {k: v for k, v in record.items() if k not in ("at", "level", "text", "attempt")}
    more = "".join(f" {key}={value}" for key, value in facts.items())
    return f"{record['at']} {record['level']:<7} {record['text']}{more}"
