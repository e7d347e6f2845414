"""Jobs outlive the command that submitted them, their workers and their cluster, with the bits of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpukm.config import Settings
from gpukm.pipeline.jobs.events import Kind
from gpukm.pipeline.jobs.job import Job, Jobs, Status
from gpukm.pipeline.jobs.submit import submit
from gpukm.snapshots import Store
from tests.e2e.conftest import Gpukm, environment

pytestmark = pytest.mark.timeout(150)
#: Of a fit that lasts long enough for something to happen to it.
LONG = ("-k", "60", "--init", "random", "--n-init", "1", "--tol", "0", "--checkpoint-seconds", "0")


class Cluster:
    """A scheduler and workers, started as users do."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, n_workers: int = 2) -> None:
        """A scheduler and some workers; without nannies, which would bring back what is killed."""
        self.file.unlink(missing_ok=True)
        self._dask("scheduler", "--scheduler-file", str(self.file), "--host", "127.0.0.1", "--port", "0")
        until(self.file.exists)
        for _ in range(n_workers):
            self._dask("worker", "--scheduler-file", str(self.file), "--nthreads", "1", "--no-nanny")

    def kill(self) -> None:
        """All of it at once, as when the power fails."""
        for process in self.running:
            process.kill()
        for process in self.running:
            process.wait()
        self.running.clear()

    def _dask(self, *arguments: str) -> None:
        """Run it, in a folder of its own."""
        command = [sys.executable, "-m", "dask", *arguments, "--no-dashboard"]
        with (self.folder / "dask.log").open("ab") as log:
            self.running.append(subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, env=environment()))


