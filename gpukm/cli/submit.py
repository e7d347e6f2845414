"""``gpukm submit``: work that a cluster does on its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from gpukm.cli import train as training
from gpukm.cli._io import output, table
from gpukm.cli._options import given

app = typer.Typer(help="Send work to a cluster that does it on its own.", no_args_is_help=True)

JobId = Annotated[
    str | None,
    typer.Option(
        "--job", metavar="ID", help="Id of the job; one that is there must ask for the same (default: made of it)."
    ),
]
Again = Annotated[bool, typer.Option("--again", help="Make a new job, though the same one is there.")]

#: Options of ``train`` that a job cannot heed, and what does instead.
_REFUSED = {
    "resume": "--resume is not needed: what is submitted again goes on from its checkpoint; leave it out",
    "report": "--report shows a snapshot that is not there yet; leave it out, and when the job is finished run: gpukm "
    "report MODEL --out PATH",
    "profile": "--profile is written where a command ends; leave it out, or use: gpukm train",
    "log": "--log is a file here, and a job keeps its own; leave it out, and see: gpukm jobs logs ID",
    "group_by": "--group-by works in one process; use: gpukm train",
    "small_groups": "--small-groups goes with --group-by, which works in one process; use: gpukm train",
}
_DEFAULTS = {name: inspect.signature(training.train).parameters[name].default for name in _REFUSED}


@app.callback()
def group() -> None:
    """Send work to a cluster that does it on its own."""


def _with_options_of_train(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments and options of ``gpukm train`` before its own."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    theirs = inspect.signature(training.train, eval_str=True).parameters.values()
    more = [p for p in own if p.name not in {q.name for q in theirs}]
    every = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*theirs, *more)]
    command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    return command


@app.command("train")
@_with_options_of_train
def train(
    ctx: typer.Context,
    source: training.Source,
    job: JobId = None,
    again: Again = False,
    dry_run: bool = False,
    as_json: bool = False,
    verbose: bool = False,
    config: str | None = None,
    **options: Any,
) -> None:
    """Have a cluster train a model, and print the id of the job at once.

    The options are those of gpukm train, and so is the snapshot that the job publishes. --cluster must name a scheduler
    that stays: tcp://host:port, tls://host:port or file:scheduler.json. Data and store must be reachable from all
    workers, which is tried before anything is sent.

    The same again is the same job: one that is under way is left alone, one that was lost, failed or was cancelled goes
    on from its checkpoint, and when it is finished the next is a new one.

    Of the options of train --resume, --report, --checkpoint, --profile, --log, --group-by and --small-groups do not fit
    a job and are refused.
    """
    with output("submit train", as_json, verbose) as out:
        from gpukm.config import load
        from gpukm.errors import ConfigError

        for name, reason in _REFUSED.items():
            if options[name] != _DEFAULTS[name]:
                raise ConfigError(reason)
        loaded = load(given(ctx), file=config)
        for warning in loaded.warnings:
            out.warn(warning)
        from gpukm.pipeline.jobs.submit import submit

        done = submit(loaded.settings, source, job=job, again=again, dry_run=dry_run, say=out.note, warn=out.warn)
        state = done.status.state if done.status else None
        data = {
            "dry_run": dry_run, "job": done.id, "sent": done.sent, "state": state, "model": done.model,
            "store": done.store, "note": done.note,
        }  # fmt: skip
        if dry_run:
            text = f"would submit model {done.model} to {done.store}: {done.note}; nothing was written"
            out.result(data, text)
            return
        out.note(f"{done.note}\nfollow it with: gpukm jobs wait {done.id} --store {done.store}")
        out.result(data, lambda: table([(done.id,)]))
