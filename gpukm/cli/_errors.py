"""One table from what went wrong to the exit code and the command that helps."""

from __future__ import annotations

import errno
from dataclasses import asdict, dataclass
from typing import Any

from gpukm.errors import (
    BackendUnavailableError,
    ConfigError,
    DataError,
    ExecutorError,
    GpukmError,
    JobEndedError,
    JobNotFoundError,
    SnapshotConflictError,
    SnapshotCorruptError,
    SnapshotNotFoundError,
)

OK, FINDING, USAGE, INCONCLUSIVE, INTEGRITY, CONFLICT, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 130
TERMINATED = 143

#: Most special first: type, exit code, the command to run next (``{command}`` is the one that failed).
TABLE: tuple[tuple[type[BaseException], int, str], ...] = (
    (BackendUnavailableError, UNAVAILABLE, "gpukm doctor"),
    (ExecutorError, UNAVAILABLE, "gpukm doctor"),
    (JobNotFoundError, USAGE, "gpukm jobs list"),
    (JobEndedError, CONFLICT, "gpukm jobs show"),
    (SnapshotNotFoundError, USAGE, "gpukm snapshots list"),
    (SnapshotCorruptError, INTEGRITY, "gpukm snapshots verify"),
    (SnapshotConflictError, CONFLICT, "{command}"),
    (ConfigError, USAGE, "{command} --help"),
    (DataError, USAGE, ""),
    (GpukmError, INCONCLUSIVE, "gpukm doctor"),
    (MemoryError, USAGE, "gpukm plan"),
    (KeyboardInterrupt, INTERRUPTED, ""),
    (OSError, USAGE, ""),
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Terminated(BaseException):
    """The process was asked to end (SIGTERM); unwinds like Ctrl-C, so nothing half-written stays."""


@dataclass(frozen=True)
class Failure:
    """What a user is told.

    Attributes
    ----------
    type : str
        Name of the error's class; ``"UsageError"`` for a command line that cannot be parsed.
    message : str
        One line: what was got, what was expected, what to do.
    next : str
        A command to run next, or empty.
    exit_code : int
    internal : bool
        A fault of gpukm and not of what it was given: worth a traceback.
    """

    type: str
    message: str
    next: str
    exit_code: int
    internal: bool = False

    def to_json(self) -> dict[str, Any]:
        """The ``error`` of the JSON object."""
        fields = asdict(self)
        del fields["internal"]
        return fields

    def line(self) -> str:
        """One line for people."""
        return f"{self.message} [next: {self.next}]" if self.next else self.message


def explain(error: BaseException, command: str) -> Failure:
    """Look an error up in :data:`TABLE`; what is not in it is a fault of gpukm."""
    if isinstance(error, Terminated):
        return Failure("Terminated", "stopped by SIGTERM; nothing half-written was left", "", TERMINATED)
    for kind, code, following in TABLE:
        if isinstance(error, kind):
            return Failure(type(error).__name__, _message(error), following.format(command=command), code)
    text = f"internal error, please report it: {type(error).__name__}: {_one_line(error)}"
    return Failure(type(error).__name__, text, "gpukm doctor", INCONCLUSIVE, internal=True)


def _message(error: BaseException) -> str:
    """The error's own text, or one of ours where the system speaks."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing half-written was left"
    if isinstance(error, MemoryError):
        return "out of memory; lower --memory-limit or --batch-rows"
    if isinstance(error, OSError) and not isinstance(error, GpukmError):
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in _FULL:
            return f"no space left to write{where}; free some or write elsewhere, nothing was left half-written"
        what = error.strerror or _one_line(error) or type(error).__name__
        return f"{what}{where}; check the path and its permissions"
    return _one_line(error)


def _one_line(error: BaseException) -> str:
    """An error's text without line breaks."""
    return " ".join(str(error).split())
