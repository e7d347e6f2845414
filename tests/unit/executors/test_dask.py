"""Fits on a Dask cluster have the bits of fits in this process, whatever befalls the workers."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest

from gpukm import KMeans, kmeans
from gpukm.backends.select import Choice
from gpukm.core import lloyd, pooled, stretch
from gpukm.errors import ConfigError, DataError, ExecutorError
from gpukm.executors.dask import mailbox, rounds, worker
from gpukm.executors.dask.executor import DaskExecutor, share_out
from gpukm.executors.local import LocalExecutor
from gpukm.functional import fit_iter
from gpukm.problem import look_there
from gpukm.sources.npy import NpySource

K = 20
pytestmark = pytest.mark.timeout(90)


def rows(n: int = 3000, d: int = 6, dtype: Any = np.float32) -> np.ndarray:
    """Overlapping groups."""
    rng = np.random.default_rng(5)
    return (rng.normal(size=(n, d)) + 3 * rng.integers(0, 3, size=(n, 1))).astype(dtype)


@pytest.fixture
def path(tmp_path: Path) -> str:
    np.save(tmp_path / "rows.npy", rows())
    return str(tmp_path / "rows.npy")


SETTINGS: list[dict[str, Any]] = [
    {},
    {"init": "k-means++", "n_clusters": 7},
    {"init": "random", "n_init": 2},
    {"init": rows()[:K]},
    {"metric": "cosine"},
    {"quality": "best", "max_iter": 2},
    {"tol": 0.0, "max_iter": 20},
    {"n_clusters": 1},
    {"n_clusters": 2900, "max_iter": 3},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_path_has_the_bits_of_one_process(client: distributed.Client, path: str, settings: dict[str, Any]) -> None:
    settings = {"n_clusters": K, **settings}
    alone, there = kmeans(path, **settings), kmeans(path, executor=client, **settings)
    assert there.digest() == alone.digest()
    assert there.history == alone.history
    assert (there.counts == alone.counts).all()
    assert there.settings == alone.settings


@pytest.mark.parametrize("settings", [SETTINGS[0], SETTINGS[-3], SETTINGS[-1]], ids=str)
def test_steps_that_are_asked_for_one_by_one(client: distributed.Client, path: str, settings: dict[str, Any]) -> None:
    settings, executor = {"n_clusters": K, **settings}, DaskExecutor(client, round_seconds=0)
    alone, there = kmeans(path, **settings), kmeans(path, executor=executor, **settings)
    assert there.digest() == alone.digest()
    assert there.history == alone.history


def test_workers_go_from_iteration_to_iteration_by_themselves(client: distributed.Client, path: str) -> None:
    steps = list(fit_iter(path, K, executor=client))
    assert sum(len(step.state.records) for step in steps) > 20
    assert len(steps) < 5
    tasks = kmeans(path, K, executor=client, init=rows()[:K], tol=0.0, max_iter=25).work
    assert tasks is not None and tasks["tasks"] < 25


def test_workers_that_share_a_process(path: str) -> None:
    alone = kmeans(path, K, init=rows()[:K], tol=0.0)
    options: dict[str, Any] = {"n_workers": 3, "threads_per_worker": 1, "processes": False}
    options |= {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": None}
    with (
        distributed.LocalCluster(host="127.0.0.1", protocol="tcp", **options) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        there = kmeans(path, K, init=rows()[:K], tol=0.0, executor=client)
    assert there.digest() == alone.digest()
    assert there.work is not None and 0 <= there.work["bytes_moved"] < 1e7
    assert there.history == alone.history  # also the rows moved, which a round made twice would tell wrongly


def test_parts_of_a_lost_worker_are_not_opened_before_they_are_needed(client: distributed.Client, path: str) -> None:
    executor = DaskExecutor(client)
    problem = look_there(NpySource(path), executor, Choice(), K, 300, 1e-4, "euclidean", 100, 1)
    lost, left = client.run(os.getpid)
    opened = client.run(worker.opened, workers=[left])
    os.kill(client.run(os.getpid, workers=[lost])[lost], signal.SIGKILL)
    time.sleep(1.5)
    assert client.run(worker.opened, workers=[left]) == opened
    problem.rows.close()
    client.wait_for_workers(2, timeout=30)


def _deafen(dask_worker: Any) -> None:
    """Have this worker not understand what others say."""
    dask_worker.handlers[mailbox.HEAR] = dask_worker.handlers["identity"]


def test_a_worker_that_cannot_be_told_costs_time_and_no_bit(client: distributed.Client, path: str) -> None:
    alone = kmeans(path, K)
    kmeans(path, K, executor=client, max_iter=1)
    client.run(_deafen, workers=list(client.scheduler_info()["workers"])[:1])
    began = time.monotonic()
    there = kmeans(path, K, executor=client)
    assert there.digest() == alone.digest()
    assert [record.shift for record in there.history] == [record.shift for record in alone.history]
    assert time.monotonic() - began < 20


def _fail(marker: str) -> None:
    """Have the third step of the first worker that comes to it fail."""
    step, calls = lloyd._step, itertools.count(1)

    @functools.wraps(step)
    def failing(*args: Any) -> Any:
        if next(calls) == 3:
            with suppress(FileExistsError):
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
                raise DataError("this step went wrong")
        return step(*args)

    lloyd._step = failing


def test_a_step_that_fails_between_two_rounds_is_an_error_at_once(
    client: distributed.Client, path: str, tmp_path: Path
) -> None:
    client.run(_fail, str(tmp_path / "failed"))
    began = time.monotonic()
    with pytest.raises(DataError, match="this step went wrong"):
        kmeans(path, K, executor=client, init=rows()[:K], tol=0.0)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("weighted", [False, True])
def test_an_array_travels_to_the_workers(client: distributed.Client, weighted: bool) -> None:
    x = rows(dtype=np.float64)
    w = np.random.default_rng(1).integers(0, 4, size=len(x)).astype(float) if weighted else None
    alone = kmeans(x, K, sample_weight=w, max_iter=3)
    assert kmeans(x, K, sample_weight=w, executor=client, max_iter=3).digest() == alone.digest()
    model = KMeans(K, random_state=0, max_iter=3, executor=client).fit(x, sample_weight=w)
    assert (model.labels_ == alone.labels).all()


def test_dask_arrays_and_frames_stay_on_the_cluster(client: distributed.Client) -> None:
    dask = pytest.importorskip("dask.array")
    pandas = pytest.importorskip("pandas")
    frames = pytest.importorskip("dask.dataframe")
    x = rows()
    alone = kmeans(x, K, max_iter=3).digest()
    # Blocks of other widths, one without rows, fewer rows than clusters in some.
    blocks = dask.from_array(x, chunks=((7, 0, 2000, 993), (4, 2)))
    assert kmeans(blocks, K, executor=client, max_iter=3).digest() == alone
    w = np.arange(len(x)) % 3
    weighted = kmeans(x, K, sample_weight=w, max_iter=3).digest()
    assert kmeans(blocks, K, executor=client, max_iter=3, sample_weight=w).digest() == weighted
    assert (
        kmeans(blocks, K, executor=client, max_iter=3, sample_weight=dask.from_array(w, chunks=500)).digest()
        == weighted
    )
    frame = pandas.DataFrame(x, columns=list("abcdef"))
    frame["name"] = "x"
    assert kmeans(frames.from_pandas(frame, npartitions=5), K, executor=client, max_iter=3).digest() == alone


def test_rows_that_are_not_held_are_read_in_every_pass(path: str, client: distributed.Client) -> None:
    choice, executor = Choice(), DaskExecutor(client)
    executor.room_bytes = lambda: 1000  # type: ignore[method-assign]
    problem = look_there(NpySource(path), executor, choice, K, 300, 1e-4, "euclidean", 100, 5)
    start = np.ascontiguousarray(rows()[:K])
    *_, last = lloyd.iterate(problem, start)
    alone = kmeans(path, K, init=start)
    assert last.centroids.tobytes() == alone.centroids.tobytes()


def test_what_workers_find_wrong_is_said_as_here(client: distributed.Client, tmp_path: Path) -> None:
    x = rows()
    x[2990, 3] = np.nan
    np.save(tmp_path / "bad.npy", x)
    for data in (x, str(tmp_path / "bad.npy")):
        with pytest.raises(DataError, match=r"NaN.*feature 3"):
            kmeans(data, K, executor=client)
    with pytest.raises(DataError, match="n_samples=3 should be >= n_clusters=20"):
        kmeans(rows(3), K, executor=client)
    with pytest.raises(ConfigError, match=r"expected 'local' or a distributed\.Client"):
        kmeans(x, K, executor="dusk")
    with pytest.raises(ConfigError, match="callable init needs data in memory"):
        kmeans(rows(), K, executor=client, init=lambda x, k, random_state: x[:k])


def _strike(where: tuple[str, str], marker: str, signal_number: int) -> None:
    """Have this process struck the first time that a function is called in any of them."""
    import importlib

    place: Any = importlib.import_module(where[0])
    *path, name = where[1].split(".")
    for part in path:
        place = getattr(place, part)
    function = getattr(place, name)

    def struck(*args: Any, **kwargs: Any) -> Any:
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return function(*args, **kwargs)
        os.kill(os.getpid(), signal_number)
        return function(*args, **kwargs)

    # Marks of a step are kept.
    setattr(place, name, functools.update_wrapper(struck, function))


PHASES = {
    "load": (stretch.__name__, "Stretch.open"),
    "look": ("gpukm.problem", "_look"),
    "sample": ("gpukm.core.seeding", "_rows_at"),
    "seed": (pooled.__name__, "_choose"),
    "step": (lloyd.__name__, "_step"),
    "reduce": (worker.__name__, "merge_all"),
    "move": (lloyd.__name__, "_move"),
    "meet": (rounds.__name__, "exchange"),
    "finish": (lloyd.__name__, "finish_shard"),
}


@pytest.mark.parametrize(
    "phase", [p if p in ("step", "meet") else pytest.param(p, marks=pytest.mark.slow) for p in PHASES]
)
def test_a_killed_worker_costs_time_and_no_bit(
    path: str, tmp_path: Path, client: distributed.Client, phase: str
) -> None:
    marker = str(tmp_path / "struck")
    alone = kmeans(path, K, init="pooled")
    client.wait_for_workers(2)
    client.run(_strike, PHASES[phase], marker, signal.SIGKILL)
    there = kmeans(path, K, init="pooled", executor=client)
    assert Path(marker).exists(), "no worker was killed"
    assert there.digest() == alone.digest()


def kill_workers(client: distributed.Client) -> None:
    """All at once; their nannies start new ones."""
    client.wait_for_workers(2)
    for pid in client.run(os.getpid).values():
        os.kill(pid, signal.SIGKILL)


def test_all_workers_killed_are_waited_for(path: str, client: distributed.Client) -> None:
    alone = kmeans(path, K)
    fit = fit_iter(path, K, executor=DaskExecutor(client, round_seconds=0))
    for _ in range(3):
        next(fit)
    kill_workers(client)
    try:
        while True:
            next(fit)
    except StopIteration as end:
        assert end.value.digest() == alone.digest()


def test_a_file_that_changed_is_an_error_where_it_is_read_again(path: str, client: distributed.Client) -> None:
    fit = fit_iter(path, K, executor=DaskExecutor(client, round_seconds=0))
    next(fit)
    changed = rows()
    changed[17, 2] += 1e-3
    np.save(path, changed)
    kill_workers(client)
    with pytest.raises(DataError, match="not what they were when they were first read"):
        for _ in range(100):
            next(fit)


def test_a_connection_that_has_just_broken_is_a_scheduler_that_is_lost(
    client: distributed.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client takes a moment to see it itself."""

    async def broken(futures: Any, asynchronous: bool) -> None:
        raise distributed.comm.CommClosedError("in <TCP (closed) ConnectionPool.gather>: Stream is closed")

    executor = DaskExecutor(client)
    made = executor.apply(int, 3)
    assert executor.fetch(made) == 3
    monkeypatch.setattr(client, "gather", broken)
    with pytest.raises(ExecutorError, match=r"^the scheduler at tcp://.* was lost \(the connection broke.*--resume"):
        executor.fetch(made)


