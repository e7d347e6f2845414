"""What workers are checked for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpukm.errors import ExecutorError
from gpukm.executors.dask import preflight as module
from gpukm.executors.dask.clusters import open_cluster
from gpukm.executors.dask.preflight import WorkerFacts, Workforce, check_versions, preflight, survey


def test_what_workers_tell_of_themselves(client: Any) -> None:
    import gpukm

    found = preflight(client)
    assert len(found.workers) == 2 and found.threads == 4 and not found.warnings
    for worker in found.workers:
        assert worker.gpukm == gpukm.__version__
        assert worker.python == ".".join(map(str, os.sys.version_info[:3]))  # type: ignore[attr-defined]
        assert worker.numpy == np.__version__
        assert worker.memory_bytes > 1 << 28 and worker.host and worker.native
    head, *lines = found.lines()
    assert head[0] == "WORKER" and [line[0] for line in lines] == [w.address for w in found.workers]
    assert found.scheduler == client.scheduler.address


def test_resources_that_nobody_offers_are_an_error_at_once(client: Any) -> None:
    with pytest.raises(ExecutorError) as caught:
        preflight(client, needs={"GPU": 1})
    text = str(caught.value)
    assert "no worker offers GPU=1" in text and "--resources GPU=1" in text
    for worker in survey(client).workers:
        assert worker.address in text
    assert "2 threads" in text and "GiB" in text


def test_paths_are_tried_where_they_will_be_read(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    monkeypatch.chdir(tmp_path)  # workers are elsewhere
    assert len(preflight(client, paths=["x.npy", str(tmp_path), "*.npy"]).workers) == 2
    with pytest.raises(ExecutorError, match=r"y\.npy cannot be read on workers tcp://.* of 2: .*x\.npy") as caught:
        preflight(client, paths=["x.npy", "y.npy"])
    for worker in survey(client).workers:
        assert worker.address in str(caught.value)


def test_a_url_that_workers_do_not_reach_is_shown_without_secrets(client: Any) -> None:
    with pytest.raises(ExecutorError) as caught:
        preflight(client, paths=["memory://me:hunter2@none/x.parquet?token=hunter2"])
    assert "hunter2" not in str(caught.value) and "memory://" in str(caught.value)


def _facts(**changes: Any) -> WorkerFacts:
    """A worker as there might be."""
    here = WorkerFacts(
        "tcp://10.0.0.1:1", "a", "h", module._own_version(), "", ".".join(map(str, module.sys.version_info[:3])),
        np.__version__, "2026.1.0", 2, 1 << 30, {}, (), True, {},
    )  # fmt: skip
    return replace(here, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpukm": None, "missing": "no module"}, "gpukm cannot be imported on worker tcp://10.0.0.2:2: no module"),
        ({"missing": "no libgomp"}, "gpukm cannot be imported on worker tcp://10.0.0.2:2: no libgomp; install gpukm"),
        ({"gpukm": "0.0.9", "missing": "no readable"}, "version of gpukm than"),
        ({"gpukm": "0.0.9"}, r"version of gpukm than .*: 0\.0\.9 on worker tcp://10.0.0.2:2; install the same"),
        ({"python": "2.7.18"}, r"version of python than .*: 2\.7\.18"),
        ({"numpy": "1.26.4"}, r"version of numpy than .*: 1\.26\.4"),
        ({"numpy": None}, "version of numpy than .*: none"),
    ],
)
def test_versions_that_matter(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ExecutorError, match=words):
        check_versions(Workforce("tcp://s", (_facts(), _facts(address="tcp://10.0.0.2:2", **changes))))


def test_versions_that_do_not_matter() -> None:
    python = ".".join(map(str, module.sys.version_info[:2])) + ".99"
    major = np.__version__.split(".")[0]
    check_versions(Workforce("tcp://s", (_facts(python=python, numpy=f"{major}.999.0", dask="1999.1.0"),)))


def test_many_workers_are_not_all_listed() -> None:
    workers = tuple(_facts(address=f"tcp://10.0.0.{i}:1", gpukm="9") for i in range(8))
    with pytest.raises(ExecutorError, match="and 3 more"):
        check_versions(Workforce("tcp://s", workers))


def test_another_dask_and_missing_kernels_are_warned_of() -> None:
    found = module._warnings([_facts(dask="1999.1.0", native=False)])
    assert len(found) == 2
    assert "Dask 1999.1.0" in found[0] and "tcp://10.0.0.1:1 have no compiled kernels" in found[1]


@pytest.fixture
def another(dask: Callable[..., Any], tmp_path: Path) -> Iterator[tuple[Any, Callable[..., Any]]]:
    """A cluster of ``dask scheduler``, and a function that starts a worker."""
    path = tmp_path / "scheduler.json"
    dask("scheduler", "--scheduler-file", str(path), "--port", "0", "--host", "127.0.0.1", "--no-dashboard")

    def worker(**options: Any) -> Any:
        more = ("--scheduler-file", str(path), "--host", "127.0.0.1", "--no-dashboard", "--no-nanny", "--nthreads", "1")
        return dask("worker", *more, **options)

    first = worker()
    for _ in range(40):
        if path.exists():
            break
        time.sleep(0.5)
    with open_cluster(f"file:{path}") as client:
        yield client, lambda **options: first if not options else worker(**options)


def test_a_worker_with_another_gpukm_or_none_and_one_that_is_stuck(another: Any, tmp_path: Path) -> None:
    client, start = another
    other = tmp_path / "other" / "gpukm"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise ImportError('no gpukm here')")
    start(env={**os.environ, "PYTHONPATH": str(other.parent)})
    client.wait_for_workers(2, timeout=30)
    with pytest.raises(ExecutorError, match=r"gpukm cannot be imported on worker tcp://127.0.0.1:\d+: .*gpukm"):
        preflight(client)
    first = start()
    os.kill(first.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(ExecutorError, match=r"worker tcp://127.0.0.1:\d+ did not answer within 0\.5 s"):
            preflight(client, seconds=0.5)
        assert time.monotonic() - began < 5
    finally:
        os.kill(first.pid, signal.SIGCONT)


def test_no_worker(another: Any) -> None:
    client, start = another
    start().kill()
    deadline = time.monotonic() + 20
    while client.scheduler_info(n_workers=-1)["workers"] and time.monotonic() < deadline:
        time.sleep(0.1)
    with pytest.raises(ExecutorError, match="has no worker"):
        preflight(client)
