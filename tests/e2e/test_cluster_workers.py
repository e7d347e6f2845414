"""Whatever befalls the workers of a cluster, a job ends with the bits of a run in one undisturbed process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import wait

from gpukm import kmeans
from gpukm.errors import DataError, ExecutorError
from gpukm.executors.dask import worker
from gpukm.executors.dask.executor import DaskExecutor
from gpukm.pipeline.cluster import open_executor
from tests.faults import (
    Always,
    Bits,
    Cluster,
    Job,
    Pausing,
    spilled,
    struck,
    there,
    wait_until,
    write_rows,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("data") / "rows")


@pytest.fixture(scope="module")
def undisturbed(source: str, tmp_path_factory: pytest.TempPathFactory) -> Bits:
    """The job in this process."""
    return Job.of(source, tmp_path_factory.mktemp("here")).run()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters of a test's own, with Dask's settings as given."""
    made: list[Cluster] = []

    def make(**config: str) -> Cluster:
        made.append(Cluster(tmp_path / f"cluster{len(made)}", **config))
        made[-1].scheduler()
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Three workers, which their nannies start again."""
    cluster = Cluster(tmp_path_factory.mktemp("standing"))
    try:
        cluster.scheduler()
        for _ in range(3):
            cluster.worker(nanny=True)
        with cluster.client(3) as client:
            yield client
    finally:
        cluster.close()


#: Each phase of train and assign, and a function that workers call in it.
PHASES = {
    "preprocess": "gpukm.preprocessing.survey:look",
    "count": "gpukm.sources.ranges:_attempted",
    "quantiles": "gpukm.preprocessing.fitting:_search",
    "covariance": "gpukm.preprocessing.fitting:_gram",
    "read": "gpukm.pipeline.reading:_take",
    "load": "gpukm.core.stretch:Stretch.open",
    "first look": "gpukm.problem:_look",
    "sample": "gpukm.core.seeding:_rows_at",
    "seed": "gpukm.core.pooled:_choose",
    "step": "gpukm.core.lloyd:_step",
    "reduce": "gpukm.executors.dask.worker:merge_all",
    "move": "gpukm.core.lloyd:_move",
    "meet": "gpukm.executors.dask.rounds:exchange",
    "finish": "gpukm.core.lloyd:finish_shard",
    "survey": "gpukm.core.summary:survey",
    "summarize": "gpukm.pipeline.content:_describe",
    "assign": "gpukm.pipeline.assigning:_write_part",
}


@pytest.mark.parametrize("after", [False, True], ids=["begun", "done"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_worker_killed(
    standing: Any, source: str, undisturbed: Bits, tmp_path: Path, phase: str, after: bool
) -> None:
    standing.wait_for_workers(2, timeout=40)
    with struck(standing, PHASES[phase], tmp_path / "struck", after=after):
        found = Job.of(source, tmp_path / "job").run(DaskExecutor(standing))
    assert found == undisturbed


def step_by_step(client: Any) -> DaskExecutor:
    """An executor that is asked for every iteration, so that something can happen between two."""
    return DaskExecutor(client, round_seconds=0)


def pids(client: Any) -> list[int]:
    """Of all workers."""
    return list(client.run(os.getpid).values())


def test_all_workers_killed_and_started_again(standing: Any, source: str, undisturbed: Bits, tmp_path: Path) -> None:
    standing.wait_for_workers(3, timeout=40)

    def kill() -> None:
        for pid in pids(standing):
            os.kill(pid, signal.SIGKILL)

    job = Job.of(source, tmp_path / "job")
    assert job.run(step_by_step(standing), progress=Pausing(i7=kill)) == undisturbed


def test_all_workers_lost_and_a_new_cluster(
    cluster: Callable[..., Cluster], source: str, undisturbed: Bits, tmp_path: Path
) -> None:
    job = Job.of(source, tmp_path / "job", checkpoint_seconds=0)
    first = cluster()
    lost = [first.worker() for _ in range(2)]
    with first.client(2) as client:
        began = time.monotonic()
        with pytest.raises(ExecutorError, match=r"^the cluster at tcp://\S+ has had no worker for 2 s; start some$"):
            job.train(
                DaskExecutor(client, patience_seconds=2, round_seconds=0),
                checkpoints=job.saved(),
                progress=Pausing(i7=lambda: [w.kill() for w in lost]),
            )
        assert time.monotonic() - began < 30
    first.close()
    second = cluster()
    second.worker()
    with second.client() as client:
        done = job.train(DaskExecutor(client), checkpoints=job.saved(), resume=True)
        assert 1 <= done.resumed_from <= 7
        assert job.bits(done, DaskExecutor(client)) == undisturbed


@pytest.mark.parametrize("back", [False, True], ids=["gone", "back"])
def test_a_worker_stopped_beyond_its_time_out(
    cluster: Callable[..., Cluster], source: str, undisturbed: Bits, tmp_path: Path, back: bool
) -> None:
    """As on a machine that hangs; where it comes back it was given up, and does no harm."""
    one = cluster(SCHEDULER__WORKER_TTL="1s")
    stopped, _, _ = (one.worker() for _ in range(3))
    with one.client(3) as client:
        at = {"i5": lambda: stopped.send_signal(signal.SIGSTOP)}
        if back:
            at["i9"] = lambda: stopped.send_signal(signal.SIGCONT)
        job = Job.of(source, tmp_path / "job")
        began = time.monotonic()
        assert job.run(step_by_step(client), progress=Pausing(**at)) == undisturbed
        assert time.monotonic() - began < 40
        assert back or len(there(client)) == 2
        stopped.send_signal(signal.SIGCONT)


def test_a_worker_stopped_where_the_others_wait_for_it(
    cluster: Callable[..., Cluster], source: str, undisturbed: Bits, tmp_path: Path
) -> None:
    one = cluster(SCHEDULER__WORKER_TTL="1s")
    for _ in range(3):
        one.worker()
    with one.client(3) as client:
        job, began = Job.of(source, tmp_path / "job"), time.monotonic()
        with struck(client, PHASES["meet"], tmp_path / "struck", signal.SIGSTOP):
            assert job.run(DaskExecutor(client)) == undisturbed
        assert time.monotonic() - began < 40


def test_three_workers_then_one_then_four(
    cluster: Callable[..., Cluster], source: str, undisturbed: Bits, tmp_path: Path
) -> None:
    one = cluster()
    for _ in range(3):
        one.worker()
    seen: dict[str, dict[str, int]] = {}
    with one.client(3) as client:

        def fewer() -> None:
            client.retire_workers(sorted(there(client))[:2])
            wait_until(lambda: len(there(client)) == 1, "two workers to leave")
            time.sleep(1.1)

        def more() -> None:
            seen["alone"] = client.run(worker.opened)
            for _ in range(3):
                one.worker()
            wait_until(lambda: len(there(client)) == 4, "three workers to come")
            time.sleep(1.1)  # workers are looked for every second

        def note() -> None:
            seen["four"] = client.run(worker.opened)

        job = Job.of(source, tmp_path / "job")
        progress = Pausing(i5=fewer, i10=more, i15=note)
        assert job.run(step_by_step(client), progress=progress) == undisturbed
    assert len(seen["alone"]) == 1 and len(seen["four"]) == 4
    late = set(seen["four"]) - set(seen["alone"])
    assert all(seen["four"][address] >= 2 for address in late), seen


def test_only_workers_that_offer_a_gpu_are_asked(
    cluster: Callable[..., Cluster], source: str, undisturbed: Bits, tmp_path: Path
) -> None:
    """The resource is a word: here of workers without one. One of them dies in a step, and another does its part."""
    one = cluster()
    for _ in range(2):
        one.worker("--resources", "GPU=1")
        one.worker()
    job = Job.of(source, tmp_path / "job", cluster=f"file:{one.file}")
    with one.client(4) as client, open_executor(job.settings, [source]) as executor:
        with struck(client, "gpukm.core.lloyd:_step", tmp_path / "struck"):
            assert job.run(executor) == undisturbed
        opened = client.run(worker.opened)
        for address, info in there(client).items():
            assert (opened[address] > 0) == ("GPU" in info["resources"])
        assert len(opened) == 3


def test_blocks_on_other_workers_do_not_draw_tasks_there(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """Dask would send the task of a worker that was lost to where its block lies, resource or not."""
    da = pytest.importorskip("dask.array")
    one = cluster()
    for _ in range(3):
        one.worker()
    x = np.random.default_rng(3).normal(size=(4000, 8)).astype(np.float32)
    with one.client(3) as client:
        blocks = client.persist(da.from_array(x, chunks=(500, 8)))
        with client.as_current():
            wait(blocks, timeout=30)
        for _ in range(2):
            one.worker("--resources", "GPU=1")
        client.wait_for_workers(5, timeout=40)
        alone = kmeans(x, 20, init="random", tol=0, max_iter=20).digest()
        with struck(client, "gpukm.core.lloyd:_step", tmp_path / "struck"):
            on_gpu = DaskExecutor(client, {"GPU": 1})
            found = kmeans(blocks, 20, init="random", tol=0, max_iter=20, executor=on_gpu)
        assert found.digest() == alone


def test_workers_that_offer_no_gpu_are_no_workers(cluster: Callable[..., Cluster], source: str, tmp_path: Path) -> None:
    one = cluster()
    one.worker()
    named = Job.of(source, tmp_path / "job", cluster=f"file:{one.file}", backend="torch").settings
    words = "no worker offers GPU=1, which each task asks for"
    with pytest.raises(ExecutorError, match=words), open_executor(named, [source]):
        pass


def test_workers_that_die_of_a_task_are_an_error(cluster: Callable[..., Cluster], source: str, tmp_path: Path) -> None:
    one = cluster()
    for _ in range(2):
        one.worker(nanny=True)
    with one.client(2) as client:
        client.register_plugin(Always("gpukm.core.lloyd:_step", "die"))
        with pytest.raises(
            ExecutorError, match=r"^workers died again and again of the same task \(.*more memory|memory"
        ):
            Job.of(source, tmp_path / "job").train(DaskExecutor(client))


def test_workers_without_memory_are_an_error(cluster: Callable[..., Cluster], source: str, tmp_path: Path) -> None:
    one = cluster(SCHEDULER__ALLOWED_FAILURES="1")
    for _ in range(2):
        one.worker("--memory-limit", "500MB", nanny=True)
    with one.client(2) as client:
        client.register_plugin(Always("gpukm.pipeline.reading:_take", "eat"))
        with pytest.raises(ExecutorError, match="they may lack memory"):
            Job.of(source, tmp_path / "job").train(DaskExecutor(client))


def test_workers_whose_memory_is_full_are_an_error(
    cluster: Callable[..., Cluster], source: str, tmp_path: Path
) -> None:
    """Dask pauses them, and would wait for ever."""
    one = cluster(WORKER__MEMORY__PAUSE="0.01")
    one.worker("--memory-limit", "2GB")
    with one.client() as client:
        wait_until(lambda: {info["status"] for info in there(client).values()} == {"paused"}, "a pause")
        words = (
            r"has had no worker for 1 s that takes tasks \(1 are paused, as their memory is nearly full\); start some"
        )
        with pytest.raises(ExecutorError, match=words):
            Job.of(source, tmp_path / "job").train(DaskExecutor(client, patience_seconds=1))


def test_values_that_are_spilled_to_disk_are_the_same(
    cluster: Callable[..., Cluster], source: str, undisturbed: Bits, tmp_path: Path
) -> None:
    one = cluster(WORKER__MEMORY__TARGET="0.000000001")
    for _ in range(2):
        one.worker("--memory-limit", "2GB")
    with one.client(2) as client:
        found: list[int] = []
        progress = Pausing(i10=lambda: found.extend(spilled(client)))
        assert Job.of(source, tmp_path / "job").run(step_by_step(client), progress=progress) == undisturbed
        assert sum(found) > 0


@pytest.mark.parametrize("n_rows", [13, 40])
def test_few_rows_and_many_threads(cluster: Callable[..., Cluster], tmp_path: Path, n_rows: int) -> None:
    """More workers than rows to share out, two tasks at once on each, and more clusters than a shard has rows."""
    da = pytest.importorskip("dask.array")
    one = cluster()
    for _ in range(3):
        one.worker(threads=2)
    x = np.random.default_rng(3).normal(size=(n_rows, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    with one.client(3) as client:
        for k in (1, 5, n_rows):
            alone = kmeans(x, k, max_iter=5).digest()
            assert kmeans(str(tmp_path / "x.npy"), k, max_iter=5, executor=client).digest() == alone
            assert kmeans(x, k, max_iter=5, executor=client).digest() == alone
            blocks = da.from_array(x, chunks=((0, 2, 0, n_rows - 5, 3, 0), (3,)))
            assert kmeans(blocks, k, max_iter=5, executor=client).digest() == alone


def test_workers_of_two_threads(
    cluster: Callable[..., Cluster], source: str, undisturbed: Bits, tmp_path: Path
) -> None:
    one = cluster()
    for _ in range(2):
        one.worker(threads=2)
    with one.client(2) as client, struck(client, "gpukm.core.lloyd:_step", tmp_path / "struck"):
        assert Job.of(source, tmp_path / "job").run(DaskExecutor(client)) == undisturbed


def test_rows_that_went_away_are_said_once(cluster: Callable[..., Cluster], source: str, tmp_path: Path) -> None:
    """Shards of a worker that was lost cannot be read again: that is no fault of a worker, and is not tried again."""
    mine = Path(write_rows(tmp_path / "mine"))
    one = cluster()
    lost, _ = one.worker(), one.worker()
    with one.client(2) as client:
        left: dict[str, int] = {}

        def remove() -> None:
            for file in mine.iterdir():
                file.unlink()
            lost.kill()
            wait_until(lambda: len(there(client)) == 1, "the worker to be missed")
            left.update(client.run(worker.opened))

        with pytest.raises(DataError, match=r"mine/\d\.csv"):
            Job.of(str(mine), tmp_path / "job").train(step_by_step(client), progress=Pausing(i5=remove))
        assert client.run(worker.opened) == left