def test_small_values_go_along_and_large_ones_are_shared(client: distributed.Client) -> None:
    executor = DaskExecutor(client)
    executor.workers()
    small, large, odd = (executor.share(v) for v in (np.arange(10), np.zeros(1 << 16), lambda: 3))
    assert executor.work()["tasks"] == 0
    assert executor.fetch(odd)() == 3 and executor.fetch(large) is large.value
    assert executor.fetch(executor.apply(np.sum, small)) == 45 and executor.work()["tasks"] == 1
    assert executor.fetch(executor.apply(np.sum, large)) == 0 and executor.work()["tasks"] == 3
    assert executor.fetch(executor.apply(np.max, large)) == 0 and executor.work()["tasks"] == 4
    assert executor.fetch(executor.apply(_called, odd)) == 3 and executor.work()["tasks"] == 6


def _called(function: Any) -> Any:
    return function()


@pytest.mark.parametrize("resources", [{}, {"GPU": 1}], ids=["any", "gpu"])
def test_a_worker_that_dies_as_its_value_is_fetched(
    resources: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task was meant for it, and is done again by the other one."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", resources={"GPU": 1}, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        executor = DaskExecutor(client, resources)
        placed = executor.place([Plus(n) for n in range(4)])
        there = executor._wait
        killed = []

        def wait_and_kill(futures: Any) -> None:
            there(futures)
            if not killed:
                killed.extend(client.run(os.getpid, workers=[min(client.scheduler_info()["workers"])]).values())
                os.kill(killed[0], signal.SIGKILL)
                time.sleep(0.2)

        monkeypatch.setattr(executor, "_wait", wait_and_kill)
        assert placed.map(add, 1) == [1, 2, 3, 4] and killed
        placed.close()


def test_a_cluster_without_workers_is_an_error(client: distributed.Client) -> None:
    nobody = DaskExecutor(client, {"GPU": 1}, patience_seconds=0.3)
    with pytest.raises(ExecutorError, match="no worker that offers GPU=1 for 0 s; start some"):
        nobody.workers()


def test_a_gpu_that_no_worker_offers_is_said_at_once(client: distributed.Client) -> None:
    with pytest.raises(ExecutorError, match="no worker offers GPU=1"):
        kmeans(rows(), K, executor=client, backend="torch")


def test_sharing_out() -> None:
    first, moved = share_out(10, {}, {"a": 1, "b": 1})
    assert [first[i] for i in range(10)] == ["a"] * 5 + ["b"] * 5
    assert moved == list(range(10))
    # A late joiner gets its share, and no other part moves.
    second, moved = share_out(10, first, {"a": 1, "b": 1, "c": 1})
    assert sorted(second.values()).count("c") == len(moved)
    assert 3 <= len(moved) <= 4
    assert all(second[i] == first[i] for i in range(10) if i not in moved)
    # Whoever is lost loses all, and threads count.
    third, moved = share_out(10, second, {"b": 3, "c": 1})
    assert set(third.values()) == {"b", "c"}
    assert sorted(third.values()).count("b") in (7, 8)
    # More workers than parts.
    few, _ = share_out(2, {}, dict.fromkeys("abcde", 2))
    assert len(set(few.values())) == 2
    assert share_out(3, {0: "a", 1: "a", 2: "b"}, {"a": 2, "b": 1}) == ({0: "a", 1: "a", 2: "b"}, [])


def test_the_interface_of_the_local_executor() -> None:
    executor = LocalExecutor()
    parts = executor.place([Plus(1), Plus(2), Plus(3)])
    assert parts.map(add, 10) == [11, 12, 13]
    assert parts.map(add, each={2: (1,), 0: (5,)}) == [6, 4]
    assert parts.reduce(add, int.__add__, 10) == [36]
    assert parts.reduce(add, int.__add__, 10, cut=lambda n: [n // 10, n % 10], pieces=2) == [3, 6]


class Plus:
    """A part that is a number."""

    def __init__(self, n: int) -> None:
        self.n = n

    def open(self) -> int:
        return self.n


def add(n: int, m: int) -> int:
    return n + m


def test_the_same_interface_on_workers(client: distributed.Client) -> None:
    executor = DaskExecutor(client)
    parts = executor.place([Plus(1), Plus(2), Plus(3)])
    plus, seven = executor.share(10), executor.apply(add, 3, 4)
    assert executor.fetch(seven) == 7
    assert parts.map(add, plus) == [11, 12, 13]
    assert parts.map(add, each={2: (1,), 0: (5,)}) == [6, 4]
    assert executor.fetch(parts.reduce(add, int.__add__, plus)[0]) == 36
    halves = parts.reduce(add, join, 10, cut=digits, pieces=2)
    # Tens and ones of what each worker has, added up apart.
    tens, ones = (executor.fetch(half) for half in halves)
    assert 10 * tens + ones == 36
    parts.close()


def digits(n: int) -> list[int]:
    return [n // 10, n % 10]


def join(a: int, b: int) -> int:
    return a + b
