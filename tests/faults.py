"""Clusters of real processes that are killed, stopped and cut off, and one job whose bits are compared.

Tests that use them are slow ones. Processes are those of ``dask scheduler`` and ``dask worker``, as users start them,
and none outlives its test.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
from distributed.diagnostics.plugin import WorkerPlugin

from gpukm.config import Settings
from gpukm.executors import Executor
from gpukm.executors.dask.clusters import open_cluster
from gpukm.pipeline import Progress, assign, train
from gpukm.pipeline.checkpoints import Checkpoints
from gpukm.snapshots import Store

# Workers need not be able to import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Cluster:
    """A scheduler and workers, each a process of its own.

    Parameters
    ----------
    folder : Path
        For logs, and what they write aside.
    config : str
        Of Dask, for all of them: ``SCHEDULER__WORKER_TTL="2s"``.
    """

    def __init__(self, folder: Path, **config: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.file = folder, folder / "scheduler.json"
        self.env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
        self.env.update({f"DASK_DISTRIBUTED__{name}": value for name, value in config.items()})
        self._running: list[subprocess.Popen[bytes]] = []

    def scheduler(self, *arguments: str, host: str = "127.0.0.1", inside: Sequence[str] = ()) -> Any:
        """Start one, and wait until it can be reached."""
        self.file.unlink(missing_ok=True)
        known = ("--scheduler-file", str(self.file), "--host", host, "--no-dashboard", "--dashboard-address", ":0")
        port = () if "--port" in arguments else ("--port", "0")
        process = self.start("scheduler", *known, *port, *arguments, inside=inside)
        wait_until(self.file.exists, f"a scheduler; see {self.folder}")
        return process

    def worker(
        self,
        *arguments: str,
        threads: int = 1,
        nanny: bool = False,
        host: str = "127.0.0.1",
        inside: Sequence[str] = (),
    ) -> Any:
        """Start one, and do not wait; a nanny is a second process that starts it again when it dies."""
        known = ("--scheduler-file", str(self.file), "--nthreads", str(threads), "--host", host)
        more = ("--no-dashboard", "--nanny" if nanny else "--no-nanny", "--local-directory", str(self.folder))
        return self.start("worker", *known, *more, *arguments, inside=inside)

    def start(self, *arguments: str, inside: Sequence[str] = ()) -> Any:
        """Run ``dask`` with these arguments."""
        with (self.folder / f"{len(self._running)}-{arguments[0]}.log").open("wb") as log:
            command = [*inside, sys.executable, "-m", "dask", *arguments]
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        self._running.append(process)
        return process

    @contextmanager
    def client(self, workers: int = 1) -> Iterator[Any]:
        """A client as ``--cluster file:`` has it, once there are so many workers."""
        with open_cluster(f"file:{self.file}") as client:
            client.wait_for_workers(workers, timeout=40)
            yield client

    def close(self) -> None:
        """End all processes, also stopped ones."""
        for process in self._running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def wait_until(true: Callable[[], Any], what: str, seconds: float = 30) -> None:
    """Return once it is true, and fail if that takes too long."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)


def there(client: Any) -> dict[str, Any]:
    """What the scheduler says of its workers, by address."""
    found: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return found


def tasks(client: Any) -> int:
    """How many the scheduler knows."""

    def count(dask_scheduler: Any) -> int:
        return len(dask_scheduler.tasks)

    return int(client.run_on_scheduler(count))


def open_placements(client: Any) -> int:
    """How many hold shards on any worker."""

    def count() -> int:
        from gpukm.executors.dask import worker

        return len(worker._PLACEMENTS)

    return sum(client.run(count).values())


def spilled(client: Any) -> list[int]:
    """How many values each worker has on its disk."""

    def count(dask_worker: Any) -> int:
        return len(dask_worker.data.slow)

    return list(client.run(count).values())


def be_idle_after(client: Any, seconds: float) -> None:
    """Have workers close shards that nobody asks for so soon."""

    def close() -> None:
        from gpukm.executors.dask import worker

        worker.IDLE_SECONDS = seconds
        worker._close_idle()

    client.run(close)


@contextmanager
def struck(client: Any, where: str, marker: Path, number: int = signal.SIGKILL, after: bool = False) -> Iterator[None]:
    """Have that worker struck by a signal which is the first to call a function of gpukm.

    Parameters
    ----------
    client : distributed.Client
    where : str
        ``module:function`` or ``module:class.method``.
    marker : Path
        A file that must not be there; it is made by who is struck.
    number : int
        The signal.
    after : bool
        Strike when the function's work is done and not when it begins.
    """
    client.run(_patch, where, str(marker), number, after)
    yield
    assert marker.exists(), f"{where} was not called"


class Always(WorkerPlugin):
    """Has every worker, also one that comes later, ``die`` of a function of gpukm, or ``eat`` memory in it."""

    def __init__(self, where: str, what: str) -> None:
        self.where, self.what, self.name = where, what, f"{what} of {where}"

    def setup(self, worker: Any) -> None:
        eats, place, name = self.what == "eat", *_place(self.where)

        def dies(*args: Any, **kwargs: Any) -> Any:
            if not eats:
                os.kill(os.getpid(), signal.SIGKILL)
            eaten = []
            while True:  # until the nanny has seen enough, or the test's time is up
                eaten.append(b"x" * (20 << 20))
                time.sleep(0.02 if len(eaten) < 50 else 100)

        setattr(place, name, dies)


