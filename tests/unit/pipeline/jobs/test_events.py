"""What can happen to a job, in which order, whoever says so."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gpukm.errors import JobEndedError, SnapshotCorruptError
from gpukm.pipeline.jobs.events import ENDS, Events, Kind, Replaced, newest_attempt
from gpukm.snapshots import Store

FOLDER = "jobs/a-1/state"


def events_of(store: Store) -> Events:
    """As another process sees them."""
    return Events(store.files, FOLDER)


def begun(store: Store) -> tuple[Events, int]:
    """A job whose driver has started, and its attempt."""
    events = events_of(store)
    events.append(Kind.SUBMITTED, {"beat_seconds": 5.0})
    return events, events.append(Kind.STARTED, {"submission": 1, "worker": "tcp://a:1"}).number


def kinds(store: Store) -> list[Kind]:
    """What happened."""
    return [event.kind for event in events_of(store).look()[0]]


def test_what_is_written_is_read_by_others(store: Store) -> None:
    events, attempt = begun(store)
    events.append(Kind.PUBLISHING, {}, attempt)
    events.append(Kind.FINISHED, {"snapshot": {"number": 1}}, attempt)
    found, beat = events_of(store).look()
    assert [event.kind for event in found] == [Kind.SUBMITTED, Kind.STARTED, Kind.PUBLISHING, Kind.FINISHED]
    assert [event.number for event in found] == [1, 2, 3, 4] and beat is None
    assert found[3].facts["snapshot"] == {"number": 1} and found[3].facts["attempt"] == attempt == 2


@pytest.mark.parametrize("end", sorted(ENDS))
def test_after_the_end_a_driver_has_nothing_to_say(store: Store, end: Kind) -> None:
    events, attempt = begun(store)
    events.append(end, {}, attempt)
    for kind in (Kind.PUBLISHING, Kind.RETRYING, Kind.FINISHED, Kind.FAILED):
        with pytest.raises(Replaced, match=end.value):
            events_of(store).append(kind, {}, attempt)
    with pytest.raises(JobEndedError, match="already"):
        events_of(store).append(Kind.CANCELLED, {})
    with pytest.raises(Replaced):
        events_of(store).append(Kind.STARTED, {"submission": 1})


def test_a_finished_job_is_not_submitted_again_and_others_are(store: Store) -> None:
    events, attempt = begun(store)
    events.append(Kind.FAILED, {}, attempt)
    assert events.append(Kind.SUBMITTED, {}).number == 4
    attempt = events.append(Kind.STARTED, {"submission": 4}).number
    events.append(Kind.FINISHED, {}, attempt)
    with pytest.raises(JobEndedError, match="--again"):
        events.append(Kind.SUBMITTED, {})


def test_a_driver_that_was_replaced_can_do_nothing(store: Store) -> None:
    events, first = begun(store)
    second = events_of(store).append(Kind.STARTED, {"submission": 1}).number
    assert newest_attempt(events.look()[0]) == second != first
    for kind in (Kind.PUBLISHING, Kind.FINISHED, Kind.FAILED, Kind.RETRYING):
        with pytest.raises(Replaced, match="took the place"):
            events.append(kind, {}, first)
    events.append(Kind.PUBLISHING, {}, second)


def test_a_driver_of_an_older_submission_does_not_start(store: Store) -> None:
    events, attempt = begun(store)
    again = events.append(Kind.SUBMITTED, {}).number
    with pytest.raises(Replaced, match="submitted again"):
        events.append(Kind.STARTED, {"submission": 1})
    with pytest.raises(Replaced):
        events.append(Kind.PUBLISHING, {}, attempt)
    events.append(Kind.STARTED, {"submission": again})


def test_what_is_being_published_cannot_be_cancelled(store: Store) -> None:
    events, attempt = begun(store)
    events.append(Kind.PUBLISHING, {}, attempt)
    events.append(Kind.STARTED, {"submission": 1})  # its worker died; it may wake up yet
    with pytest.raises(JobEndedError, match="publishing"):
        events.append(Kind.CANCELLED, {})


def test_of_cancelling_and_publishing_at_once_one_happens(store: Store) -> None:
    for _ in range(5):
        place = events_of(store)
        place._folder = f"jobs/{next(_numbers)}/state"
        place.append(Kind.SUBMITTED, {})
        attempt = place.append(Kind.STARTED, {"submission": 1}).number

        def say(kind: Kind, folder: str = place._folder, attempt: int = attempt) -> bool:
            mine = Events(store.files, folder)
            try:
                mine.append(kind, {}, attempt if kind is Kind.PUBLISHING else None)
            except (Replaced, JobEndedError):
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            won = list(pool.map(say, [Kind.CANCELLED, Kind.PUBLISHING]))
        assert sum(won) == 1


_numbers = itertools.count()


def test_many_writers_have_one_order_and_none_is_lost(store: Store) -> None:
    events_of(store).append(Kind.SUBMITTED, {})

    def start(number: int) -> int:
        return events_of(store).append(Kind.STARTED, {"submission": 1, "me": number}).number

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(start, range(12)))
    found, _ = events_of(store).look()
    assert sorted(numbers) == list(range(2, 14))
    assert {event.number: event.facts["me"] for event in found[1:]} == dict(zip(numbers, range(12), strict=True))


def test_an_answer_that_was_lost_is_not_said_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    events, create = events_of(store), store.files.create
    monkeypatch.setattr(store.files, "create", lambda path, parts: create(path, parts) and False)
    events.append(Kind.SUBMITTED, {})
    monkeypatch.undo()
    assert kinds(store) == [Kind.SUBMITTED]


def test_two_beats_are_kept_and_the_newest_attempts_counts(store: Store) -> None:
    events, attempt = begun(store)
    for i in range(1, 30):
        events.beat(attempt, {"iteration": i})
        beat = events_of(store).look()[1]
        assert beat is not None and (beat.attempt, beat.facts["iteration"]) == (attempt, i)
    assert len(store.files.names(FOLDER)) == 2 + 2
    second = events.append(Kind.STARTED, {"submission": 1}).number
    events_of(store).beat(second, {"iteration": 12})
    beat = events_of(store).look()[1]
    assert beat is not None and (beat.attempt, beat.facts["iteration"]) == (second, 12)


def test_damage_and_gaps_are_found(store: Store) -> None:
    begun(store)
    path = f"{FOLDER}/00000002.json"
    data = b"".join(store.files.chunks(path))
    store.files.remove(path)
    store.files.create(path, [data.replace(b"tcp://a:1", b"tcp://b:1")])
    with pytest.raises(SnapshotCorruptError, match="digest"):
        events_of(store).look()
    store.files.remove(f"{FOLDER}/00000001.json")
    with pytest.raises(SnapshotCorruptError, match="missing"):
        events_of(store).look()


def test_secrets_are_not_written(store: Store) -> None:
    events, attempt = begun(store)
    text = "cannot read s3://me:hunter2@bucket/x?token=hunter2, password=hunter2"
    events.append(Kind.FAILED, {"error": text, "storage_options": {"x": "hunter2"}}, attempt)
    facts: Any = events_of(store).look()[0][-1].facts
    assert "hunter2" not in str(facts) and "s3://bucket/x" in facts["error"]
