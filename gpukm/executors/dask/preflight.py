"""What every worker is and has, asked before any work is sent there."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpukm.errors import ExecutorError
from gpukm.sources.location import is_url, shown

if TYPE_CHECKING:
    from distributed import Client

#: A worker that says nothing for so long is stuck.
ANSWER_SECONDS = 30.0
#: For so long it is asked again where there is no worker.
_NOBODY_SECONDS = 2.0
_NAMED = 5


@dataclass(frozen=True)
class WorkerFacts:
    """One worker.

    Attributes
    ----------
    address, name, host : str
    gpukm : str or None
        Its version; None where it is not installed.
    missing : str
        Why it cannot be imported; empty where it can.
    python, numpy, dask : str or None
        Versions.
    threads : int
    memory_bytes : int
        At which Dask ends it; 0 for no limit.
    resources : dict of str to float
        What it offers to tasks that ask for it.
    devices : tuple of str
        GPUs that it sees.
    native : bool
        Whether it has the compiled kernels.
    unreadable : dict of str to str
        Of the paths asked for those that cannot be read there, and why.
    """

    address: str
    name: str
    host: str
    gpukm: str | None
    missing: str
    python: str | None
    numpy: str | None
    dask: str | None
    threads: int
    memory_bytes: int
    resources: Mapping[str, float]
    devices: tuple[str, ...]
    native: bool
    unreadable: Mapping[str, str]

    def offers(self, needs: Mapping[str, float]) -> bool:
        """Whether a task that asks for this can run here."""
        return all(self.resources.get(name, 0.0) >= amount for name, amount in needs.items())


@dataclass(frozen=True)
class Workforce:
    """All workers of a cluster at one moment.

    Attributes
    ----------
    scheduler : str
        Address.
    workers : tuple of WorkerFacts
        By address.
    warnings : tuple of str
        What is doubtful and no hindrance.
    """

    scheduler: str
    workers: tuple[WorkerFacts, ...]
    warnings: tuple[str, ...] = ()

    @property
    def threads(self) -> int:
        """Of all workers."""
        return sum(worker.threads for worker in self.workers)

    def offering(self, needs: Mapping[str, float]) -> tuple[WorkerFacts, ...]:
        """Workers on which a task that asks for this can run."""
        return tuple(worker for worker in self.workers if worker.offers(needs))

    def lines(self) -> list[tuple[str, ...]]:
        """A table for people, its head first."""
        head = ("WORKER", "GPUKM", "PYTHON", "THREADS", "MEMORY", "RESOURCES", "DEVICES")
        return [head, *(_line(worker) for worker in self.workers)]


def preflight(
    client: Client,
    *,
    needs: Mapping[str, float] | None = None,
    paths: Sequence[str] = (),
    seconds: float = ANSWER_SECONDS,
) -> Workforce:
    """Ask every worker what it is, and raise what would fail later, or wait for ever.

    Parameters
    ----------
    client : distributed.Client
    needs : mapping of str to float, or None
        Resources that each task will ask for, such as ``{"GPU": 1}``.
    paths : sequence of str
        Files, folders, globs or URLs that workers will read.
    seconds : float
        How long to wait for answers.

    Raises
    ------
    ExecutorError
        There is no worker, one does not answer, versions differ in a way that matters, no worker offers what is
        needed, or some cannot read a path.
    """
    found = survey(client, paths=paths, seconds=seconds)
    check_versions(found)
    if needs and not found.offering(needs):
        wanted = ", ".join(f"{name}={amount:g}" for name, amount in needs.items())
        raise ExecutorError(
            f"no worker offers {wanted}, which each task asks for, so it would wait for ever; start workers by: "
            f"dask worker {shown(found.scheduler)} --resources {wanted.replace(', ', ' ')}, or for GPUs: dask cuda "
            f"worker {shown(found.scheduler)} --resources GPU=1. There are: {_offers(found)}"
        )
    _check_paths(found)
    return found


def survey(client: Client, *, paths: Sequence[str] = (), seconds: float = ANSWER_SECONDS) -> Workforce:
    """As :func:`preflight`, without judging what was found.

    Raises
    ------
    ExecutorError
        There is no worker, or one does not answer.
    """
    # A client whose question is not answered repeats what it was told when it began, which may be nothing.
    deadline = time.monotonic() + _NOBODY_SECONDS
    while not (known := client.scheduler_info(n_workers=-1)["workers"]) and time.monotonic() < deadline:
        time.sleep(0.1)
    if not known:
        raise ExecutorError(f"the cluster at {shown(client.scheduler.address)} has no worker; start some")
    versions = client.sync(_each, client, _versions_of, list(known), seconds)
    # A function is sent only where Python is the same: others could not read it.
    same = [a for a in versions if _minor(_package(versions[a], "python")) == _minor(sys.version)]
    examine, places = _examiner(), [path if is_url(path) else os.path.abspath(path) for path in map(str, paths)]  # noqa: PTH100

    async def ask(client: Client, address: str) -> Any:
        return (await client.run(examine, places, workers=[address], on_error="return"))[address]

    answers = client.sync(_each, client, ask, same, seconds)
    # One that has left meanwhile is no worker any more; one that is there and says nothing is stuck.
    there = client.scheduler_info(n_workers=-1)["workers"]
    silent = [a for a in known if a in there and (a not in versions or (a in same and a not in answers))]
    if silent:
        raise ExecutorError(
            f"{_some(silent)} did not answer within {seconds:g} s; end what is stuck there, or wait until Dask "
            "gives it up"
        )
    for address, answer in answers.items():
        if isinstance(answer, BaseException):
            text = " ".join(str(answer).split())
            raise ExecutorError(f"the check of worker {address} failed: {type(answer).__name__}: {text}") from answer
    workers = [_facts(a, known[a], versions[a], answers.get(a, {})) for a in sorted(known) if a in there]
    if not workers:
        raise ExecutorError(f"all workers of {shown(client.scheduler.address)} left; start some")
    return Workforce(client.scheduler.address, tuple(workers), _warnings(workers))


def check_versions(found: Workforce) -> None:
    """Raise ExecutorError, naming workers and versions, where theirs differ from ours in a way that matters.

    gpukm must be the same, as each does a part of one computation; Python the same minor version and NumPy the same
    major one, as functions and arrays are sent to and fro.
    """
    from importlib.metadata import version

    ours = {"gpukm": _own_version(), "python": ".".join(map(str, sys.version_info[:3])), "numpy": version("numpy")}
    for name, part in (("python", _minor), ("gpukm", _whole), ("numpy", _major)):
        other: dict[str, list[str]] = {}
        for worker in found.workers:
            theirs = getattr(worker, name)
            if part(theirs) != part(ours[name]) and not (name == "gpukm" and theirs is None):
                other.setdefault(theirs or "none", []).append(worker.address)
        if other:
            there = "; ".join(f"{theirs} on {_some(who)}" for theirs, who in sorted(other.items()))
            raise ExecutorError(
                f"workers have another version of {name} than the {ours[name]} here: {there}; install the same "
                "everywhere and start the workers again"
            )
    broken = [worker for worker in found.workers if worker.missing or worker.gpukm is None]
    if broken:
        raise ExecutorError(
            f"gpukm cannot be imported on {_some([worker.address for worker in broken])}: {broken[0].missing}; install "
            f"gpukm {ours['gpukm']} there and start the workers again"
        )


def _check_paths(found: Workforce) -> None:
    """Raise ExecutorError for the first path that some workers cannot read."""
    for worker in found.workers:
        for path, reason in worker.unreadable.items():
            who = [w.address for w in found.workers if path in w.unreadable]
            raise ExecutorError(
                f"{shown(path)} cannot be read on {_some(who)} of {len(found.workers)}: {reason}; put the data on a "
                "file system that all workers have, under the same path, or in an object store"
            )


async def _versions_of(client: Client, address: str) -> Any:
    """A worker's versions, by Dask's own question, which runs no code of ours."""
    message = {"op": "versions", "packages": ["gpukm"]}
    return (await client.scheduler.broadcast(msg=message, workers=[address]))[address]


async def _each(client: Client, ask: Any, addresses: Sequence[str], seconds: float) -> dict[str, Any]:
    """Answers by worker, asked all at once; those that do not answer in time, or have gone, are left out."""
    tasks = {address: asyncio.ensure_future(ask(client, address)) for address in addresses}
    if tasks:
        await asyncio.wait(tasks.values(), timeout=seconds)
    answers = {}
    for address, task in tasks.items():
        if not task.done():
            task.cancel()
        elif task.exception() is None:
            answers[address] = task.result()
    return answers


def _examiner() -> Callable[[list[str]], Any]:
    """A function that looks at the worker it runs on; being local, it travels whole and needs no gpukm there."""

    async def examine(paths: list[str]) -> dict[str, Any]:
        import asyncio
        import socket

        def look() -> dict[str, Any]:
            found: dict[str, Any] = {"host": socket.gethostname(), "devices": [], "native": False, "unreadable": {}}
            try:
                from gpukm import __version__
                from gpukm.backends.select import gpus, kernels
                from gpukm.executors.dask.readable import unreadable
            except ImportError as error:
                return {**found, "gpukm": None, "missing": str(error)}
            return {
                **found,
                "gpukm": __version__,
                "devices": gpus(),
                "native": kernels()["cpu"][0],
                "unreadable": unreadable(paths),
            }

        # Not in the worker's event loop, which must go on answering.
        return await asyncio.to_thread(look)

    return examine


def _facts(
    address: str, info: Mapping[str, Any], versions: Mapping[str, Any], answer: Mapping[str, Any]
) -> WorkerFacts:
    """Put together what the scheduler and the worker say."""
    return WorkerFacts(
        address=address,
        name=str(info.get("name", "")),
        host=str(answer.get("host") or info.get("host", "")),
        gpukm=answer.get("gpukm") or _package(versions, "gpukm"),
        missing=str(answer.get("missing", "")),
        python=".".join((_package(versions, "python") or "").split(".")[:3]) or None,
        numpy=_package(versions, "numpy"),
        dask=_package(versions, "distributed"),
        threads=int(info["nthreads"]),
        memory_bytes=int(info.get("memory_limit") or 0),
        resources=dict(info.get("resources") or {}),
        devices=tuple(answer.get("devices", ())),
        native=bool(answer.get("native")),
        unreadable=dict(answer.get("unreadable", {})),
    )


def _warnings(workers: Sequence[WorkerFacts]) -> tuple[str, ...]:
    """What is doubtful."""
    from importlib.metadata import version

    found = []
    other = sorted({w.dask or "none" for w in workers} - {version("distributed")})
    if other:
        found.append(
            f"workers have Dask {', '.join(other)}, and {version('distributed')} is here; the same everywhere is safer"
        )
    slow = [w.address for w in workers if w.gpukm is not None and not w.native]
    if slow:
        found.append(f"{_some(slow)} have no compiled kernels and run on the slow numpy backend; see: gpukm doctor")
    return tuple(found)


def _package(versions: Mapping[str, Any] | None, name: str) -> str | None:
    """A version out of what Dask tells."""
    found = ((versions or {}).get("packages") or {}).get(name)
    return None if found is None else str(found)


def _own_version() -> str:
    """The version of gpukm here."""
    from gpukm import __version__

    return __version__


def _whole(version: str | None) -> str | None:
    """A version as it is."""
    return version


def _minor(version: str | None) -> str:
    """``3.11`` of ``3.11.7``."""
    return ".".join((version or "").split(" ")[0].split(".")[:2])


def _major(version: str | None) -> str:
    """``2`` of ``2.4.6``."""
    return (version or "").split(".")[0]


def _some(addresses: Sequence[str]) -> str:
    """A few addresses, and how many more."""
    more = f" and {len(addresses) - _NAMED} more" if len(addresses) > _NAMED else ""
    return ("worker " if len(addresses) == 1 else "workers ") + ", ".join(addresses[:_NAMED]) + more


def _offers(found: Workforce) -> str:
    """Who offers what, in one line."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for worker in found.workers:
        _, _, _, threads, memory, resources, devices = _line(worker)
        groups.setdefault((resources, threads, memory, devices), []).append(worker.address)
    return "; ".join(
        f"{_some(who)} with resources {resources}, {threads} threads, {memory}, devices {devices}"
        for (resources, threads, memory, devices), who in groups.items()
    )


def _line(worker: WorkerFacts) -> tuple[str, ...]:
    """A row of the table."""
    memory = f"{worker.memory_bytes / 2**30:.1f} GiB" if worker.memory_bytes else "no limit"
    resources = ", ".join(f"{name}={amount:g}" for name, amount in sorted(worker.resources.items())) or "-"
    devices = ", ".join(worker.devices) or "-"
    return (
        worker.address, worker.gpukm or "none", worker.python or "?", str(worker.threads), memory, resources, devices,
    )  # fmt: skip
