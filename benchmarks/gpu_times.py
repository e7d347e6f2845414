"""Times on a device: clocks, turns of contenders, spread, and operations in a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu_cases import Bench

#: Seconds that each contender is timed for, at most so many calls and at least so many.
SECONDS_EACH, MOST_CALLS, LEAST_CALLS = 1.0, 30, 3
#: Cycles that the device is kept busy while the host runs ahead of it.
AHEAD_CYCLES = 40_000_000


class Clock:
    """The host's clock, for whatever has done its work when a call returns."""

    on_device = False

    def mark(self) -> Any:
        """A point in time."""
        return time.perf_counter()

    def between(self, begin: Any, end: Any) -> float:
        """Milliseconds."""
        return 1e3 * (end - begin)

    def run_ahead(self) -> None:
        """Let the host put work into the stream before the device takes it up."""

    def time(self, work: Callable[[], Any]) -> float:
        """Milliseconds that a call took."""
        begin = self.mark()
        work()
        return self.between(begin, self.mark())


class DeviceClock(Clock):
    """Events in torch's current stream, which is the one that CuPy takes as well."""

    on_device = True

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def mark(self) -> Any:
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, begin: Any, end: Any) -> float:
        end.synchronize()
        return float(begin.elapsed_time(end))

    def run_ahead(self) -> None:
        self._torch.cuda._sleep(AHEAD_CYCLES)


def take_turns(bench: Bench, work: Mapping[str, Sequence[Callable[[], Any]]]) -> dict[str, list[float]]:
    """Milliseconds of each contender's calls, which rotate over its inputs; contenders take turns.

    A first call each warms up and tells how many more there is time for. The order moves on by one every round.
    """
    calls: dict[str, int] = {}
    for name, each in work.items():
        milliseconds = bench.clock.time(each[-1])
        wanted = int(1e3 * bench.seconds_each / max(milliseconds, 1e-3))
        calls[name] = max(LEAST_CALLS, min(MOST_CALLS, wanted))
    times: dict[str, list[float]] = {name: [] for name in work}
    names = list(work)
    for turn in range(max(calls.values(), default=0)):
        if turn and bench.left < 0:
            break
        for name in names:
            if turn < calls[name]:
                times[name].append(bench.clock.time(work[name][turn % len(work[name])]))
        names = names[1:] + names[:1]
    return times


def spread(milliseconds: Sequence[float]) -> dict[str, Any]:
    """Times for JSON."""
    return {
        "median_ms": statistics.median(milliseconds),
        "least_ms": min(milliseconds),
        "most_ms": max(milliseconds),
        "ms": list(milliseconds),
    }


def useful_tflops(n: int, k: int, d: int, milliseconds: float) -> float:
    """2 N K D operations in this time, in TFLOP/s."""
    return 2.0 * n * k * d / (milliseconds * 1e9)