def until(state: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not state():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    x = np.random.default_rng(3).normal(size=(20_000, 8)).astype(np.float32)
    np.save(tmp_path / "rows.npy", x)
    return tmp_path / "rows.npy"


def alone(gpukm: Gpukm, rows: Path, *options: str) -> str:
    """The id of the snapshot that one process makes."""
    done = gpukm("train", rows, *options, "--store", "alone", "--json")
    assert done.code == 0, done.err
    return str(done.data["id"])


def job_in(tmp_path: Path, id_: str) -> Job:
    """A job of the default store."""
    return Jobs(Store.open(tmp_path / "gpukm-store")).find(id_)


def driver(job: Job) -> int:
    """The process in which the newest attempt runs."""
    return int([event.facts["pid"] for event in job.events.look()[0] if event.kind is Kind.STARTED][-1])


def test_a_job_outlives_its_client(gpukm: Gpukm, rows: Path, tmp_path: Path, cluster: Cluster) -> None:
    options = ("-k", "8", "--max-iter", "5")
    place = ("--cluster", f"file:{cluster.file}")
    done = gpukm("submit", "train", "rows.npy", *options, *place)
    assert done.code == 0, done.err
    id_ = done.out.strip()
    assert id_.startswith("rows-") and f"gpukm jobs wait {id_}" in done.err
    waited = gpukm("jobs", "wait", id_, "--timeout", "60", "--json")
    assert waited.code == 0 and waited.data["state"] == "finished", waited.err
    assert waited.data["snapshot"] == {"number": 1, "id": alone(gpukm, rows, *options)}
    listed, shown, said = gpukm("jobs", "list"), gpukm("jobs", "show", id_[:8]), gpukm("jobs", "logs", id_)
    assert listed.out.splitlines()[1].split()[:4] == [id_, "rows", "finished", "5"]
    assert waited.data["snapshot"]["id"] in shown.out and "settings.n_clusters" in shown.out
    assert "published rows #1" in said.out
    assert gpukm("snapshots", "verify").code == 0
    refused = gpukm("submit", "train", "rows.npy", *options, *place, "--job", id_, "--seed", "1")
    assert refused.code == 2 and "seed was 0 and is 1" in refused.err


@pytest.mark.slow
def test_a_driver_that_is_killed_is_run_again_elsewhere(
    gpukm: Gpukm, rows: Path, tmp_path: Path, cluster: Cluster
) -> None:
    done = gpukm("submit", "train", "rows.npy", *LONG, "--cluster", f"file:{cluster.file}")
    assert done.code == 0, done.err
    job = job_in(tmp_path, done.out.strip())
    until(job.checkpoints().exist)
    os.kill(driver(job), signal.SIGKILL)
    waited = gpukm("jobs", "wait", job.id, "--timeout", "100", "--json")
    assert waited.code == 0 and waited.data["attempts"] == 2, waited.err
    assert waited.data["resumed_from_iteration"] > 0
    records = Store.open(tmp_path / "gpukm-store").records("rows")
    assert [record.snapshot for record in records] == [alone(gpukm, rows, *LONG)]


def beating(tmp_path: Path, rows: Path, cluster: Cluster) -> tuple[Settings, Job]:
    """A job as of ``LONG`` that says more often that it lives, once it has a checkpoint."""
    settings = Settings(
        n_clusters=60, init="random", n_init=1, tol=0, checkpoint_seconds=0, store=str(tmp_path / "gpukm-store"),
        cluster=f"file:{cluster.file}",
    )  # fmt: skip
    job = job_in(tmp_path, submit(settings, str(rows), beat_seconds=0.3).id)
    until(job.checkpoints().exist)
    return settings, job


@pytest.mark.slow
def test_a_job_goes_on_when_its_whole_cluster_was_lost(
    gpukm: Gpukm, rows: Path, tmp_path: Path, cluster: Cluster
) -> None:
    _, job = beating(tmp_path, rows, cluster)
    cluster.kill()
    until(lambda: job.status().state == "lost")
    shown = gpukm("jobs", "show", job.id, "--json")
    assert shown.data["state"] == "lost" and "submit the same again" in shown.data["advice"]
    assert gpukm("jobs", "wait", job.id).code == 6
    cluster.start(1)
    again = gpukm("submit", "train", "rows.npy", *LONG, "--cluster", f"file:{cluster.file}", "--json")
    assert again.code == 0, again.err
    assert again.data["job"] == job.id and again.data["sent"] and "it was lost" in again.data["note"]
    waited = gpukm("jobs", "wait", job.id, "--timeout", "100", "--json")
    assert waited.code == 0 and waited.data["submissions"] == 2, waited.err
    assert waited.data["resumed_from_iteration"] > 0
    records = Store.open(tmp_path / "gpukm-store").records("rows")
    assert [record.snapshot for record in records] == [alone(gpukm, rows, *LONG)]


@pytest.mark.slow
def test_a_paused_driver_wakes_up_beside_its_successor(
    gpukm: Gpukm, rows: Path, tmp_path: Path, cluster: Cluster
) -> None:
    settings, job = beating(tmp_path, rows, cluster)
    paused = driver(job)
    os.kill(paused, signal.SIGSTOP)
    other = Cluster(tmp_path)
    try:
        until(lambda: job.status().state == "lost")
        other.start(1)
        again = submit(settings.model_copy(update={"cluster": f"file:{other.file}"}), str(rows), beat_seconds=0.3)
        assert again.sent and again.id == job.id
        until(lambda: job.status().attempts == 2)
        os.kill(paused, signal.SIGCONT)
        until(lambda: job.status().ended)
        until(lambda: any(record["text"].startswith("stopped: ") for _, record in job.log()))
    finally:
        other.kill()
    status: Status = job.status()
    assert status.state == "finished" and status.submissions == 2
    records = Store.open(tmp_path / "gpukm-store").records("rows")
    assert [record.snapshot for record in records] == [alone(gpukm, rows, *LONG)]


@pytest.mark.slow
def test_cancelled_from_anywhere(gpukm: Gpukm, rows: Path, tmp_path: Path, cluster: Cluster) -> None:
    place = ("--cluster", f"file:{cluster.file}")
    done = gpukm("submit", "train", "rows.npy", *LONG, "--n-init", "50", *place)
    job = job_in(tmp_path, done.out.strip())
    until(job.checkpoints().exist)
    assert gpukm("jobs", "cancel", job.id, "--dry-run").code == 0 and not job.status().ended
    cancelled = gpukm("jobs", "cancel", job.id, *place, "--json")
    assert cancelled.code == 0 and cancelled.data["state"] == "cancelled" and cancelled.data["withdrawn"]
    assert gpukm("jobs", "wait", job.id).code == 1
    # The driver may still be at work on its last words.
    until(lambda: any(record["text"] == "stopped: the job is cancelled" for _, record in job.log()))
    followed = gpukm("jobs", "logs", job.id, "--follow")
    assert followed.code == 0 and "driver started" in followed.out
    assert json.loads(gpukm("snapshots", "list", "--json").out)["data"]["snapshots"] == []
    assert gpukm("jobs", "cancel", job.id).code == 0  # once more changes nothing
