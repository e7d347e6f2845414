"""What runs a job: a task on a worker, whose steps run on all workers.

Dask starts it again elsewhere when its worker is lost, and it goes on from the job's checkpoint. One that was only cut
off or paused may wake up beside its successor: it finds that out by the job's events, and what both might publish is
published once, see :class:`gpukm.snapshots.Once`.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from gpukm.config import Settings
from gpukm.errors import ExecutorError, GpukmError
from gpukm.pipeline.jobs.events import Event, Kind, Replaced, since_submission
from gpukm.pipeline.jobs.job import Job, Request
from gpukm.pipeline.jobs.log import LogWriter
from gpukm.pipeline.jobs.pulse import Pulse
from gpukm.pipeline.training import train
from gpukm.snapshots import Once, Store
from gpukm.snapshots.redact import redact_text

if TYPE_CHECKING:
    from distributed import Client

    from gpukm.pipeline.training import TrainOutcome
    from gpukm.snapshots import SnapshotContent, SnapshotRef

#: How often an attempt that failed for want of workers, of memory or of a connection is made again.
RETRIES = 3
_RETRIED = (ExecutorError, OSError, MemoryError)


def drive(location: str, job: str, submission: int) -> None:
    """Run a job of the store at ``location`` to its end; ``submission`` is the number of the event that asked for it.

    Raises
    ------
    ExecutorError
        It failed in a way that another attempt may not; Dask makes one.
    """
    from distributed import get_worker

    from gpukm.executors.dask.within import client_within

    address = str(get_worker().address)
    with client_within() as client:
        run(client, Store.open(location), job, submission, address)


def run(client: Client, store: Store, id_: str, submission: int, address: str) -> None:
    """As :func:`drive`, by a client of the cluster; ``address`` is that of the worker this runs on."""
    from gpukm import __version__

    job = Job(store, id_)
    request, (events, _) = job.request(), job.events.look()
    facts = {
        "submission": submission, "worker": address, "host": socket.gethostname(), "pid": os.getpid(),
        "gpukm": __version__,
    }  # fmt: skip
    try:
        attempt = job.events.append(Kind.STARTED, facts).number
    except Replaced:
        return
    log = LogWriter(store.files, job.log_folder, attempt)
    log.add(f"driver started on {address}", host=facts["host"], pid=facts["pid"], gpukm=__version__)
    submitted = events[submission - 1].facts
    with Pulse(Job(store, id_).events, attempt, log, float(submitted["beat_seconds"])) as pulse:
        try:
            first = next(event for event in events if event.kind is Kind.SUBMITTED)
            once = Once(f"job {id_}", int(first.facts["model_records"]))
            found = _published(store, request, once)
            if found is None:
                done = _train(client, store, job, request, submitted["settings"], once, attempt, pulse, log)
                found = _outcome(done)
            else:
                job.checkpoints().clear()
            snapshot = found["snapshot"]
            log.add(f"published {request.model} #{snapshot['number']}", id=snapshot["id"])
            pulse.flush()
            job.events.append(Kind.FINISHED, found, attempt)
        except Replaced as reason:
            log.add(f"stopped: {reason}", "warning")
        except Exception as error:  # whatever it is, it has to be known to those who wait
            _failed(job, attempt, error, pulse, log)


def _train(
    client: Client,
    store: Store,
    job: Job,
    request: Request,
    how: Mapping[str, Any],
    once: Once,
    attempt: int,
    pulse: Pulse,
    log: LogWriter,
) -> TrainOutcome:
    """Fit, from the checkpoint if there is one, and publish."""
    from gpukm.pipeline.cluster import executor_on

    settings = Settings(**{**request.settings, **how}, store=store.location, model=request.model)

    def publisher(store: Store, model: str, content: SnapshotContent, provenance: Mapping[str, Any]) -> SnapshotRef:
        # From here on it cannot be cancelled, nor done by one who was replaced.
        job.events.append(Kind.PUBLISHING, {}, attempt)
        return store.publish(model, content, {**provenance, "job": job.id}, once=once)

    executor = executor_on(client, settings, [request.source], log.add, partial(log.add, level="warning"), pulse.watch)
    done = train(
        settings,
        request.source,
        resume=True,
        progress=pulse,
        executor=executor,
        checkpoints=job.checkpoints(),
        publisher=publisher,
    )
    for warning in done.warnings:
        log.add(warning, "warning")
    return done


def _published(store: Store, request: Request, once: Once) -> dict[str, Any] | None:
    """What an attempt before this one published and could not tell."""
    ref = store.published(request.model, once)
    if ref is None:
        return None
    result = store.manifest(ref.id)["result"]
    return {
        "snapshot": {"number": ref.number, "id": ref.id}, "iteration": result["n_iter"], "inertia": result["inertia"],
        "resumed_from_iteration": result["n_iter"],
    }  # fmt: skip


def _outcome(done: TrainOutcome) -> dict[str, Any]:
    """What is kept of a fit."""
    if done.ref is None or done.result is None:
        raise RuntimeError("a fit that was no dry run has published nothing")
    return {
        "snapshot": {"number": done.ref.number, "id": done.ref.id},
        "iteration": done.result.n_iter,
        "inertia": done.result.inertia,
        "resumed_from_iteration": done.resumed_from,
        "seconds": done.seconds,
        "warnings": list(done.warnings),
    }


def _failed(job: Job, attempt: int, error: Exception, pulse: Pulse, log: LogWriter) -> None:
    """Say what went wrong, and raise where another attempt may go better."""
    text = redact_text(" ".join(str(error).split())) or "no more is known"
    if not isinstance(error, (GpukmError, *_RETRIED)):
        # Where it happened is told, and not with which values: they may be secrets.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = f"internal error, please report it: {text} ({frame.filename}:{frame.lineno} in {frame.name})"
    text = f"{type(error).__name__}: {text}"
    again = isinstance(error, _RETRIED) and _retried(job.events.look()[0]) < RETRIES
    log.add(text, "warning" if again else "error")
    pulse.flush()
    try:
        job.events.append(Kind.RETRYING if again else Kind.FAILED, {"error": text}, attempt)
    except Replaced as reason:
        log.add(f"stopped: {reason}", "warning")
        return
    if again:
        raise ExecutorError(text) from None


def _retried(events: list[Event]) -> int:
    """How many attempts of this submission failed so far."""
    return sum(event.kind is Kind.RETRYING for event in since_submission(events))
