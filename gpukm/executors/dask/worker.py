"""What runs on workers: parts of the data are opened once, stay open, and are opened again where they were lost."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from distributed import get_worker

from gpukm.backends.select import use_threads
from gpukm.executors.base import Opener

#: Seconds after which parts that nobody asks for are closed: their fit may have been broken off.
IDLE_SECONDS = 900.0


class _Open:
    """The parts of one placement that are open in this process."""

    def __init__(self) -> None:
        self.parts: dict[int, Any] = {}
        self.used = time.monotonic()
        # A worker may run two tasks at once, and may be given a lost one's parts while it works on its own.
        self.lock = threading.RLock()


_PLACEMENTS: dict[str, _Open] = {}
#: Names of the last ones that were closed: a task of theirs that still comes opens parts for itself alone.
_CLOSED: deque[str] = deque(maxlen=1000)
_LOCK = threading.Lock()
_OPENED = {"parts": 0}


def run(
    placement: str,
    openers: Sequence[Opener],
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
    openers : sequence of Opener
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
    use_threads(get_worker().state.nthreads)
    with _LOCK:
        held = _Open() if placement in _CLOSED else _PLACEMENTS.setdefault(placement, _Open())
    values, args = given[:n_values], given[n_values:]

    def steps() -> Any:
        for i, number in enumerate(numbers):
            part = held.parts.get(number)
            if part is None:
                part = held.parts[number] = openers[number].open(*values[i : i + 1])
                _OPENED["parts"] += 1
            yield step(part, *args, *(each[i] if each else ()))

    with held.lock:
        try:
            if merge is None:
                return list(steps())
            whole = reduce(merge, steps())
        finally:
            held.used = time.monotonic()
            _close_idle()
    return whole if cut is None else cut(whole)


def apply(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function with this worker's threads."""
    use_threads(get_worker().state.nthreads)
    return function(*args)


def merge_all(merge: Callable[[Any, Any], Any], *values: Any) -> Any:
    """Merge several values."""
    return reduce(merge, values)


def piece(values: Sequence[Any], number: int) -> Any:
    """One of several values."""
    return values[number]


def same(value: Any) -> Any:
    """The value."""
    return value


def forget(placement: str, numbers: Sequence[int] | None = None) -> None:
    """Close parts of a placement that are open here; None closes all."""
    if numbers is None:
        with _LOCK:
            _PLACEMENTS.pop(placement, None)
            _CLOSED.append(placement)
        return
    held = _PLACEMENTS.get(placement)
    for number in numbers if held is not None else ():
        held.parts.pop(number, None)  # type: ignore[union-attr]


def opened() -> int:
    """How many parts this process has opened so far."""
    return _OPENED["parts"]


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
