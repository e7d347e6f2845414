"""Drivers of jobs on the workers: sent, replaced, failing, told twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest

from gpukm.config import Settings
from gpukm.errors import ConfigError, DataError, ExecutorError
from gpukm.executors.dask.tls import Tls
from gpukm.pipeline import train
from gpukm.pipeline.jobs import drive as driving
from gpukm.pipeline.jobs.drive import RETRIES, run
from gpukm.pipeline.jobs.events import Kind
from gpukm.pipeline.jobs.job import Job, Jobs
from gpukm.pipeline.jobs.submit import Submission, check_store, key_of, submit, task_state, withdraw
from gpukm.snapshots import Store

pytestmark = pytest.mark.timeout(90)
SETTINGS: dict[str, Any] = {"n_clusters": 30, "tol": 0.0, "init": "random", "n_init": 1, "max_iter": 8}
#: Of a fit that something can happen to.
LONG = {"max_iter": 300, "n_init": 2}


@pytest.fixture
def source(tmp_path: Path) -> str:
    rng = np.random.default_rng(5)
    np.save(tmp_path / "rows.npy", rng.normal(size=(3000, 6)).astype(np.float32))
    return str(tmp_path / "rows.npy")


@pytest.fixture
def settings(client: distributed.Client, tmp_path: Path) -> Settings:
    address = client.scheduler.address
    return Settings(**SETTINGS, store=str(tmp_path / "store"), cluster=address, checkpoint_seconds=0)


@pytest.fixture
def long(settings: Settings) -> Settings:
    return settings.model_copy(update=LONG)


def alone(source: str, tmp_path: Path, **changes: Any) -> str:
    """The snapshot's id of one process."""
    done = train(Settings(**{**SETTINGS, "store": str(tmp_path / "alone"), **changes}), source)
    assert done.ref is not None
    return done.ref.id


def job_of(settings: Settings, done: Submission) -> Job:
    """As another process finds it."""
    return Jobs(Store.open(settings.store)).find(done.id)


def until(state: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not state():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def submitted(settings: Settings, source: str, client: distributed.Client) -> tuple[Store, Job]:
    """A job that is submitted, of which no driver is sent: tests are it."""
    from gpukm.pipeline.jobs import submit as submitting

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submitting, "send", lambda *arguments: None)
        done = submit(settings, source, beat_seconds=0.2)
    store = Store.open(settings.store)
    return store, Job(store, done.id)


def events_of(job: Job) -> list[Kind]:
    """What happened."""
    return [event.kind for event in job.events.look()[0]]


def test_a_job_publishes_what_one_process_does(
    settings: Settings, source: str, tmp_path: Path, client: distributed.Client
) -> None:
    dry = submit(settings, source, dry_run=True)
    assert not dry.sent and dry.status is None and not Path(settings.store).exists()
    done = submit(settings, source, beat_seconds=0.2)
    assert done.sent and done.status is not None and done.status.state in ("queued", "running")
    job = job_of(settings, done)
    until(lambda: job.status().ended)
    status = job.status()
    assert status.snapshot == {"number": 1, "id": alone(source, tmp_path)}, status
    assert status.state == "finished" and status.iteration == 8 and status.worker in client.scheduler_info()["workers"]
    store = Store.open(settings.store)
    assert store.find("rows").provenance["job"] == done.id and store.verify() == []
    assert not job.checkpoints().exist()
    texts = [record["text"] for _, record in job.log()]
    assert texts[0].startswith("driver started on tcp://") and "published rows #1" in texts
    # Nothing of it is left on the cluster, and the same again is a new job.
    until(lambda: task_state(client, key_of(done.id, 1)) is None)
    again = submit(settings, source, job=done.id)
    assert not again.sent and "finished already" in again.note
    assert submit(settings, source, dry_run=True).id == done.id[:-1] + "2"


def test_what_would_fail_fails_before_anything_is_sent(settings: Settings, source: str) -> None:
    with pytest.raises(DataError, match="3000 rows"):
        submit(settings.model_copy(update={"n_clusters": 5000}), source)
    with pytest.raises(DataError, match="nothing"):
        submit(settings.model_copy(update={"columns": ("nothing",)}), source)
    with pytest.raises(ExecutorError, match="cannot be read"):
        submit(settings, source + "x")
    assert not Store.open(settings.store, create=True).models() and not Path(settings.store, "jobs").exists()
    with pytest.raises(ConfigError, match="one of the two"):
        submit(settings, source, job="a", again=True)


