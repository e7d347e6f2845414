"""What happened to a job: numbered records that are never changed, and beats that say how its driver is getting on.

::

    state/00000001.json            an event; each number is created if absent, so all who write agree on one order
    state/00000002-00000017.json   the 17th beat of the attempt that event 2 began; all but the newest two are removed

The state of a job follows from its events alone. Whoever appends one has read all before it, and the next number is
his only if nobody else came first; so a job cannot be cancelled and published, or published by a driver that another
one has replaced.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from gpukm.errors import ConfigError, JobEndedError, SnapshotCorruptError
from gpukm.pipeline.logged import now
from gpukm.snapshots.canonical import canonical_json, field, parse_json, sha256
from gpukm.snapshots.files import Files
from gpukm.snapshots.redact import redact

FORMAT = 1
_LIMIT_BYTES = 1 << 20
_EVENT = re.compile(r"([0-9]{8})\.json")
_BEAT = re.compile(r"([0-9]{8})-([0-9]{8})\.json")
_KEPT_BEATS = 2
_LOOKS = 5


class Kind(StrEnum):
    """What can happen."""

    SUBMITTED = "submitted"
    STARTED = "started"
    RETRYING = "retrying"
    PUBLISHING = "publishing"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDS = frozenset({Kind.FINISHED, Kind.FAILED, Kind.CANCELLED})


class Replaced(Exception):
    """A driver has nothing to do any more: its job has ended, or another driver took its place."""


@dataclass(frozen=True)
class Event:
    """One record.

    Attributes
    ----------
    number : int
        Counts from 1 without gaps.
    kind : Kind
    at : datetime
        By the clock of the machine that wrote it.
    facts : dict
    """

    number: int
    kind: Kind
    at: datetime
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Beat:
    """How an attempt was getting on.

    Attributes
    ----------
    attempt : int
        The number of the event that began it.
    at : datetime
    facts : dict
        ``stage``, ``iteration``, ``inertia``, ``rows_per_second``.
    """

    attempt: int
    at: datetime
    facts: Mapping[str, Any]


class Events:
    """The events and beats of one job, as one thread sees them.

    Parameters
    ----------
    files : Files
    folder : str
        That holds these and nothing else.
    """

    def __init__(self, files: Files, folder: str) -> None:
        self._files, self._folder = files, folder
        self._known: list[Event] = []
        self._beats = 0

    def look(self) -> tuple[list[Event], Beat | None]:
        """All events in order, and the newest beat of the newest attempt that has one.

        Raises
        ------
        SnapshotCorruptError
            A record is damaged or missing.
        """
        for _ in range(_LOOKS):
            names = self._files.names(self._folder)
            numbers = sorted(int(match[1]) for match in map(_EVENT.fullmatch, names) if match)
            for number in numbers[len(self._known) :]:
                self._known.append(self._read(number))
            beats = sorted((int(m[1]), int(m[2])) for m in map(_BEAT.fullmatch, names) if m)
            try:
                return list(self._known), self._beat(*beats[-1]) if beats else None
            except FileNotFoundError:
                continue  # two newer ones have come meanwhile
        return list(self._known), None

    def append(self, kind: Kind, facts: Mapping[str, Any], attempt: int | None = None) -> Event:
        """Write what happened, after all that others wrote; ``attempt`` names that of the driver that says so.

        Raises
        ------
        Replaced
            A driver says so, and it has been replaced, or the job has ended.
        JobEndedError
            It cannot happen after what happened.
        """
        nonce = secrets.token_hex(16)
        while True:
            events, _ = self.look()
            check(events, kind, attempt, facts)
            number, at = len(events) + 1, now()
            body = {
                "format": FORMAT, "number": number, "kind": kind.value, "at": at, "nonce": nonce,
                "facts": redact({**facts, "attempt": attempt} if attempt else dict(facts)),
            }  # fmt: skip
            digest = sha256(canonical_json(body))
            path = f"{self._folder}/{number:08d}.json"
            if self._files.create(path, [canonical_json({**body, "digest": digest})]):
                break
            # The answer to our own request may have been lost.
            if parse_json(self._files.read(path, _LIMIT_BYTES), path).get("digest") == digest:
                break
        events, _ = self.look()
        return events[number - 1]

    def beat(self, attempt: int, facts: Mapping[str, Any]) -> None:
        """Say how an attempt is getting on; only its driver calls this."""
        self._beats += 1
        name = f"{self._folder}/{attempt:08d}"
        data = canonical_json({"format": FORMAT, "at": now(), "facts": redact(dict(facts))})
        self._files.create(f"{name}-{self._beats:08d}.json", [data])
        if self._beats > _KEPT_BEATS:
            self._files.remove(f"{name}-{self._beats - _KEPT_BEATS:08d}.json")

    def _read(self, number: int) -> Event:
        """One event, checked against its digest."""
        path = f"{self._folder}/{number:08d}.json"
        what = f"{self._files.root}/{path}"
        if number != len(self._known) + 1:
            raise SnapshotCorruptError(f"event {len(self._known) + 1} before {what} is missing; restore it from a copy")
        value = parse_json(self._files.read(path, _LIMIT_BYTES), what)
        if field(value, "format", int, what) > FORMAT:
            raise ConfigError(f"{what} has the format {value['format']}, newer than {FORMAT}; update gpukm")
        body = {key: item for key, item in value.items() if key != "digest"}
        if sha256(canonical_json(body)) != value.get("digest") or value.get("number") != number:
            raise SnapshotCorruptError(f"{what} is damaged: its digest does not match; restore it from a copy")
        return Event(number, Kind(value["kind"]), datetime.fromisoformat(value["at"]), value["facts"])

    def _beat(self, attempt: int, number: int) -> Beat:
        """One beat; FileNotFoundError where it has been removed."""
        path = f"{self._folder}/{attempt:08d}-{number:08d}.json"
        value = parse_json(self._files.read(path, _LIMIT_BYTES), f"{self._files.root}/{path}")
        return Beat(attempt, datetime.fromisoformat(value["at"]), value["facts"])


def check(events: Sequence[Event], kind: Kind, attempt: int | None, facts: Mapping[str, Any]) -> None:
    """Raise unless this may come after those: all that a job can go through is decided here.

    Raises
    ------
    Replaced
        A driver is no longer the one.
    JobEndedError
        Somebody else asks for what cannot be done any more.
    """
    last = events[-1].kind if events else None
    if kind is Kind.SUBMITTED:
        if last is Kind.FINISHED:
            raise JobEndedError("the job is finished; submit it with --again to run it anew")
    elif kind is Kind.CANCELLED:
        if last in ENDS:
            raise JobEndedError(f"the job is {last} already, so it cannot be cancelled")
        if any(event.kind is Kind.PUBLISHING for event in since_submission(events)):
            raise JobEndedError(
                "the job is publishing its result already, so it cannot be cancelled any more; wait for it, or submit "
                "it again if its driver is lost"
            )
    elif last in ENDS:
        raise Replaced(f"the job is {last}")
    elif kind is Kind.STARTED:
        newest = since_submission(events)[0].number
        if facts["submission"] != newest:
            raise Replaced(f"the job was submitted again, event {newest}")
    elif attempt != newest_attempt(events):
        raise Replaced(f"attempt {newest_attempt(events)} took the place of attempt {attempt}")


def since_submission(events: Sequence[Event]) -> list[Event]:
    """The newest submission and all that came after it."""
    first = max((i for i, event in enumerate(events) if event.kind is Kind.SUBMITTED), default=0)
    return list(events[first:])


def newest_attempt(events: Sequence[Event]) -> int | None:
    """The number of the event that began the newest attempt of the newest submission."""
    found = [event.number for event in since_submission(events) if event.kind is Kind.STARTED]
    return found[-1] if found else None
