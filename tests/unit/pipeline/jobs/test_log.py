"""The log of a job grows in files, and not for ever."""

from __future__ import annotations

import json

import pytest

from gpukm.errors import ConfigError
from gpukm.pipeline.jobs import log
from gpukm.pipeline.jobs.log import LogWriter, numbers, read_log
from gpukm.snapshots import Store

FOLDER = "jobs/a-1/log"


def texts(store: Store, after: int = 0) -> list[str]:
    """What was said."""
    return [record["text"] for _, record in read_log(store.files, FOLDER, after)]


def test_what_was_said_is_read_in_order_and_from_anywhere(store: Store) -> None:
    writer = LogWriter(store.files, FOLDER, 2)
    writer.flush()
    assert numbers(store.files, FOLDER) == []
    writer.add("one", rows=5)
    writer.add("two\nlines", "warning")
    writer.flush()
    writer.add("three")
    writer.flush()
    assert texts(store) == ["one", "two\nlines", "three"] and texts(store, after=1) == ["three"]
    first = next(read_log(store.files, FOLDER))[1]
    assert {k: first[k] for k in ("level", "attempt", "rows")} == {"level": "info", "attempt": 2, "rows": 5}


def test_another_driver_writes_on(store: Store) -> None:
    one, two = LogWriter(store.files, FOLDER, 2), LogWriter(store.files, FOLDER, 3)
    for writer, text in ((one, "a"), (two, "b"), (one, "c")):
        writer.add(text)
        writer.flush()
    assert texts(store) == ["a", "b", "c"]


def test_it_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "FIRST", 3)
    monkeypatch.setattr(log, "NEWEST", 4)
    monkeypatch.setattr(log, "LINES", 5)
    writer = LogWriter(store.files, FOLDER, 2)
    for number in range(1, 21):
        for i in range(7):
            writer.add(f"{number}.{i}")
        writer.flush()
    assert numbers(store.files, FOLDER) == [1, 2, 3, 17, 18, 19, 20]
    assert texts(store, after=19) == [*(f"20.{i}" for i in range(5)), "2 more records were left out"]


def test_what_cannot_be_written_is_written_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LogWriter(store.files, FOLDER, 2)
    writer.add("one")

    def fail(path: str, parts: object) -> bool:
        raise ConfigError("no room is left")

    with monkeypatch.context() as patch:
        patch.setattr(store.files, "create", fail)
        with pytest.raises(ConfigError):
            writer.flush()
    writer.add("two")
    writer.flush()
    assert texts(store) == ["one", "two"]


def test_secrets_are_taken_out(store: Store) -> None:
    writer = LogWriter(store.files, FOLDER, 2)
    writer.add("token=hunter2 of https://me:hunter2@host/x", api_key="hunter2")
    writer.flush()
    assert "hunter2" not in json.dumps(list(read_log(store.files, FOLDER)))