def test_a_store_that_workers_do_not_share_is_refused(client: distributed.Client, tmp_path: Path) -> None:
    here = f"memory://only-here-{time.monotonic_ns()}/store"
    with pytest.raises(ExecutorError, match=r"is not the one that is here.*all workers share"):
        check_store(client, Store.open(here, create=True), here)
    folder = str(tmp_path / "store")
    check_store(client, Store.open(folder, create=True), folder)
    assert [path.name for path in Path(folder).rglob("*")] == ["tmp"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ExecutorError, match="cannot be used on worker"):
        check_store(client, Store.open(folder, create=True), str(tmp_path / "file"))


def test_a_driver_that_was_replaced_publishes_nothing_and_its_successor_goes_on(
    long: Settings, source: str, tmp_path: Path, client: distributed.Client
) -> None:
    store, job = submitted(long, source, client)
    first = threading.Thread(target=run, args=(client, store, job.id, 1, "first"))
    first.start()
    until(job.checkpoints().exist)
    run(client, Store.open(long.store), job.id, 1, "second")  # the scheduler believes the first lost
    first.join(30)
    status = job.status()
    assert status.state == "finished" and status.worker == "second" and (status.resumed_from_iteration or 0) > 0
    assert [record.snapshot for record in store.records("rows")] == [alone(source, tmp_path, **LONG)]
    assert events_of(job) == [Kind.SUBMITTED, Kind.STARTED, Kind.STARTED, Kind.PUBLISHING, Kind.FINISHED]
    assert any(record["text"].startswith("stopped: ") for _, record in job.log())


def test_two_that_publish_at_once_publish_once(
    settings: Settings, source: str, client: distributed.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, job = submitted(settings, source, client)
    publish, asleep, awake = Store.publish, threading.Event(), threading.Event()

    def slowly(self: Store, *arguments: Any, **options: Any) -> Any:
        if not asleep.is_set():  # the first is paused at the worst moment
            asleep.set()
            awake.wait(60)
        return publish(self, *arguments, **options)

    monkeypatch.setattr(Store, "publish", slowly)
    first = threading.Thread(target=run, args=(client, store, job.id, 1, "first"))
    first.start()
    assert asleep.wait(60)
    run(client, Store.open(settings.store), job.id, 1, "second")
    awake.set()
    first.join(30)
    status = job.status()
    assert status.state == "finished" and status.worker == "second"
    assert len(store.records("rows")) == 1


def test_submitted_twice_at_once_it_is_one_job(
    settings: Settings, source: str, tmp_path: Path, client: distributed.Client
) -> None:
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: submit(settings, source, job="one", beat_seconds=0.2), range(2)))
    assert {found.id for found in done} == {"one"} and any(found.sent for found in done)
    job = job_of(settings, done[0])
    until(lambda: job.status().ended)
    records = Store.open(settings.store).records("rows")
    assert [record.snapshot for record in records] == [alone(source, tmp_path)]