def _place(where: str) -> tuple[Any, str]:
    """Whose attribute a function is, and its name."""
    module, _, name = where.partition(":")
    place: Any = importlib.import_module(module)
    *path, name = name.split(".")
    for part in path:
        place = getattr(place, part)
    return place, name


def _patch(where: str, marker: str, number: int, after: bool) -> None:
    """Put a function that strikes in the place of another."""
    place, name = _place(where)
    function = getattr(place, name)

    def strikes(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs) if after else None
        with suppress(FileExistsError):
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), number)
        return found if after else function(*args, **kwargs)

    # Marks of a step are kept.
    setattr(place, name, functools.update_wrapper(strikes, function))


N_ROWS = 3000


def example_rows() -> pa.Table:
    """Overlapping groups without much structure, a few values missing, and weights."""
    rng = np.random.default_rng(11)
    x = rng.normal(size=(N_ROWS, 4)) + 2 * rng.integers(0, 3, size=(N_ROWS, 1))
    names = "abcd"
    columns = {name: pa.array(np.where(rng.random(N_ROWS) < 0.01, np.nan, x[:, i]), from_pandas=True)
               for i, name in enumerate(names)}  # fmt: skip
    return pa.table({"id": np.arange(N_ROWS), **columns, "w": rng.integers(1, 4, N_ROWS).astype(float)})


def write_rows(folder: Path) -> str:
    """As three CSV files: their rows have to be counted, so that there is work before the first pass."""
    folder.mkdir()
    table = example_rows()
    for i in range(3):
        csv.write_csv(table.slice(N_ROWS * i // 3, N_ROWS // 3), folder / f"{i}.csv")
    return str(folder)


@dataclass(frozen=True)
class Bits:
    """What a job came to: the snapshot's id, which covers all that is here but the labels, and parts of it."""

    snapshot: str
    preprocessing: str
    rows: str
    first: str
    centroids: str
    labels: str


@dataclass(frozen=True)
class Job:
    """``train`` and ``assign`` of some rows, which take every phase there is.

    Attributes
    ----------
    source : str
    folder : Path
        For what a run makes.
    settings : Settings
    """

    source: str
    folder: Path
    settings: Settings

    @classmethod
    def of(cls, source: str, folder: Path, **more: Any) -> Job:
        """With settings that make all that there is to do necessary."""
        common: dict[str, Any] = {
            "n_clusters": 12,
            "model": "m",
            "exclude": ("id",),
            "weight_column": "w",
            "null_policy": "mean",
            "step": ("robust", "pca:n_components=3"),
            "init": "pooled",
            "tol": 0.0,
            "max_iter": 30,
        }
        folder.mkdir(exist_ok=True)
        return cls(source, folder, Settings(**{**common, "store": str(folder / "store"), **more}))

    def train(self, executor: Executor | None = None, **more: Any) -> Any:
        """The outcome of training."""
        if executor is not None:
            more = {"n_ranges": 6, **more}
        return train(self.settings, self.source, executor=executor, **more)

    def run(self, executor: Executor | None = None, **more: Any) -> Bits:
        """Train, then label the rows with what came of it."""
        return self.bits(self.train(executor, **more), executor)

    def bits(self, done: Any, executor: Executor | None = None) -> Bits:
        """What a training came to, and what labels come of it."""
        fitted = Store.open(self.settings.store).load("m").fitted
        return Bits(
            done.ref.id,
            str(sorted((name, digest(array)[:8]) for name, array in fitted.tensors().items())),
            done.reading.fingerprint,
            str([(record.inertia, record.n_empty) for record in done.result.history[:3]]),
            digest(done.result.centroids),
            self.assign(executor),
        )

    def assign(self, executor: Executor | None = None) -> str:
        """The digest of all rows with their labels and distances, in order."""
        snapshot = Store.open(self.settings.store).load("m")
        out = self.folder / "labels"
        settings = replace_settings(self.settings, id_column=("id",))
        assign(snapshot, self.source, out, settings, executor=executor, n_ranges=6 if executor else None)
        return digest_of_labels(out)

    def saved(self) -> Checkpoints:
        """Checkpoints of this job."""
        return Checkpoints.open(str(self.folder / "checkpoints"))

    def elsewhere(self, folder: Path, **more: Any) -> Job:
        """The same job, with its results in another folder."""
        folder.mkdir(exist_ok=True)
        return replace(
            self, folder=folder, settings=replace_settings(self.settings, store=str(folder / "store"), **more)
        )


def replace_settings(settings: Settings, **more: Any) -> Settings:
    """Settings with others in place of some."""
    return Settings(**{**settings.model_dump(exclude_unset=True), **more})


def digest(array: np.ndarray) -> str:
    """Of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def digest_of_labels(out: Path, n_rows: int = N_ROWS) -> str:
    """Of what assign wrote, a file or a folder of parts."""
    import pyarrow.parquet as pq

    files = sorted(out.glob("*.parquet")) if out.is_dir() else [out]
    table = pa.concat_tables([pq.read_table(file) for file in files])
    assert table.num_rows == n_rows
    return hashlib.sha256(repr(table.to_pydict()).encode()).hexdigest()


class Pausing(Progress):
    """Does something when iterations have been made."""

    def __init__(self, **at: Callable[[], None]) -> None:
        self.at = {int(name.removeprefix("i")): call for name, call in at.items()}
        self.iteration = 0

    def advance(self, n: int, text: str = "") -> None:
        self.iteration += n
        for number in [number for number in self.at if number <= self.iteration]:
            self.at.pop(number)()
