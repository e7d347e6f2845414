"""Steps over parts of the data on the workers of a Dask cluster.

A step is one task a worker, over the parts that the worker owns, merged there and then in a tree. Values stay on the
workers: what one step makes of another's results travels between them, and not through the client or the scheduler.
A worker that is lost takes nothing along that could not be made again: its parts are opened by others, and what it held
is computed again from what is left.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import dask
from dask.base import is_dask_collection
from distributed import CancelledError, Client, Future, KilledWorker, wait
from distributed.client import ClosedClientError
from distributed.comm import CommClosedError

from gpukm.errors import ExecutorError
from gpukm.executors.base import Executor, Handle, Opener, Placement, Reopener, Rounds
from gpukm.executors.dask import rounds, worker
from gpukm.executors.dask.handles import Shared

#: Values merged by one task.
FAN_IN = 8
#: A value of more bytes is merged in pieces, side by side.
_PIECE_BYTES = 1 << 23
#: Seconds between looks at which workers there are.
_LOOK_SECONDS = 1.0
#: Seconds that workers have for an answer that is not waited for.
_ANSWER_SECONDS = 3.0
#: Seconds of waiting after which somebody who may want to stop it is asked.
_WATCH_SECONDS = 1.0
#: Seconds to wait for a worker while there is none.
PATIENCE_SECONDS = 60.0
#: For how long workers go on by themselves.
ROUND_SECONDS = 2.0
#: How many workers do so at most, each of which tells all others, and with results of how many bytes.
_MOST_PEERS = 8
_ROUND_BYTES = 1 << 22


class DaskExecutor(Executor):
    """Work on the workers of a cluster.

    Parameters
    ----------
    client : distributed.Client
    resources : mapping of str to float or None
        What a task takes of its worker's resources, such as ``{"GPU": 1}``; only workers that offer it are asked.
    patience_seconds : float
        How long to wait for a worker while there is none.
    watch : callable
        Called every second or so while something is waited for; what it raises ends that.
    round_seconds : float
        For how long workers may go on by themselves before what they came to is brought here; 0 has every step
        asked for.
    """

    #: The scheduler remembers what each value was made of, back to one that was shared.
    chain = 16
    ahead = True

    def __init__(
        self,
        client: Client,
        resources: Mapping[str, float] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        watch: Callable[[], None] = lambda: None,
        round_seconds: float = ROUND_SECONDS,
    ) -> None:
        self.client, self.resources, self.patience_seconds = client, dict(resources or {}), patience_seconds
        self.round_seconds = round_seconds
        self._watch = watch
        self._workers: dict[str, int] = {}
        self._memory: dict[str, int | None] = {}
        self._looked = float("-inf")
        self._full = 0
        self._n_tasks = self._reopened = self._retried = self._lost_workers = self._joined = self._moved_bytes = 0
        self._met = False

    def work(self) -> dict[str, int]:
        """What the work took so far, of what has been closed: counts, and bytes, of workers that were there still."""
        return {
            "workers": len(self._workers),
            "workers_lost": self._lost_workers,
            "workers_joined": self._joined,
            "tasks": self._n_tasks,
            "tasks_retried": self._retried,
            "parts_reopened": self._reopened,
            "bytes_moved": self._moved_bytes,
        }

    def forget(self, placement: str, n_parts: int) -> None:
        """Have workers close the parts of a placement, and count what happened to them."""
        self._moved_bytes += sum(self.everywhere(worker.forget, placement).values())
        if self.client.status != "running":
            return
        told = [event for _, event in self.client.get_events(worker.TOPIC) if event.get("placement") == placement]
        self._retried += sum("retried" in event for event in told)
        self._reopened += max(0, sum("opened" in event for event in told) - n_parts)

    def everywhere(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        """What a function returns on each worker; nothing where one does not answer, which is no reason to wait."""

        async def ask() -> dict[str, Any]:
            return await asyncio.wait_for(self.client.run(function, *args, on_error="ignore"), _ANSWER_SECONDS)

        # A client that is being closed says so by RuntimeError or ValueError.
        with suppress(OSError, RuntimeError, TimeoutError, ValueError):
            if self.client.status == "running":
                found: dict[str, Any] = self.client.sync(ask)
                return found
        return {}

    def place(self, parts: Sequence[Opener], values: Sequence[Any] | None = None) -> DaskPlacement:
        """As of an executor; ``values`` may be Dask's own delayed ones, which stay on the cluster."""
        if values is not None and all(is_dask_collection(value) for value in values):
            values = self.client.compute(list(values), optimize_graph=True)
        elif values is not None:
            values = [value if isinstance(value, Future) else self.put(value) for value in values]
        return DaskPlacement(self, parts, values)

    def share(self, value: Any) -> Shared:
        return Shared(value, self.put)

    def put(self, value: Any) -> Future:
        """A value on some worker."""
        return self.submit(worker.same, value)

    def apply(self, function: Callable[..., Any], *args: Any) -> Future:
        return self.submit(worker.apply, function, *args)

    def fetch(self, handle: Handle) -> Any:
        return handle.value if isinstance(handle, Shared) else self.gather([handle])[0]

    def width(self) -> int:
        return len(self.workers())

    def room_bytes(self) -> int | None:
        self.workers()
        return None if None in self._memory.values() else sum(n for n in self._memory.values() if n is not None)

    def pieces(self, size_bytes: int) -> int:
        return max(1, min(size_bytes // _PIECE_BYTES, self.width()))

    def submit(self, function: Callable[..., Any], *args: Any, on: str | None = None) -> Future:
        """Start a task; ``on`` names the worker that should take it, unless it is lost."""
        name = getattr(function, "__name__", "call")
        width = max(1, len(self._workers))
        args = tuple(arg.given(width) if isinstance(arg, Shared) else arg for arg in args)
        self._n_tasks += 1
        # Where a task asks for resources, "other workers" would be any at all for Dask: see _free.
        more: dict[str, Any] = {"workers": [on], "allow_other_workers": not self.resources} if on else {}
        if self.resources:
            more["resources"] = self.resources
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
            try:
                return self.client.submit(function, *args, key=f"gpukm-{name}-{uuid.uuid4().hex}", **more)
            except ClosedClientError as error:
                raise self._lost(error) from error

    def gather(self, futures: Sequence[Future]) -> list[Any]:
        """Wait for values, and bring them here.

        Raises
        ------
        ExecutorError
            The scheduler or all workers are lost, or workers died of the same task again and again.
        """
        try:
            self._wait(futures)
            return self._bring(futures)
        except KilledWorker as error:
            raise ExecutorError(
                f"workers died again and again of the same task ({_first_line(error)}); they may lack memory: give "
                "them more, or have more of them"
            ) from error
        except CancelledError as error:
            raise self._lost(error) from error
        except OSError as error:
            # Of a task too, which is told as it is; a client may take a moment to see that its connection broke.
            if isinstance(error, CommClosedError) or self.client.status not in ("running", "connecting"):
                raise self._lost(error) from error
            raise

    def workers(self) -> dict[str, int]:
        """Addresses of the workers that may be asked, and their threads; waits while there is none.

        Raises
        ------
        ExecutorError
            There was none for longer than the patience allows.
        """
        if time.monotonic() - self._looked < _LOOK_SECONDS and self._workers:
            return self._workers
        began = time.monotonic()
        while True:
            before, self._workers = self._workers, self._look()
            self._lost_workers += len(before.keys() - self._workers.keys())
            self._joined += len(self._workers.keys() - before.keys()) if self._met else 0
            if self._workers:
                self._met = True
                self._looked = time.monotonic()
                return self._workers
            if time.monotonic() - began > self.patience_seconds:
                needs = "".join(f" that offers {name}={n:g}" for name, n in self.resources.items())
                raise ExecutorError(
                    f"the cluster at {self._address()} has had no worker{needs} for {self.patience_seconds:.0f} s"
                    f"{self._paused()}; start some"
                )
            self._watch()
            time.sleep(0.1)

    def _look(self) -> dict[str, int]:
        """Ask the scheduler for its workers."""
        try:
            told = self.client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError) as error:
            raise self._lost(error) from error
        found = {
            address: info
            for address, info in sorted(told.items())
            # One that is paused, for its memory is nearly full, or retired takes no tasks.
            if info.get("status", "running") == "running"
            and all(info.get("resources", {}).get(name, 0) >= n for name, n in self.resources.items())
        }
        self._full = sum(info.get("status") == "paused" for info in told.values())
        self._memory = {address: info["memory_limit"] or None for address, info in found.items()}
        return {address: int(info["nthreads"]) for address, info in found.items()}

    def _paused(self) -> str:
        """What is said of workers that are there and take no tasks."""
        return f" that takes tasks ({self._full} are paused, as their memory is nearly full)" if self._full else ""

    def _wait(self, futures: Sequence[Future]) -> None:
        """Wait until all are done or one has failed."""
        looks = self._looks()
        while True:
            with suppress(TimeoutError), self.client.as_current():
                wait(futures, timeout=next(looks), return_when="ALL_COMPLETED")
                return
            if any(future.status in ("error", "cancelled", "lost") for future in futures):
                return

    def _bring(self, futures: Sequence[Future]) -> list[Any]:
        """Values that are there; one whose worker dies at this moment is made again, which may take its time."""

        async def bring() -> list[Any]:
            try:
                found: list[Any] = await self.client.gather(list(futures), asynchronous=True)
            except CancelledError as error:
                # Which would be taken for one of the waiting itself.
                raise self._lost(error) from error
            return found

        loop: Any = self.client.loop
        coming = asyncio.run_coroutine_threadsafe(bring(), loop.asyncio_loop)
        try:
            looks = self._looks()
            while not coming.done():
                concurrent.futures.wait([coming], next(looks))
            return coming.result()
        finally:
            coming.cancel()

    def _looks(self) -> Iterator[float]:
        """For how many seconds to wait, over and over; a cluster without workers is an error, and no reason to wait."""
        every = _LOOK_SECONDS if self.resources else self.patience_seconds / 4
        look = time.monotonic() + every
        yield min(every, _WATCH_SECONDS)
        while True:
            self._watch()
            if time.monotonic() >= look:
                self._looked = float("-inf")
                self.workers()
                if self.resources:
                    self._free()
                look = time.monotonic() + every
            yield min(every, _WATCH_SECONDS)

    def _free(self) -> None:
        """Let others do the tasks of workers that left, as long as they offer what the tasks ask for.

        ``allow_other_workers`` does not see to that: where the named worker is gone, Dask's scheduler sends the task to
        any worker, and one that does not offer the resource keeps it for ever.
        """

        def free(dask_scheduler: Any) -> None:
            running = {worker.address for worker in dask_scheduler.running}
            stuck = [
                task
                for task in dask_scheduler.unrunnable
                if str(task.key).startswith("gpukm-")
                and task.worker_restrictions
                and running.isdisjoint(task.worker_restrictions)
            ]
            for task in stuck:
                task.worker_restrictions = set()
            dask_scheduler.transitions({task.key: "processing" for task in stuck}, stimulus_id="gpukm-worker-left")

        with suppress(OSError, TimeoutError):  # whether the scheduler is lost is found where it is waited for
            self.client.run_on_scheduler(free)

    def _lost(self, error: BaseException) -> ExecutorError:
        """What is said when nothing comes back any more."""
        broke = isinstance(error, (CancelledError, ClosedClientError, CommClosedError))
        reason = "the connection broke, or it was started anew" if broke else _first_line(error)
        return ExecutorError(
            f"the scheduler at {self._address()} was lost ({reason}); start it again, and train with "
            "--resume where there is a checkpoint"
        )

    def _address(self) -> str:
        """Where the scheduler is or was."""
        scheduler = self.client.scheduler
        return str(scheduler.address if scheduler is not None else "its address")


class DaskPlacement(Placement):
    """Parts on workers."""

    def __init__(self, executor: DaskExecutor, parts: Sequence[Opener], values: Sequence[Handle] | None) -> None:
        self._executor, self.openers, self._n = executor, list(parts), len(parts)
        self._name, self._version = uuid.uuid4().hex, 0
        # On a worker, however small: where all are lost, Dask has new ones do what old ones were meant for only after
        # something that it depends on has been made again.
        self._openers = executor.put(self.openers)
        self._values = None if values is None else list(values)
        self._owners: dict[int, str] = {}
        self._failed: list[str] = []  # who took part in rounds that came to nothing

    def __len__(self) -> int:
        return self._n

    def map(self, step: Callable[..., Any], *args: Any, each: Mapping[int, tuple[Any, ...]] | None = None) -> list[Any]:
        wanted = range(self._n) if each is None else sorted(each)
        found: dict[int, Any] = {}
        shared = self._owned(wanted)
        tasks = [self._task(on, numbers, step, None, None, args, each) for on, numbers in shared]
        for (_, numbers), results in zip(shared, self._executor.gather(tasks), strict=True):
            found.update(zip(numbers, results, strict=True))
        return [found[number] for number in wanted]

    def reduce(
        self,
        step: Callable[..., Any],
        merge: Callable[[Any, Any], Any],
        *args: Any,
        cut: Callable[[Any], Sequence[Any]] | None = None,
        pieces: int = 1,
        last: Callable[..., Any] | None = None,
        more: Sequence[Any] = (),
    ) -> list[Future]:
        executor, cut = self._executor, cut if pieces > 1 else None
        tasks = [self._task(on, numbers, step, merge, cut, args, None) for on, numbers in self._owned(range(self._n))]
        if cut is None:
            return [self._tree(merge, tasks, last, more)]
        return [
            self._tree(merge, [executor.submit(worker.piece, task, number) for task in tasks], last, more)
            for number in range(pieces)
        ]

    def rounds(
        self,
        step: Callable[..., Any],
        merge: Callable[[Any, Any], Any],
        advance: Callable[[Any, Any, list[Any]], tuple[Any, Any, bool]],
        value: Handle,
        *args: Any,
        most: int,
        size_bytes: int,
    ) -> Rounds | None:
        executor, owned = self._executor, self._owned(range(self._n))
        peers = [on for on, _ in owned]
        if len(peers) > _MOST_PEERS or size_bytes > _ROUND_BYTES or executor.round_seconds <= 0:
            return None
        if peers == self._failed:
            return None
        meeting = uuid.uuid4().hex, peers, most, executor.round_seconds, advance
        tasks = []
        for on, numbers in owned:
            values = self._made_of(numbers)
            part = self._name, on, self._version, self._openers, list(numbers), step, merge, len(values)
            tasks.append(executor.submit(rounds.take_part, *meeting, *part, value, *values, *args, on=on))
        found: Rounds = executor.gather(tasks)[0]
        self._failed = [] if found.told else peers
        return found

    def reopen(self, parts: Sequence[Reopener]) -> None:
        self.openers, self._version = list(parts), self._version + 1
        self._openers = self._executor.put(self.openers)

    def close(self) -> None:
        with suppress(OSError, RuntimeError, TimeoutError, ValueError):
            self._executor.forget(self._name, self._n)

    def _task(
        self,
        on: str,
        numbers: Sequence[int],
        step: Callable[..., Any],
        merge: Callable[[Any, Any], Any] | None,
        cut: Callable[[Any], Sequence[Any]] | None,
        args: tuple[Any, ...],
        each: Mapping[int, tuple[Any, ...]] | None,
    ) -> Future:
        """One worker's part of a step."""
        values = self._made_of(numbers)
        own = [] if each is None else [each[number] for number in numbers]
        given = (list(numbers), step, merge, cut, len(values), own, *values, *args)
        return self._executor.submit(worker.run, self._name, on, self._version, self._openers, *given, on=on)

    def _made_of(self, numbers: Sequence[int]) -> list[Handle]:
        """The values that some parts are made of, if they are made of any."""
        return [] if self._values is None else [self._values[number] for number in numbers]

    def _tree(
        self,
        merge: Callable[[Any, Any], Any],
        tasks: list[Future],
        last: Callable[..., Any] | None = None,
        more: Sequence[Any] = (),
    ) -> Future:
        """Merge the values of tasks, a few at a time, and have the last task go on."""
        executor = self._executor
        while len(tasks) > (1 if last is None else FAN_IN):
            groups = [tasks[i : i + FAN_IN] for i in range(0, len(tasks), FAN_IN)]
            tasks = [
                executor.submit(worker.merge_all, merge, *group) if len(group) > 1 else group[0] for group in groups
            ]
        if last is None:
            return tasks[0]
        return executor.submit(worker.merge_last, merge, last, len(tasks), *tasks, *more)

    def _owned(self, wanted: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Workers and which of the wanted parts each works on."""
        self._settle(self._executor.workers())
        found: dict[str, list[int]] = {}
        for number in wanted:
            found.setdefault(self._owners[number], []).append(number)
        return sorted(found.items())

    def _settle(self, workers: Mapping[str, int]) -> None:
        """See that every part has an owner that is there, and every worker its share by its threads."""
        before, (self._owners, moved) = self._owners, share_out(self._n, self._owners, workers)
        if before and moved:
            owned: dict[str, list[int]] = {}
            for number, owner in self._owners.items():
                owned.setdefault(owner, []).append(number)
            self._executor.everywhere(worker.keep, self._name, owned)


def share_out(n: int, owners: Mapping[int, str], workers: Mapping[str, int]) -> tuple[dict[int, str], list[int]]:
    """Give n parts to workers by their threads; parts stay where they are as far as that leaves nobody too many.

    Returns
    -------
    owners : dict of int to str
    moved : list of int
        Parts that have another owner than before, or their first.
    """
    names = sorted(workers)
    threads = sum(workers.values())
    ends = [0]
    for name in names:
        ends.append(ends[-1] + workers[name])
    quota = {name: n * ends[i + 1] // threads - n * ends[i] // threads for i, name in enumerate(names)}
    found: dict[int, str] = {}
    held = dict.fromkeys(names, 0)
    for number in range(n):
        owner = owners.get(number)
        if owner in held and held[owner] < quota[owner]:
            found[number] = owner
            held[owner] += 1
    free = [name for name in names for _ in range(quota[name] - held[name])]
    moved = [number for number in range(n) if number not in found]
    # In order, so that neighbours among the rows have one owner at first.
    for number, name in zip(moved, free, strict=True):
        found[number] = name
    return found, moved


def _first_line(error: BaseException) -> str:
    """What an error says, shortly."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
