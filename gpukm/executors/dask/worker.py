"""What runs on workers: parts of the data are opened once, stay open, and are opened again where they were lost."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

from distributed import get_worker

from gpukm.backends.select import use_threads
from gpukm.executors.base import Reopener, results
from gpukm.executors.dask import mailbox
from gpukm.executors.heap import keep_freed_memory

#: What the scheduler remembers is filed under.
TOPIC = "gpukm"
#: Seconds after which parts that nobody asks for are closed: their fit may have been broken off.
IDLE_SECONDS = 900.0


class _Open:
    """The parts of one placement that are open in this process."""

    def __init__(self) -> None:
        self.parts: dict[int, tuple[int, Any]] = {}  # by number, with the version of the openers they were made by
        self.used = time.monotonic()
        self.sent_before: dict[str, int] = {}  # by address: workers may share a process
        # A worker may run two tasks at once, and may be given a lost one's parts while it works on its own.
        self.lock = threading.RLock()


_PLACEMENTS: dict[str, _Open] = {}
_OPENED = {"parts": 0}
#: Names of the last ones that were closed: a task of theirs that still comes opens parts for itself alone.
_CLOSED: deque[str] = deque(maxlen=1000)
_LOCK = threading.Lock()


def run(
    placement: str,
    on: str,
    version: int,
    openers: Sequence[Reopener],
    numbers: Sequence[int],
    step: Callable[..., Any],
    merge: Callable[[Any, Any], Any] | None,
    cut: Callable[[Any], Sequence[Any]] | None,
    n_values: int,
    each: Sequence[tuple[Any, ...]],
    *given: Any,
) -> Any:
    """Take a step on some parts: its results as a list, merged, or merged and cut into pieces.

    Parameters
    ----------
    placement : str
        Which placement the parts belong to.
    on : str
        Address of the worker that was asked.
    version : int
        How often its openers have been replaced.
    openers : sequence of Reopener
        Of all its parts.
    numbers : sequence of int
        The parts to work on.
    step, merge, cut : callable
        As of :meth:`gpukm.executors.base.Placement.reduce`.
    n_values : int
        How many of ``given`` the parts are made of, one each; the others are the step's arguments.
    each : sequence of tuple
        Arguments for each part alone; empty where there are none.
    """
    _settle_in()
    me = get_worker()
    if me.address != on:
        told(placement, "retried", len(numbers))
    with _LOCK:
        held = _PLACEMENTS.get(placement) or _Open()
        if placement not in _CLOSED:
            _PLACEMENTS[placement] = held
        held.sent_before.setdefault(me.address, _sent_bytes(me))
    values, args = given[:n_values], given[n_values:]

    def parts() -> Iterator[Any]:
        for i, number in enumerate(numbers):
            made, part = held.parts.get(number, (-1, None))
            if made < 0 or (made < version and not openers[number].confirms(part)):
                part = openers[number].open(*values[i : i + 1])
                _OPENED["parts"] += 1
                told(placement, "opened", number)
            held.parts[number] = max(made, version), part
            yield part

    with held.lock:
        try:
            if merge is None:
                return [step(part, *args, *(each[i] if each else ())) for i, part in enumerate(parts())]
            whole = reduce(merge, results(step, parts(), *args))
        finally:
            held.used = time.monotonic()
            _close_idle()
    return whole if cut is None else cut(whole)


def apply(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function as a step is taken."""
    _settle_in()
    return function(*args)


def _settle_in() -> None:
    """Have this process use its worker's threads, and keep the memory it frees."""
    me = get_worker()
    use_threads(me.state.nthreads)
    keep_freed_memory()
    me.handlers.setdefault(mailbox.HEAR, mailbox.hear)


def merge_all(merge: Callable[[Any, Any], Any], *values: Any) -> Any:
    """Merge several values."""
    return reduce(merge, values)


def merge_last(merge: Callable[[Any, Any], Any], last: Callable[..., Any], n_values: int, *given: Any) -> Any:
    """Merge the first ``n_values`` of what is given, and make of it and of the rest what is left."""
    _settle_in()
    return last(reduce(merge, given[:n_values]), *given[n_values:])


def piece(values: Sequence[Any], number: int) -> Any:
    """One of several values."""
    return values[number]


def same(value: Any) -> Any:
    """The value."""
    return value


def forget(placement: str, dask_worker: Any) -> int:
    """Close all parts of a placement that are open here; bytes that were given to other workers while they were."""
    with _LOCK:
        held = _PLACEMENTS.pop(placement, None)
        _CLOSED.append(placement)
    before = None if held is None else held.sent_before.get(dask_worker.address)
    return 0 if before is None else _sent_bytes(dask_worker) - before


def is_closed(placement: str) -> bool:
    """Whether its parts were closed here, since nobody wants them any more."""
    return placement in _CLOSED


def keep(placement: str, owned: Mapping[str, Sequence[int]], dask_worker: Any) -> None:
    """Close parts that others own now, wherever they were opened in an emergency."""
    held = _PLACEMENTS.get(placement)
    if held is not None:
        for number in held.parts.keys() - set(owned.get(dask_worker.address, ())):
            held.parts.pop(number, None)


def opened() -> int:
    """How many parts this process has opened so far."""
    return _OPENED["parts"]


def told(placement: str, what: str, number: int) -> None:
    """Have the scheduler remember what happened to a placement."""
    get_worker().log_event(TOPIC, {"placement": placement, what: number})


def _sent_bytes(dask_worker: Any) -> int:
    """Bytes of values that a worker has given to others so far."""
    totals = getattr(dask_worker, "digests_total", {})
    return int(totals.get(("get-data", "memory-read", "bytes"), 0))


def _close_idle() -> None:
    """Close what nobody has asked for in a while, now and when that time has passed again."""
    with _LOCK:
        now = time.monotonic()
        for placement, held in list(_PLACEMENTS.items()):
            if now - held.used > IDLE_SECONDS and held.lock.acquire(blocking=False):
                held.lock.release()
                del _PLACEMENTS[placement]
        if _PLACEMENTS and not any(t.name == _TIMER for t in threading.enumerate()):
            timer = threading.Timer(IDLE_SECONDS + 1, _close_idle)
            timer.name, timer.daemon = _TIMER, True
            timer.start()


_TIMER = "gpukm-close-idle"
