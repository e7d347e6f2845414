"""The log of a job: lines of JSON in numbered files, of which the first few and the newest are kept."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

from gpukm.pipeline.logged import record_of
from gpukm.snapshots.files import Files

_NAME = re.compile(r"([0-9]{8})\.jsonl")
_LIMIT_BYTES = 64 << 20
#: Files that stay: how it began, and how it goes on.
FIRST, NEWEST = 20, 200
#: Lines that one file takes; what does not fit is counted.
LINES = 200


class LogWriter:
    """Gathers records, and writes them when told to, by any thread.

    Parameters
    ----------
    files : Files
    folder : str
        That holds the log and nothing else.
    attempt : int
        Goes into every record.
    """

    def __init__(self, files: Files, folder: str, attempt: int) -> None:
        self._files, self._folder, self._attempt = files, folder, attempt
        self._lock, self._flushing = threading.Lock(), threading.Lock()
        self._waiting: list[dict[str, Any]] = []
        self._left_out = 0
        self._number = max(numbers(files, folder), default=0)

    def add(self, text: str, level: str = "info", **facts: Any) -> None:
        """Note what happened; secrets are taken out."""
        record = record_of(text, level, attempt=self._attempt, **facts)
        with self._lock:
            if len(self._waiting) < LINES:
                self._waiting.append(record)
            else:
                self._left_out += 1

    def flush(self) -> None:
        """Write what was gathered.

        Raises
        ------
        ConfigError
            It cannot be written; it is kept for the next time.
        """
        with self._flushing:
            self._flush()

    def _flush(self) -> None:
        """Write what was gathered; one thread at a time."""
        with self._lock:
            records, left_out = list(self._waiting), self._left_out
        if not records:
            return
        if left_out:
            text = f"{left_out} more records were left out"
            records.append(record_of(text, "warning", attempt=self._attempt))
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        self._number += 1
        while not self._files.create(_path(self._folder, self._number), [lines.encode()]):
            self._number += 1  # of a driver that was replaced and does not know it yet
        with self._lock:
            self._waiting = self._waiting[len(records) - bool(left_out) :]
            self._left_out -= left_out
        old = self._number - NEWEST
        if old > FIRST:
            self._files.remove(_path(self._folder, old))


def numbers(files: Files, folder: str) -> list[int]:
    """Numbers of the files of a log, ascending."""
    return sorted(int(match[1]) for match in map(_NAME.fullmatch, files.names(folder)) if match)


def read_log(files: Files, folder: str, after: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records of the files after a number, each with its file's number."""
    for number in numbers(files, folder):
        if number <= after:
            continue
        try:
            data = files.read(_path(folder, number), _LIMIT_BYTES)
        except FileNotFoundError:
            continue  # it was the oldest, and is removed
        for line in data.decode().splitlines():
            yield number, json.loads(line)


def _path(folder: str, number: int) -> str:
    """Where a file of the log lies."""
    return f"{folder}/{number:08d}.jsonl"
