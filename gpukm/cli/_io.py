"""The one output sink: data on stdout, everything else on stderr, one JSON object where asked for."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import typer

from gpukm.cli._errors import OK, Failure, explain

if TYPE_CHECKING:
    from gpukm.pipeline.progress import Progress

VERSION = 1


class Output:
    """What a command prints.

    Parameters
    ----------
    command : str
        Such as ``"snapshots list"``.
    as_json : bool
        Print one object ``{schema, ok, data, warnings, error}`` and nothing else on stdout.
    verbose : bool
    """

    def __init__(self, command: str, as_json: bool = False, verbose: bool = False) -> None:
        self.command, self.as_json, self.verbose = command, as_json, verbose
        self.exit_code = OK
        self._warnings: list[str] = []
        self._done = False

    def warn(self, text: str) -> None:
        """Say what is doubtful, once."""
        if text not in self._warnings:
            self._warnings.append(text)
            self.note(f"warning: {text}")

    def note(self, text: str) -> None:
        """Tell people something that is not data."""
        print(text, file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """Tell it only where ``-v`` asks for it."""
        if self.verbose:
            self.note(text)

    def result(self, data: Mapping[str, Any], text: str | Callable[[], str], exit_code: int = OK) -> None:
        """Print what the command found; ``text`` is for people, and is made only when wanted."""
        self.exit_code = exit_code
        if self.as_json:
            self._object(exit_code == OK, data, None)
        else:
            self._write(text if isinstance(text, str) else text())
        self._done = True

    def line(self, text: str) -> bool:
        """Print one of many lines that come as they come; False once nobody reads them any more."""
        return self._write(text)

    def fail(self, failure: Failure) -> None:
        """Print why the command failed."""
        self.exit_code = failure.exit_code
        if self.as_json and not self._done:
            self._object(False, None, failure)
        self.note(f"gpukm{' ' if self.command else ''}{self.command}: {failure.line()}")

    def progress(self) -> Progress:
        """How long work is shown: bars on a terminal, plain lines elsewhere."""
        from gpukm.cli._progress import reporter

        return reporter(self.verbose)

    def _object(self, ok: bool, data: Mapping[str, Any] | None, failure: Failure | None) -> None:
        """Print the object."""
        schema = ".".join(["gpukm", *self.command.split()]) + f"/{VERSION}"
        error = failure.to_json() if failure else None
        envelope = {"schema": schema, "ok": ok, "data": data, "warnings": self._warnings, "error": error}
        self._write(json.dumps(plain(envelope), ensure_ascii=False, allow_nan=False, indent=2))

    def _write(self, text: str) -> bool:
        """Write to stdout; a reader that has gone away is no error, and False."""
        try:
            sys.stdout.write(text if text.endswith("\n") else text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # Python would complain once more when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return False
        return True


@contextmanager
def output(command: str, as_json: bool = False, verbose: bool = False) -> Iterator[Output]:
    """Run a command's body; whatever it raises becomes one line, one object and an exit code."""
    out = Output(command, as_json, verbose)
    try:
        yield out
    except typer.Exit:
        raise
    except BaseException as error:
        if isinstance(error, (SystemExit, GeneratorExit)) or is_usage_error(error):
            raise
        failure = explain(error, f"gpukm {command}".strip())
        if verbose or failure.internal:
            import traceback

            traceback.print_exc()
        out.fail(failure)
    if out.exit_code != OK:
        raise typer.Exit(out.exit_code)


def is_usage_error(error: BaseException) -> bool:
    """Whether the command line itself could not be parsed."""
    return isinstance(error, _USAGE)


# The parser's base class of such errors has no public name of its own.
_USAGE: type[BaseException] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def plain(value: Any) -> Any:
    """Turn a value into JSON types; numbers that are not finite become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return plain(value.value)
    if hasattr(value, "tolist"):  # arrays and scalars of numpy
        return plain(value.tolist())
    return str(value)


def table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...] = ()) -> str:
    """Lay rows out in aligned columns of plain text."""
    lines = [header, *rows] if header else rows
    if not lines:
        return ""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def short(value: float) -> str:
    """A number people can read at a glance."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 10 * size or (unit != "k" and value >= size):
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def clock(seconds: float) -> str:
    """A duration people can read at a glance."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
