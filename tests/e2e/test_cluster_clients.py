"""The program as a client of a cluster: what it says and leaves when the cluster, or it itself, is broken off."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpukm import kmeans
from gpukm.errors import ExecutorError
from gpukm.functional import fit_iter
from tests.e2e.conftest import Gpukm, command, environment
from tests.faults import Cluster, be_idle_after, digest_of_labels, open_placements, tasks, there, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

#: Iterations on rows without structure, which never converge early.
FIT = ("train", "x.npy", "-k", "64", "--init", "random", "--n-init", "1", "--tol", "0", "--max-iter")
#: So long after its scheduler is lost does a job end. Dask tries to connect again before: its connect time-out.
LOST_SECONDS = 25.0


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).random((20_000, 6), np.float32))
    return path


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler and two workers by hand, found by the scheduler's file."""
    one = Cluster(tmp_path / "cluster")
    try:
        one.scheduler()
        for _ in range(2):
            one.worker()
        yield one
    finally:
        one.close()


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start the program without waiting for it."""
    env = environment({"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"})
    pipe = subprocess.PIPE
    return subprocess.Popen(command(*arguments), cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)


def saved(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until there are checkpoints."""
    wait_until(lambda: any(folder.glob("*.safetensors")) or process.poll() is not None, "a checkpoint", 60)
    if process.poll() is not None:
        pytest.fail(f"ended too soon: {process.communicate()[1]}")


def test_a_cluster_by_its_file(tmp_path: Path, numbers: Path, cluster: Cluster, gpukm: Gpukm) -> None:
    alone = gpukm(*FIT, "10", "--json").data
    assert gpukm("assign", "x.npy", "-o", "alone.parquet").code == 0
    elsewhere = ("--cluster", f"file:{cluster.file}")
    found = gpukm(*FIT, "10", "--json", *elsewhere)
    assert found.code == 0, found.err
    assert found.data["id"] == alone["id"]
    done = gpukm("assign", "x.npy", "-o", "parts", *elsewhere)
    assert done.code == 0, done.err
    assert digest_of_labels(tmp_path / "parts", 20_000) == digest_of_labels(tmp_path / "alone.parquet", 20_000)


def test_the_scheduler_lost(tmp_path: Path, numbers: Path, cluster: Cluster, gpukm: Gpukm) -> None:
    fit = (*FIT, "150")
    undisturbed = gpukm(*fit, "--json").data
    kept = (*fit, "--checkpoint", "c", "--checkpoint-seconds", "0", "--json")
    process = start(tmp_path, *kept, "--cluster", f"file:{cluster.file}")
    saved(tmp_path / "c", process)
    cluster.close()
    began = time.monotonic()
    out, err = process.communicate(timeout=2 * LOST_SECONDS)
    assert time.monotonic() - began < LOST_SECONDS
    assert process.returncode == 6, err
    error = json.loads(out)["error"]
    assert error["type"] == "ExecutorError"
    assert "the scheduler at tcp://127.0.0.1:" in error["message"] and "--resume" in error["message"]
    # What had been said before, and one line.
    assert err.splitlines()[-1].startswith("gpukm train: the scheduler") and "Traceback" not in err, err
    second = Cluster(tmp_path / "second")
    try:
        second.scheduler()
        second.worker()
        resumed = gpukm(*kept, "--resume", "--cluster", f"file:{second.file}")
    finally:
        second.close()
    assert resumed.code == 0, resumed.err
    assert resumed.data["id"] == undisturbed["id"]
    assert 0 < resumed.data["resumed_from_iteration"] < 150
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("restarted", [False, True], ids=["gone", "restarted"])
def test_the_scheduler_lost_while_nothing_is_awaited(
    numbers: Path, cluster: Cluster, tmp_path: Path, restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies between two steps of a generator; another one at its place knows nothing of the fit."""
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "5s"}), cluster.client(2) as client:
        fit = fit_iter(str(numbers), 64, init="random", tol=0, executor=client)
        for _ in range(3):
            next(fit)
        port = client.scheduler.address.rpartition(":")[2]
        cluster.close()
        if restarted:
            cluster.scheduler("--port", port)
            cluster.worker()
        began = time.monotonic()
        with pytest.raises(ExecutorError, match=r"^the (scheduler|cluster) at tcp://"):
            for _ in range(3):
                next(fit)
        assert time.monotonic() - began < LOST_SECONDS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_client_that_is_broken_off_leaves_nothing(
    tmp_path: Path, numbers: Path, cluster: Cluster, number: signal.Signals
) -> None:
    with cluster.client(2) as client:
        before = tasks(client)
        kept = ("--checkpoint", "c", "--checkpoint-seconds", "0")
        if number == signal.SIGKILL:
            # Nobody is left to say that the shards are not needed: workers notice that nobody asks for them.
            be_idle_after(client, 1)
        process = start(tmp_path, *FIT, "100000", *kept, "--cluster", f"file:{cluster.file}")
        saved(tmp_path / "c", process)
        assert tasks(client) > before and open_placements(client) > 0
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -9), err
        assert "Traceback" not in err, err
        wait_until(lambda: tasks(client) == before, "the tasks to go", 10)
        wait_until(lambda: open_placements(client) == 0, "the shards to be closed", 10)
        assert len(there(client)) == 2
        # Nothing of it is in the way of others.
        assert kmeans(str(numbers), 3, executor=client).digest() == kmeans(str(numbers), 3).digest()


def test_two_clients_at_once(tmp_path: Path, numbers: Path, cluster: Cluster) -> None:
    """They share the workers, and have each its own bits."""
    settings: list[dict[str, Any]] = [
        {"n_clusters": 64, "init": "random", "tol": 0, "max_iter": 40, "seed": 1},
        {"n_clusters": 5, "init": "k-means++", "n_init": 2, "metric": "cosine", "max_iter": 20},
    ]
    alone = [kmeans(str(numbers), **s).digest() for s in settings]
    found: dict[int, str] = {}

    def fit(number: int) -> None:
        with cluster.client(2) as client:
            for _ in range(2):
                found[number] = kmeans(str(numbers), executor=client, **settings[number]).digest()

    both = [threading.Thread(target=fit, args=(number,)) for number in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(100)
    assert [found.get(number) for number in range(2)] == alone


def test_no_process_outlives_the_program(tmp_path: Path, numbers: Path) -> None:
    """A cluster that the program starts goes with it, also when Ctrl-C comes in the middle of a fit."""
    process = start(tmp_path, *FIT, "100000", "--checkpoint", "c", "--checkpoint-seconds", "0", "--cluster", "local:2")
    saved(tmp_path / "c", process)
    children = [pid for pid in _descendants(process.pid) if "spawn_main" in _command(pid)]
    assert len(children) >= 2
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=40)
    assert process.returncode == 130, err
    assert "Traceback" not in err, err
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "workers to end", 10)


def _descendants(pid: int) -> list[int]:
    """Processes that it started, and those that they did."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *_descendants(child)]
    return found


def _command(pid: int) -> str:
    """Its command line."""
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
