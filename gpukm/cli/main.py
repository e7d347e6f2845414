"""The ``gpukm`` program."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper

import typer

from gpukm.cli import assign, config, doctor, jobs, plan, report, snapshots, submit, train, tune, version
from gpukm.cli._errors import INTERRUPTED, OK, USAGE, Failure, Terminated, explain
from gpukm.cli._io import Output, is_usage_error

_HELP = "Cluster large numeric data with k-means: from a data file to a versioned snapshot and a report."

app = typer.Typer(
    name="gpukm", help=_HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)  # fmt: skip
app.command("train")(train.train)
app.command("assign")(assign.assign)
app.command("plan")(plan.plan)
app.command("report")(report.report)
app.command("doctor")(doctor.doctor)
app.command("tune")(tune.tune)
app.command("version")(version.version)
app.add_typer(submit.app, name="submit")
app.add_typer(jobs.app, name="jobs")
app.add_typer(snapshots.app, name="snapshots")
app.add_typer(config.app, name="config")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code.

    Parameters
    ----------
    arguments : sequence of str or None
        Without the program's name; None takes the process's own.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    out = Output("", "--json" in options)
    try:
        _install_sigterm()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # a locale without a bar or an arrow is no reason to fail
                stream.reconfigure(errors="replace")
        code = app(arguments, prog_name="gpukm", standalone_mode=False)
        return code if isinstance(code, int) else OK
    except typer.Abort:
        out.fail(explain(KeyboardInterrupt(), "gpukm"))
        return INTERRUPTED
    except (Exception, KeyboardInterrupt, Terminated) as error:
        if not is_usage_error(error):
            out.fail(explain(error, "gpukm"))
            return out.exit_code
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "gpukm"
        out.command = path.removeprefix("gpukm").strip()
        message = error.format_message()  # type: ignore[union-attr]
        if not message:  # no command at all: the help has been shown
            return USAGE
        out.fail(Failure("UsageError", " ".join(message.split()), f"{path} --help", USAGE))
        return USAGE


def _install_sigterm() -> None:
    """Let SIGTERM unwind the program, so that temporary files go; outside the main thread nothing can be installed."""

    def stop(number: int, frame: object) -> None:
        raise Terminated

    with suppress(ValueError):
        signal.signal(signal.SIGTERM, stop)