def test_one_that_died_before_it_could_tell_is_told_for(
    settings: Settings, source: str, client: distributed.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, job = submitted(settings, source, client)

    def die(done: Any) -> Any:
        raise KeyboardInterrupt  # as far as the driver goes: nothing more is run

    with monkeypatch.context() as patch:
        patch.setattr(driving, "_outcome", die)
        with pytest.raises(KeyboardInterrupt):
            run(client, store, job.id, 1, "first")
    assert job.status().state == "running"
    run(client, store, job.id, 1, "second")
    status, records = job.status(), store.records("rows")
    assert status.state == "finished" and len(records) == 1
    assert status.snapshot == {"number": 1, "id": records[0].snapshot} and status.iteration == 8


@pytest.mark.slow
def test_a_driver_shows_its_workers_certificate(
    settings: Settings, source: str, tmp_path: Path, dask: Callable[..., Any], tls: Tls
) -> None:
    file = tmp_path / "scheduler.json"
    own = ("--tls-ca-file", tls.ca, "--tls-cert", tls.cert, "--tls-key", str(tls.key), "--no-dashboard")
    dask("scheduler", "--scheduler-file", str(file), "--protocol", "tls", "--host", "127.0.0.1", "--port", "0", *own)
    until(file.exists)
    dask("worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", *own)
    files = {"tls_ca": tls.ca, "tls_cert": tls.cert, "tls_key": tls.key}
    done = submit(settings.model_copy(update={"cluster": f"file:{file}", **files}), source, beat_seconds=0.2)
    job = job_of(settings, done)
    until(lambda: job.status().ended)
    assert job.status().snapshot == {"number": 1, "id": alone(source, tmp_path)}
    for path in Path(settings.store, "jobs").rglob("*.json*"):
        assert "key.pem" not in path.read_text(), path


@pytest.mark.slow
def test_cancelled_while_it_runs(long: Settings, source: str, client: distributed.Client) -> None:
    done = submit(long, source, beat_seconds=0.2)
    job = job_of(long, done)
    until(lambda: job.status().iteration > 0)
    job.cancel()
    until(lambda: any(record["text"] == "stopped: the job is cancelled" for _, record in job.log()))
    assert not any(record["text"] == "summarizing" for _, record in job.log())  # it did not go on to the end
    until(lambda: task_state(client, key_of(done.id, 1)) is None)
    assert Store.open(long.store).models() == [] and job.status().state == "cancelled"
    again = submit(long, source, beat_seconds=0.2)
    assert again.id == done.id and again.sent and "it was cancelled" in again.note
    until(lambda: job.status().ended)
    assert job.status().state == "finished" and (job.status().resumed_from_iteration or 0) > 0


def test_a_job_under_way_is_not_sent_twice_and_one_that_waits_can_be_withdrawn(
    settings: Settings, source: str, client: distributed.Client, tmp_path: Path
) -> None:
    n_threads, flag = sum(client.nthreads().values()), tmp_path / "go on"

    def hold(i: int) -> None:
        while not flag.exists():
            time.sleep(0.02)

    busy = client.map(hold, range(n_threads), pure=False)  # no thread is free
    try:
        until(lambda: sum(map(len, client.processing().values())) >= n_threads)
        done = submit(settings, source)
        assert done.sent and done.status is not None and done.status.state == "queued"
        second = submit(settings, source)
        assert second.id == done.id and not second.sent and "waits for a free worker" in second.note
        third = submit(settings, source, again=True)
        assert third.sent and third.id != done.id
        for found in (done, third):
            job = job_of(settings, found)
            job.cancel()
            assert withdraw(client, job) and not withdraw(client, job)
    finally:
        flag.touch()
    client.gather(busy)


@pytest.mark.slow
def test_other_data_is_refused_with_what_differs(long: Settings, source: str, client: distributed.Client) -> None:
    store, job = submitted(long, source, client)
    thread = threading.Thread(target=run, args=(client, store, job.id, 1, "first"))
    thread.start()
    until(job.checkpoints().exist)
    job.cancel()
    thread.join(30)
    np.save(source, np.load(source) + 1)
    done = submit(long, source, beat_seconds=0.2)
    assert done.id == job.id and done.sent
    until(lambda: job.status().ended)
    status = job.status()
    assert status.state == "failed" and "fingerprint was" in (status.error or "") and "--again" in status.advice
    assert store.models() == []


def test_what_may_pass_is_tried_again_and_not_for_ever(
    settings: Settings, source: str, client: distributed.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, job = submitted(settings, source, client)

    def fail(*arguments: Any, **options: Any) -> Any:
        raise ExecutorError("the scheduler at tcp://me:hunter2@a:1 was lost")

    monkeypatch.setattr(driving, "train", fail)
    for _ in range(RETRIES):
        with pytest.raises(ExecutorError) as caught:
            run(client, store, job.id, 1, "here")
        assert "hunter2" not in str(caught.value)
        assert job.status().state == "retrying"
    run(client, store, job.id, 1, "here")
    status = job.status()
    assert status.state == "failed" and status.error == "ExecutorError: the scheduler at tcp://a:1 was lost"


def test_what_does_not_pass_is_said_at_once(
    settings: Settings, source: str, client: distributed.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, job = submitted(settings, source, client)

    def fail(*arguments: Any, **options: Any) -> Any:
        raise KeyError("token=hunter2")

    monkeypatch.setattr(driving, "train", fail)
    run(client, store, job.id, 1, "here")
    error = job.status().error or ""
    assert error.startswith("KeyError: internal error, please report it") and "in fail" in error
    assert "hunter2" not in error and job.status().state == "failed"
