"""Contenders in processes of their own that take turns: times, peak memory, and inertia checked on all rows.

A process holds one contender, the data, and no other library's threads. Only one of them works at a time. The first
round warms up, is checked, and tells peak memory; its times count only for contenders slower than a limit, which are
run once.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from data import Problem
from peers import CONTENDERS, GPUKM, Fit
from verify import inertia

#: gpukm reports an exact sum over exact labels, so that only the rounding of the check itself may show.
OWN_INERTIA_TOLERANCE = 1e-9
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


class Unfit(RuntimeError):
    """A contender cannot take part in a problem; the text says why."""


@dataclass
class Measured:
    """What a contender showed on a problem.

    Attributes
    ----------
    seconds, training_seconds : list of float
        Of whole fits, labels included, and of the centroids alone where the contender labels in a second call.
    iterations : int
    inertia : float
        Of all rows in float64, by ``verify``.
    peak_bytes : int or None
        Memory that the first fit took beyond the data; None where the system does not tell.
    """

    iterations: int
    inertia: float
    peak_bytes: int | None
    seconds: list[float] = field(default_factory=list)
    training_seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of the seconds of whole fits."""
        return statistics.median(self.seconds)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = {
            "median_seconds": self.median,
            "least_seconds": min(self.seconds),
            "most_seconds": max(self.seconds),
            "seconds": self.seconds,
            "iterations": self.iterations,
            "inertia": self.inertia,
            "peak_bytes": self.peak_bytes,
        }
        if self.training_seconds:
            found |= {
                "median_training_seconds": statistics.median(self.training_seconds),
                "training_seconds": self.training_seconds,
            }
        return found


class Worker:
    """A contender with a problem, in a process of its own."""

    def __init__(self, name: str, problem: Problem, path: Path, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, name, replace(problem, x=np.empty(0)), path, threads), daemon=True
        )
        # Libraries read these when they are loaded.
        with _environment(dict.fromkeys(_THREAD_VARIABLES, str(threads))):
            self._process.start()
        theirs.close()
        try:
            self._receive()
        except Unfit:
            self.close()
            raise

    def fit(self, iterations: int) -> tuple[float, int | None, Fit]:
        """Seconds, bytes beyond the data, and the result of one fit."""
        self._connection.send(iterations)
        found: tuple[float, int | None, Fit] = self._receive()
        return found

    def _receive(self) -> Any:
        """An answer, or the reason why there is none."""
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            raise Unfit(f"its process ended with {self._process.exitcode}") from None
        if isinstance(answer, str):
            raise Unfit(answer)
        return answer

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(timeout=10)
        self._process.terminate()


@contextmanager
def workers(problem: Problem, who: Iterable[tuple[str, int]]) -> Iterator[tuple[list[Worker], dict[str, str]]]:
    """Processes for (contender, threads), and the contenders that cannot take part, with the reason."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder) / "x.npy"
        np.save(path, problem.x)
        made, unfit = [], {}
        for name, threads in who:
            try:
                worker = Worker(name, problem, path, threads)
            except Unfit as error:
                refuse(name, error)
                unfit[name] = str(error)
            else:
                stack.callback(worker.close)
                made.append(worker)
        yield made, unfit


def take_turns(
    problem: Problem, names: Iterable[str], threads: int, iterations: int, repeats: int, limit_seconds: float
) -> tuple[dict[str, Measured], dict[str, str]]:
    """Measure whole fits.

    gpukm is first in the first round; a contender that cannot tell convergence makes as many iterations as it made.

    Returns
    -------
    dict of Measured by contender, dict of reasons by contender that could not take part
    """
    with workers(problem, ((name, threads) for name in names)) as (turns, unfit):
        measured: dict[str, Measured] = {}
        target, again = iterations, []
        for worker in turns:
            name = worker.name
            try:
                seconds, peak, fit = worker.fit(iterations if CONTENDERS[name].converges else target)
            except Unfit as error:
                refuse(name, error)
                unfit[name] = str(error)
                continue
            measured[name] = check(name, problem, fit, peak)
            if name == GPUKM:
                target = fit.iterations
            if seconds > limit_seconds:
                _count(measured[name], seconds, fit)
            else:
                again.append(worker)
        for _ in range(repeats):
            for worker in list(again):
                try:
                    seconds, _, fit = worker.fit(iterations if CONTENDERS[worker.name].converges else target)
                except Unfit as error:
                    refuse(worker.name, error)
                    unfit[worker.name] = str(error)
                    del measured[worker.name]
                    again.remove(worker)
                    continue
                _count(measured[worker.name], seconds, fit)
            again = again[1:] + again[:1]
    return measured, unfit


def check(name: str, problem: Problem, fit: Fit, peak: int | None) -> Measured:
    """Inertia by ``verify``; what gpukm reports must agree with it."""
    found = Measured(fit.iterations, inertia(problem.x, fit.centroids), peak)
    if name == GPUKM and abs(fit.inertia - found.inertia) > OWN_INERTIA_TOLERANCE * found.inertia:
        raise SystemExit(f"{problem.title}: gpukm reports inertia {fit.inertia!r}, it is {found.inertia!r}")
    return found


def _count(measured: Measured, seconds: float, fit: Fit) -> None:
    """Note the times of a run."""
    measured.seconds.append(seconds)
    if fit.training_seconds is not None:
        measured.training_seconds.append(fit.training_seconds)


def refuse(name: str, error: Unfit) -> None:
    """A contender may be unfit for a problem; gpukm may not."""
    if name == GPUKM:
        raise SystemExit(f"gpukm: {error}")


def _serve(connection: Connection, name: str, problem: Problem, path: Path, threads: int) -> None:
    """What a worker's process does: load, prepare, then fit as often as asked."""
    os.dup2(2, 1)  # some libraries print warnings where the table goes
    try:
        problem = replace(problem, x=np.load(path))
        fit = CONTENDERS[name].prepare(problem, threads)
        connection.send(None)
        while True:
            iterations = connection.recv()
            before = _resident_bytes(reset_peak=True)
            began = time.perf_counter()
            found = fit(iterations)
            seconds = time.perf_counter() - began
            peak = _resident_bytes(reset_peak=False)
            connection.send((seconds, None if before is None or peak is None else peak - before, found))
    except EOFError:
        return
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


def _resident_bytes(reset_peak: bool) -> int | None:
    """Resident memory now, from where its peak is counted anew, or that peak; None outside Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    if reset_peak:
        Path("/proc/self/clear_refs").write_text("5")
    key = "VmRSS:" if reset_peak else "VmHWM:"
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
