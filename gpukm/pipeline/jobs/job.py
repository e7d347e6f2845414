"""Jobs of a store: what was asked for, what became of it, found by name.

::

    jobs/<id>/request.json      what decides the result: source, model, settings
    jobs/<id>/state/            events and beats, see :mod:`gpukm.pipeline.jobs.events`
    jobs/<id>/checkpoint/       the fit while it is under way
    jobs/<id>/log/              what the driver says, see :mod:`gpukm.pipeline.jobs.log`

Nothing else knows a job, so that it is known wherever its store is, with or without a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gpukm.errors import ConfigError, JobNotFoundError
from gpukm.pipeline.checkpoints import Checkpoints
from gpukm.pipeline.jobs.events import Beat, Event, Events, Kind, newest_attempt, since_submission
from gpukm.pipeline.jobs.log import read_log
from gpukm.snapshots import Store
from gpukm.snapshots.canonical import canonical_json, field, parse_json, sha256

FORMAT = 1
FOLDER = "jobs"
#: A driver that has said nothing for so many beats is lost.
LOST_BEATS = 12
_LIMIT_BYTES = 1 << 20
_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,118}[A-Za-z0-9_-])?")
_DIGITS = 10


@dataclass(frozen=True)
class Request:
    """What decides a job's result.

    Attributes
    ----------
    source : str
        An absolute path or a URL.
    model : str
    settings : dict
        Every setting that decides the result, as JSON types.
    """

    source: str
    model: str
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {"format": FORMAT, "source": self.source, "model": self.model, "settings": dict(self.settings)}

    def name(self) -> str:
        """What the ids of jobs of this request begin with."""
        return f"{self.model}-{sha256(canonical_json(self.to_json()))[:_DIGITS]}"

    def differences(self, other: Request) -> list[str]:
        """What was otherwise in ``other``, in words."""
        ours = {"source": self.source, "model": self.model, **self.settings}
        theirs = {"source": other.source, "model": other.model, **other.settings}
        return [
            f"{key} was {theirs.get(key)!r} and is {ours.get(key)!r}"
            for key in sorted({*ours, *theirs})
            if canonical_json({"": ours.get(key)}) != canonical_json({"": theirs.get(key)})
        ]


@dataclass(frozen=True)
class Status:
    """Where a job stands.

    Attributes
    ----------
    id, model, source : str
    state : str
        ``queued``, ``running``, ``retrying``, ``lost``, ``finished``, ``failed`` or ``cancelled``.
    submitted_at, changed_at : datetime
        The newest submission; the newest sign of life.
    submissions, attempts : int
        How often it was submitted, and how often a driver started.
    silent_seconds : float
        Since the newest sign of life.
    worker, host : str or None
        Where its driver runs or ran.
    stage : str
        What it is at.
    iteration : int
    inertia, rows_per_second : float or None
    resumed_from_iteration : int or None
        Where the attempt that finished went on; None before that.
    snapshot : dict or None
        ``number`` and ``id`` of what it published.
    error : str or None
    advice : str
        What to do next; empty where there is nothing to do.
    """

    id: str
    model: str
    source: str
    state: str
    submitted_at: datetime
    changed_at: datetime
    submissions: int
    attempts: int
    silent_seconds: float
    worker: str | None
    host: str | None
    stage: str
    iteration: int
    inertia: float | None
    rows_per_second: float | None
    resumed_from_iteration: int | None
    snapshot: Mapping[str, Any] | None
    error: str | None
    advice: str

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in (Kind.FINISHED, Kind.FAILED, Kind.CANCELLED)


class Job:
    """One job; use :class:`Jobs`.

    Attributes
    ----------
    id : str
    folder : str
    events : Events
    """

    def __init__(self, store: Store, id_: str) -> None:
        self._store, self._files = store, store.files
        self.id, self.folder = id_, f"{FOLDER}/{id_}"
        self.events = Events(self._files, f"{self.folder}/state")

    @property
    def log_folder(self) -> str:
        """Where its log lies."""
        return f"{self.folder}/log"

    def request(self) -> Request:
        """What was asked for.

        Raises
        ------
        JobNotFoundError
            There is no such job.
        SnapshotCorruptError, ConfigError
            It is damaged, or a newer gpukm wrote it.
        """
        path = f"{self.folder}/request.json"
        what = f"{self._files.root}/{path}"
        try:
            value = parse_json(self._files.read(path, _LIMIT_BYTES), what)
        except FileNotFoundError:
            raise JobNotFoundError(f"there is no job {self.id!r} in {self._store.location}") from None
        if field(value, "format", int, what) > FORMAT:
            raise ConfigError(f"{what} has the format {value['format']}, newer than {FORMAT}; update gpukm")
        source, model = field(value, "source", str, what), field(value, "model", str, what)
        return Request(source, model, field(value, "settings", dict, what))

    def exists(self) -> bool:
        """Whether it was ever submitted."""
        return "request.json" in self._files.names(self.folder)

    def create(self, request: Request) -> None:
        """Make it, unless somebody has.

        Raises
        ------
        ConfigError
            Somebody has, just now, and asked for something else.
        """
        made = self._files.create(f"{self.folder}/request.json", [canonical_json(request.to_json())])
        if not made and (differences := request.differences(self.request())):
            raise ConfigError(f"job {self.id} was submitted with other settings: {'; '.join(differences)}")

    def checkpoints(self) -> Checkpoints:
        """Where its fit is saved."""
        return Checkpoints(self._files, f"{self.folder}/checkpoint")

    def log(self, after: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Records of its log after the file of a number, each with its file's number."""
        return read_log(self._files, self.log_folder, after)

    def cancel(self) -> Event:
        """End it: its driver stops within seconds, and publishes nothing.

        Raises
        ------
        JobNotFoundError
            There is no such job.
        JobEndedError
            It has ended, or is publishing already.
        """
        self.request()
        return self.events.append(Kind.CANCELLED, {})

    def status(self, now: datetime | None = None) -> Status:
        """Where it stands, from its store alone; ``now`` is compared with the clocks of those who wrote there.

        Raises
        ------
        JobNotFoundError, SnapshotCorruptError
            There is no such job, or it is damaged.
        """
        request = self.request()
        events, beat = self.events.look()
        return status_of(self.id, request, events, beat, now or datetime.now(UTC))


