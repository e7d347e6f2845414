"""The table from errors to exit codes."""

from __future__ import annotations

import errno

import pytest

import gpukm.errors
from gpukm.cli._errors import TABLE, Terminated, explain
from gpukm.errors import GpukmError


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (gpukm.errors.ConfigError("k is 0"), 2, ["k is 0", "gpukm train --help"]),
        (gpukm.errors.DataError("NaN\nin row 3"), 2, ["NaN in row 3"]),
        (gpukm.errors.BackendUnavailableError("no GPU"), 6, ["no GPU", "gpukm doctor"]),
        (gpukm.errors.ExecutorError("lost"), 6, ["gpukm doctor"]),
        (gpukm.errors.SnapshotNotFoundError("none"), 2, ["gpukm snapshots list"]),
        (gpukm.errors.SnapshotCorruptError("bits"), 4, ["gpukm snapshots verify"]),
        (gpukm.errors.SnapshotConflictError("changed"), 5, ["gpukm train"]),
        (gpukm.errors.JobNotFoundError("none"), 2, ["gpukm jobs list"]),
        (gpukm.errors.JobEndedError("over"), 5, ["gpukm jobs show"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (Terminated(), 143, ["SIGTERM"]),
        (MemoryError(), 2, ["out of memory", "--memory-limit"]),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 2, ["no space left", "/x/y", "free some"]),
        (OSError(errno.EFBIG, "File too large"), 2, ["no space left"]),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, ["Permission denied", "/x"]),
        (ZeroDivisionError("division"), 3, ["internal error", "ZeroDivisionError", "gpukm doctor"]),
    ],
)
def test_an_error_becomes_a_code_and_one_line(error: BaseException, code: int, words: list[str]) -> None:
    failure = explain(error, "gpukm train")
    assert failure.exit_code == code
    assert failure.internal == isinstance(error, ZeroDivisionError)
    for word in words:
        assert word in failure.line()
    assert "\n" not in failure.line()


def test_every_error_of_gpukm_is_in_the_table() -> None:
    listed = {kind for kind, _, _ in TABLE}
    for value in vars(gpukm.errors).values():
        if isinstance(value, type) and issubclass(value, GpukmError):
            assert value in listed, value


def test_special_errors_come_before_general_ones() -> None:
    for i, (kind, _, _) in enumerate(TABLE):
        for earlier, _, _ in TABLE[:i]:
            assert not issubclass(kind, earlier), (kind, earlier)
