"""Jobs are found by what they were asked for, and their state follows from what happened."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gpukm.config import Settings
from gpukm.errors import ConfigError, JobEndedError, JobNotFoundError, SnapshotCorruptError
from gpukm.pipeline.jobs.events import Kind
from gpukm.pipeline.jobs.job import Job, Jobs, Request
from gpukm.pipeline.jobs.submit import HOW, check_settings
from gpukm.snapshots import Store
from tests.conformance.store import make_content, nearest

REQUEST = Request("/data/x.npy", "x", {"n_clusters": 5, "seed": 0, "tol": 1e-4})


def made(store: Store, request: Request = REQUEST, **options: Any) -> Job:
    """The job that a submission would take."""
    job = Jobs(store).of(request, **options)
    job.create(request)
    return job


def finish(job: Job) -> None:
    """Let it end well."""
    submission = job.events.append(Kind.SUBMITTED, {"beat_seconds": 5.0}).number
    attempt = job.events.append(Kind.STARTED, {"submission": submission}).number
    job.events.append(Kind.FINISHED, {"snapshot": {"number": 1, "id": "ab"}, "iteration": 7}, attempt)


def test_the_same_request_is_the_same_job_until_it_is_finished(store: Store) -> None:
    job = made(store)
    assert job.id.startswith("x-") and job.id.endswith("-1")
    assert made(store).id == job.id and job.request() == REQUEST
    assert made(store, replace(REQUEST, source="/data/y.npy")).id != job.id
    assert made(store, replace(REQUEST, settings={**REQUEST.settings, "seed": 1})).id != job.id
    assert made(store, again=True).id == job.id[:-1] + "2"
    finish(Job(store, job.id[:-1] + "2"))
    assert made(store).id == job.id[:-1] + "3"
    finish(made(store))
    assert Jobs(store).of(REQUEST).id == job.id[:-1] + "4"
    assert not Jobs(store).of(REQUEST).exists()


def test_a_named_job_refuses_other_settings_and_says_which(store: Store) -> None:
    job = Jobs(store).named("nightly", REQUEST)
    job.create(REQUEST)
    assert Jobs(store).named("nightly", REQUEST).request() == REQUEST
    other = replace(REQUEST, source="/data/y.npy", settings={**REQUEST.settings, "seed": 1})
    with pytest.raises(ConfigError) as caught:
        Jobs(store).named("nightly", other)
    assert "seed was 0 and is 1" in str(caught.value)
    assert "source was '/data/x.npy' and is '/data/y.npy'" in str(caught.value)
    assert "n_clusters" not in str(caught.value) and "tol" not in str(caught.value)
    with pytest.raises(ConfigError, match="seed was 0"):
        job.create(other)


def test_one_that_was_made_and_never_submitted(store: Store) -> None:
    job = made(store)
    assert job.status().state == "queued" and job.status().submissions == 0
    job.cancel()
    assert job.status().state == "cancelled"
    finish(job)
    assert job.status().state == "finished"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".a", "a.", "a" * 200, "a b"])
def test_names_that_are_none(store: Store, name: str) -> None:
    with pytest.raises(ConfigError, match="no id of a job"):
        Jobs(store).named(name, REQUEST)


def test_finding_by_first_characters(store: Store) -> None:
    for name in ("nightly", "nightly-2", "weekly"):
        Jobs(store).named(name, REQUEST).create(REQUEST)
    jobs = Jobs(store)
    assert jobs.find("nightly").id == "nightly" and jobs.find("w").id == "weekly"
    with pytest.raises(JobNotFoundError, match=r"nightly, nightly-2"):
        jobs.find("night")
    for absent in ("monthly", "", "../nightly"):
        with pytest.raises(JobNotFoundError):
            jobs.find(absent)


def test_states(store: Store) -> None:
    job, now = made(store), datetime.now(UTC)
    assert job.status().state == "queued"
    job.events.append(Kind.SUBMITTED, {"beat_seconds": 2.0})
    status = job.status()
    assert (status.state, status.submissions, status.attempts) == ("queued", 1, 0)
    assert job.status(now + timedelta(days=1)).state == "queued"  # a cluster may be busy for long
    attempt = job.events.append(Kind.STARTED, {"submission": 1, "worker": "tcp://a:1", "host": "a"}).number
    status = job.status()
    assert (status.state, status.worker, status.host, status.attempts) == ("running", "tcp://a:1", "a", 1)
    job.events.beat(attempt, {"stage": "iterating", "iteration": 4, "inertia": 2.5, "rows_per_second": 9.0})
    status = job.status()
    assert (status.stage, status.iteration, status.inertia, status.rows_per_second) == ("iterating", 4, 2.5, 9.0)
    assert job.status(now + timedelta(seconds=20)).state == "running"
    status = job.status(now + timedelta(seconds=40))
    assert (status.state, status.iteration) == ("lost", 4) and "submit the same again" in status.advice
    assert job.status(now - timedelta(hours=1)).state == "running"  # clocks differ
    job.events.append(Kind.RETRYING, {"error": "ExecutorError: no worker"}, attempt)
    status = job.status()
    assert (status.state, status.error) == ("retrying", "ExecutorError: no worker")
    assert job.status(now + timedelta(seconds=40)).state == "lost"
    attempt = job.events.append(Kind.STARTED, {"submission": 1}).number
    status = job.status()
    assert (status.state, status.error, status.iteration) == ("running", None, 0)
    snapshot = {"number": 3, "id": "ab"}
    job.events.append(Kind.FINISHED, {"snapshot": snapshot, "iteration": 9, "resumed_from_iteration": 4}, attempt)
    status = job.status(now + timedelta(days=1))
    assert (status.state, status.snapshot, status.iteration) == ("finished", snapshot, 9)
    assert status.ended and status.resumed_from_iteration == 4 and not status.advice


def test_failed_and_cancelled(store: Store) -> None:
    job = made(store)
    job.events.append(Kind.SUBMITTED, {"beat_seconds": 2.0})
    attempt = job.events.append(Kind.STARTED, {"submission": 1}).number
    job.events.append(Kind.FAILED, {"error": "ConfigError: ... belongs to another fit: seed was 0"}, attempt)
    status = job.status()
    assert status.state == "failed" and status.ended and "--again" in status.advice
    job.events.append(Kind.SUBMITTED, {"beat_seconds": 2.0})
    job.cancel()
    status = job.status()
    assert status.state == "cancelled" and status.ended and status.error is None
    with pytest.raises(JobEndedError):
        job.cancel()
    with pytest.raises(JobNotFoundError):
        Job(store, "nothing").cancel()
    assert "nothing" not in [found.id for found in Jobs(store).all()]


def test_a_damaged_request_is_said(store: Store) -> None:
    job = made(store)
    store.files.remove(f"{job.folder}/request.json")
    store.files.create(f"{job.folder}/request.json", [b"{"])
    with pytest.raises(SnapshotCorruptError, match="request"):
        job.status()


def test_snapshots_are_not_disturbed_by_jobs(store: Store) -> None:
    finish(made(store))
    store.publish("m", make_content(), labeller=nearest)
    again = Store(store.files)
    assert again.models() == ["m"] and again.verify(labeller=nearest) == []


BASE = {"n_clusters": 3, "cluster": "tcp://10.0.0.1:8786"}


@pytest.mark.parametrize(
    ("settings", "source", "words"),
    [
        ({"n_clusters": None}, "x.npy", "-k N"),
        ({"cluster": None}, "x.npy", "no cluster"),
        ({"cluster": "local:2"}, "x.npy", "ends with this command"),
        ({"cluster": "cuda"}, "x.npy", "ends with this command"),
        ({"cluster": "slurm:a.toml"}, "x.npy", "ends with this command"),
        ({"cluster": "kubernetes:a.toml"}, "x.npy", "ends with this command"),
        ({"cluster": "nowhere:1"}, "x.npy", "expected local"),
        ({"algorithm": "minibatch"}, "x.npy", "minibatch"),
        ({"checkpoint": "here"}, "x.npy", "checkpoint"),
        ({}, "s3://key:hunter2@bucket/x.npy", "environment"),
        ({}, "https://host/x.npy?token=hunter2", "environment"),
        ({"store": "s3://key:hunter2@bucket/store"}, "x.npy", "environment"),
    ],
)
def test_what_is_no_job_is_refused_before_anything_is_touched(
    settings: dict[str, Any], source: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        check_settings(Settings(**{**BASE, **settings}), source)
    assert "hunter2" not in str(caught.value)
    check_settings(Settings(**BASE), "x.npy")


def test_every_setting_has_its_place_in_a_job() -> None:
    from gpukm.config import SEMANTIC

    elsewhere = {"store", "model", "cluster", "cluster_wait", "tls_ca", "tls_cert", "tls_key", "checkpoint"}
    assert {*SEMANTIC, *HOW, *elsewhere} == set(Settings.model_fields)
    assert not {*SEMANTIC, *HOW} & elsewhere