class Jobs:
    """The jobs of a store.

    Attributes
    ----------
    location : str
        The store's.
    """

    def __init__(self, store: Store) -> None:
        self._store, self.location = store, store.location

    def all(self) -> list[Job]:
        """Every job, by id."""
        return [Job(self._store, name) for name in self._store.files.names(FOLDER) if _ID.fullmatch(name)]

    def find(self, text: str) -> Job:
        """The job of an id, or of its first characters where they are those of one only.

        Raises
        ------
        JobNotFoundError
        """
        jobs = self.all()
        found = [job for job in jobs if job.id == text] or [job for job in jobs if text and job.id.startswith(text)]
        if len(found) == 1:
            return found[0]
        if found:
            some = ", ".join(job.id for job in found[:5])
            raise JobNotFoundError(f"{text!r} may be any of several jobs: {some}; write more of the id")
        raise JobNotFoundError(f"there is no job {text[:130]!r} in {self._store.location}")

    def named(self, id_: str, request: Request) -> Job:
        """The job of this id, which is not made yet where there is none.

        Raises
        ------
        ConfigError
            The id cannot be one, or the job asks for something else: it says what differs.
        """
        if not _ID.fullmatch(id_):
            raise ConfigError(
                f"{id_[:130]!r} is no id of a job; expected up to 120 letters, digits, '.', '_' and '-', beginning "
                "with a letter or digit and not ending in '.'"
            )
        job = Job(self._store, id_)
        if job.exists() and (differences := request.differences(job.request())):
            raise ConfigError(
                f"job {id_} was submitted with other settings: {'; '.join(differences)}; restore that, or give another "
                "--job"
            )
        return job

    def of(self, request: Request, again: bool = False) -> Job:
        """The newest job of this request, or the next where that is finished, or ``again`` asks for one.

        That is not made yet; two who make it at once make one.
        """
        name = request.name()
        numbered = re.compile(re.escape(name) + r"-([1-9][0-9]{0,6})")
        matches = map(numbered.fullmatch, self._store.files.names(FOLDER))
        newest = max((int(match[1]) for match in matches if match), default=0)
        if newest and not again:
            job = Job(self._store, f"{name}-{newest}")
            events, _ = job.events.look()
            if not events or events[-1].kind is not Kind.FINISHED:
                return job
        return Job(self._store, f"{name}-{newest + 1}")


