"""Sending a job to a cluster, once everything that would fail there has been tried."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpukm.config import SEMANTIC, Settings
from gpukm.errors import ConfigError, ExecutorError
from gpukm.pipeline.cluster import executor_on, open_workers
from gpukm.pipeline.inputs import model_name
from gpukm.pipeline.jobs.drive import RETRIES, drive
from gpukm.pipeline.jobs.events import Event, Kind, since_submission
from gpukm.pipeline.jobs.job import Job, Jobs, Request, Status
from gpukm.snapshots import Store, redact_uri
from gpukm.snapshots.files import TEMPORARY
from gpukm.sources.location import is_url, shown

if TYPE_CHECKING:
    from distributed import Client

#: Seconds between two signs of life of a driver.
BEAT_SECONDS = 5.0
#: Settings that say how the work is done, and may change from one submission to the next.
HOW = ("backend", "device", "device_memory", "threads", "memory_limit", "batch_rows", "checkpoint_seconds")
_ANSWER_SECONDS = 60.0
_KNOWN_SECONDS = 30.0


@dataclass(frozen=True)
class Submission:
    """What became of it.

    Attributes
    ----------
    id : str
        The job.
    sent : bool
        Whether a driver was sent to the cluster: not where one is there already, or the job is finished.
    status : Status or None
        Where the job stands; None after a dry run where there is none yet.
    store, model : str
    note : str
        What was done, in words.
    """

    id: str
    sent: bool
    status: Status | None
    store: str
    model: str
    note: str


def submit(
    settings: Settings,
    source: str,
    *,
    job: str | None = None,
    again: bool = False,
    dry_run: bool = False,
    beat_seconds: float = BEAT_SECONDS,
    say: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Submission:
    """Have a cluster that stays train a model, and return as soon as it has the job.

    A job that is under way is left alone; one that is lost, failed or was cancelled goes on from its checkpoint.

    Parameters
    ----------
    settings : Settings
        ``cluster`` must name a scheduler that runs on its own. Its certificates, and how long to wait for its first
        worker, are used here and go nowhere.
    source : str
        File, folder, glob or URL, readable from all workers.
    job : str or None
        The id to use; None makes one of the model's name and a digest of what decides the result, so that the same
        again is the same job until it is finished.
    again : bool
        Make a new job, whatever became of those before.
    dry_run : bool
        Check everything, and stop.
    beat_seconds : float
        Seconds between two signs of life of the driver; after twelve without any it is lost.
    say, warn : callable
        Told in a line what is waited for and who works, and what is doubtful.

    Raises
    ------
    ConfigError
        The settings do not fit a job, or ``job`` names one with other settings.
    DataError
        A worker finds that this cannot be clustered.
    ExecutorError
        The cluster cannot be reached, or its workers lack something: gpukm, the data, the store.
    """
    check_settings(settings, source)
    if again and job is not None:
        raise ConfigError("--again makes a new job, and --job names one; leave one of the two out")
    source = source if is_url(source) else os.path.abspath(source)  # noqa: PTH100  # a glob stays one
    location = settings.store if is_url(settings.store) else os.path.abspath(settings.store)  # noqa: PTH100
    model = settings.model or model_name(source)
    request = Request(source, model, settings.model_dump(mode="json", include=set(SEMANTIC)))
    store = Store.open(location, create=True)
    fresh = not store.files.names("")
    with open_workers(settings, say) as client:
        executor = executor_on(client, settings, [source], say, warn)
        check_store(client, store, location)
        fixed = {"store": location, "model": model}
        plain = settings.model_dump(mode="json", include={*SEMANTIC, *HOW}) | fixed
        there = sorted(executor.workers())[0]
        client.run(_try, plain, source, workers=[there])
        jobs = Jobs(store)
        mine = jobs.of(request, again) if job is None else jobs.named(job, request)
        if dry_run:
            if fresh:
                store.files.remove_folder("")  # that the probe has made
            status = mine.status() if mine.exists() else None
            note = f"would go on with job {mine.id}, which is {status.state}" if status else "would be a new job"
            return Submission(mine.id, False, status, store.location, model, note)
        store.make_writable()
        mine.create(request)
        status, (events, _) = mine.status(), mine.events.look()
        reason = _settled(client, mine, status, events)
        if reason:
            return Submission(mine.id, False, status, store.location, model, reason)
        number = mine.events.append(
            Kind.SUBMITTED,
            {
                "settings": settings.model_dump(mode="json", include=set(HOW)),
                "beat_seconds": beat_seconds,
                "model_records": store.n_records(model),
                "scheduler": shown(client.scheduler.address),
            },
        ).number
        send(client, location, mine.id, number)
        note = f"sent to {shown(client.scheduler.address)}" + (f"; it was {status.state}" if events else "")
        return Submission(mine.id, True, mine.status(), store.location, model, note)


def check_settings(settings: Settings, source: str) -> None:
    """Raise ConfigError where it is plain that this is no job."""
    from gpukm.executors.dask.clusters import parse_cluster

    if settings.n_clusters is None:
        raise ConfigError("the number of clusters is missing; give it with -k N")
    if settings.cluster is None:
        raise ConfigError("no cluster is named; give --cluster tcp://host:port, tls://host:port or file:scheduler.json")
    kind, _ = parse_cluster(settings.cluster)
    if kind not in ("address", "file"):
        raise ConfigError(
            f"--cluster {kind} starts a cluster that ends with this command, and a job outlives it; start one that "
            "stays (dask scheduler --scheduler-file PATH; dask worker --scheduler-file PATH) and give --cluster "
            "file:PATH or tcp://host:port, or use: gpukm train"
        )
    if settings.algorithm == "minibatch":
        raise ConfigError("algorithm 'minibatch' works in one process; use: gpukm train, or set 'lloyd'")
    if settings.checkpoint is not None:
        raise ConfigError("a job keeps its checkpoint in the store, beside itself; leave checkpoint out")
    for name, url in (("the source", source), ("the store", settings.store)):
        if redact_uri(url) != url:
            raise ConfigError(
                f"{name} {shown(url)} is given with a user, a password, a query or a fragment, which would be written "
                "into the store and sent through the scheduler; give the workers their rights by their environment"
            )


def check_store(client: Client, store: Store, location: str) -> None:
    """See that every worker reads what is written to the store here, and that we read what each writes there.

    Raises
    ------
    ExecutorError
        One does not, or cannot write there.
    """
    files, token = store.files, secrets.token_hex(8)
    name = f"{TEMPORARY}/probe-{token}"
    made = [name]
    try:
        files.create(name, [token.encode()])
        answers = client.run(_probe, location, token, on_error="return")
        made += [f"{name}-{own}" for own, _ in (a for a in answers.values() if isinstance(a, tuple))]
        for address, answer in sorted(answers.items()):
            if isinstance(answer, BaseException):
                text = " ".join(str(answer).split()) or f"no answer within {_ANSWER_SECONDS:g} s"
                raise ExecutorError(f"the store {store.location} cannot be used on worker {address}: {text}")
            own, reason = answer
            if not reason and f"probe-{token}-{own}" not in files.names(TEMPORARY):
                reason = "what it writes there does not appear here"
            if reason:
                raise ExecutorError(
                    f"the store {store.location} on worker {address} is not the one that is here: {reason}; use a "
                    "folder on a file system that all workers share, under the same path, or an object store"
                )
    finally:
        for path in made:
            files.remove(path)


async def _probe(location: str, token: str) -> tuple[str, str]:
    """On a worker: read what was written, write something of one's own, and say its name and what was wrong."""

    def look() -> tuple[str, str]:
        from gpukm.snapshots.files import open_files

        files, own = open_files(location), secrets.token_hex(8)
        name = f"{TEMPORARY}/probe-{token}"
        try:
            if files.read(name, 1 << 10) != token.encode():
                return own, "what was written here reads otherwise there"
        except FileNotFoundError:
            return own, "what was written here is not there"
        files.create(f"{name}-{own}", [b""])
        return own, ""

    # Not in the worker's event loop, which must go on answering.
    return await asyncio.wait_for(asyncio.to_thread(look), _ANSWER_SECONDS)


async def _try(settings: Mapping[str, Any], source: str) -> None:
    """On a worker: make every check that needs no pass over the data."""

    def look() -> None:
        from gpukm.pipeline.training import train

        train(Settings(**settings), source, dry_run=True)

    await asyncio.to_thread(look)


def send(client: Client, location: str, id_: str, submission: int) -> None:
    """Give a driver to the scheduler, which keeps it though nobody waits for it.

    Raises
    ------
    ExecutorError
        The scheduler does not say that it has it.
    """
    from distributed import fire_and_forget

    key = key_of(id_, submission)
    future = client.submit(drive, location, id_, submission, key=key, retries=RETRIES, pure=False)
    deadline = time.monotonic() + _KNOWN_SECONDS
    # A key that the scheduler does not know yet it would not keep, and say nothing.
    while task_state(client, key) is None:
        if time.monotonic() > deadline:
            raise ExecutorError(
                f"the scheduler at {shown(client.scheduler.address)} has not taken job {id_} within {_KNOWN_SECONDS:g} "
                "s; submit it again"
            )
        time.sleep(0.02)
    fire_and_forget(future)


def withdraw(client: Client, job: Job) -> bool:
    """Take the drivers of a job from the scheduler; whether it had any.

    Raises
    ------
    ExecutorError
        The scheduler keeps one.
    """
    from distributed import Future

    events, _ = job.events.look()
    keys = [key_of(job.id, event.number) for event in events if event.kind is Kind.SUBMITTED]
    there = [key for key in keys if task_state(client, key) in _UNDER_WAY]
    client.cancel([Future(key, client) for key in there], force=True)
    deadline = time.monotonic() + _KNOWN_SECONDS
    while any(task_state(client, key) in _UNDER_WAY for key in there):
        if time.monotonic() > deadline:
            raise ExecutorError(
                f"the scheduler at {shown(client.scheduler.address)} keeps a driver of job {job.id}; it stops by "
                "itself when it runs"
            )
        time.sleep(0.02)
    return bool(there)


def key_of(id_: str, submission: int) -> str:
    """How a driver is called on the cluster."""
    return f"gpukm-job-{id_}-{submission}"


def task_state(client: Client, key: str) -> str | None:
    """What the scheduler says of a task; None where it knows none of this name."""
    found: Any = client.sync(client.scheduler.get_task_status, keys=[key])
    return None if found[key] is None else str(found[key])


_UNDER_WAY = ("waiting", "queued", "no-worker", "processing")


def _settled(client: Client, job: Job, status: Status, events: list[Event]) -> str:
    """Why no driver has to be sent; empty where one has to."""
    if not events or status.state in (Kind.FAILED, Kind.CANCELLED):
        return ""
    if status.state == Kind.FINISHED:
        return "it is finished already; add --again for a new job"
    if status.state in ("running", "retrying"):
        return f"it is {status.state} already"
    submission = since_submission(events)[0]
    if task_state(client, key_of(job.id, submission.number)) not in _UNDER_WAY:
        return ""
    if status.state == "queued":
        return "it waits for a free worker of this cluster already"
    return (
        f"nothing was heard of its driver for {status.silent_seconds:.0f} s, but this cluster holds it still; wait, or "
        f"run: gpukm jobs cancel {job.id} --cluster CLUSTER, and submit it again"
    )