def status_of(id_: str, request: Request, events: list[Event], beat: Beat | None, now: datetime) -> Status:
    """Where a job stands after these events, and with this beat the newest."""
    submissions = [event for event in events if event.kind is Kind.SUBMITTED]
    attempts = [event for event in events if event.kind is Kind.STARTED]
    recent = since_submission(events)
    attempt = newest_attempt(events)
    if beat is not None and beat.attempt != attempt:
        beat = None
    last = events[-1] if events else None
    signs = [event.at for event in events[-1:]] + ([beat.at] if beat else [])
    changed = max(signs, default=now)
    silent = max(0.0, (now - changed).total_seconds())
    state = _state(last, silent, float(recent[0].facts.get("beat_seconds", 0)) if recent else 0.0)
    facts: dict[str, Any] = {**(beat.facts if beat else {}), **(last.facts if last and last.kind in _TELLING else {})}
    driver = events[attempt - 1].facts if attempt else {}
    error = last.facts.get("error") if last else None
    return Status(
        id=id_,
        model=request.model,
        source=request.source,
        state=state,
        submitted_at=submissions[-1].at if submissions else changed,
        changed_at=changed,
        submissions=len(submissions),
        attempts=len(attempts),
        silent_seconds=silent,
        worker=driver.get("worker"),
        host=driver.get("host"),
        stage=str(facts.get("stage", "")) if state in ("running", "lost") else "",
        iteration=int(facts.get("iteration", 0)),
        inertia=facts.get("inertia"),
        rows_per_second=facts.get("rows_per_second") if state == "running" else None,
        resumed_from_iteration=facts.get("resumed_from_iteration"),
        snapshot=facts.get("snapshot"),
        error=error,
        advice=_advice(state, silent, str(error or "")),
    )


_TELLING = (Kind.FINISHED, Kind.FAILED)


def _state(last: Event | None, silent_seconds: float, beat_seconds: float) -> str:
    """The state in a word."""
    if last is None or last.kind is Kind.SUBMITTED:
        return "queued"
    if last.kind in (Kind.FINISHED, Kind.FAILED, Kind.CANCELLED):
        return last.kind.value
    if silent_seconds > LOST_BEATS * beat_seconds:
        return "lost"
    return "retrying" if last.kind is Kind.RETRYING else "running"


def _advice(state: str, silent_seconds: float, error: str) -> str:
    """What to do next."""
    if state == "lost":
        return (
            f"nothing was heard of its driver for {silent_seconds:.0f} s; submit the same again, to any cluster, and "
            "it goes on from its checkpoint"
        )
    if state == "queued":
        return "it waits for a free worker; if its cluster is gone, submit the same again"
    if state == Kind.FAILED and "belongs to another fit" in error:
        return "restore what differs, or submit it with --again, or another --job, to start over"
    if state == Kind.FAILED:
        return "put right what failed, and submit the same again: it goes on from its checkpoint"
    if state == Kind.CANCELLED:
        return "submit the same again, and it goes on from its checkpoint"
    return ""
