"""Cases of the stages of an iteration, by events around every launch."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from gpu_cases import Bench, Case, attempt, failed
from gpu_contenders import host
from gpu_iterations import watched
from gpu_times import LEAST_CALLS

#: Stages of an iteration by the beginning of a kernel's name; what is none of them is called by its file.
STAGES = (
    ("round.", "centroids packed"),
    ("decide.", "decide"),
    ("update.accumulate", "accumulate"),
    ("update.means", "means"),
    ("loop.", "commit"),
)


def run_stages(bench: Bench, case: Case) -> tuple[dict[str, Any], dict[str, float]]:
    """Milliseconds of each stage of an iteration, by events around every launch."""
    data, found, absent = bench.data(case), {}, dict(bench.absent)
    for name, peer in bench.gpukm.items():
        if peer.cascade is None:
            absent[name] = "its iterations are not made of launches"
            continue
        stages = attempt(absent, name, watched, peer, data, Stages(bench))
        if stages is None:
            failed(bench, case, name, absent)
            continue
        rows, cascade = peer.rows(data.x), peer.cascade
        packed = peer.backend.prepare(host(data.start), peer.frame(rows))
        again = [bench.clock.time(partial(cascade.round, rows, packed)) for _ in range(1 + LEAST_CALLS)][1:]
        found[name] = {"rows rounded, once a fit": statistics.median(again), **stages}
    return {"data": data.origin, "stages_ms": found, "left_out": absent}, {}


class Stages:
    """Times the stages of a few iterations of a loop; medians over these, of the sum within each."""

    iterations = 5

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.marks: list[tuple[str, Any, Any]] = []
        self.inside = False

    def __call__(self, loop: Any) -> dict[str, float]:
        device, screen = loop._device, loop._rungs.now.screen
        history = device.empty((self.iterations + 3, 5), np.float64)
        loop._iterate(-1.0, history)
        per: dict[str, list[float]] = {}
        with self.around(device, screen):
            for _ in range(self.iterations):
                self.marks.clear()
                self.bench.clock.run_ahead()
                loop._iterate(-1.0, history)
                sums: dict[str, float] = {}
                for stage, begin, end in self.marks:
                    sums[stage] = sums.get(stage, 0.0) + self.bench.clock.between(begin, end)
                for stage, milliseconds in sums.items():
                    per.setdefault(stage, []).append(milliseconds)
        medians = {stage: statistics.median(times) for stage, times in per.items()}
        return {**medians, "all": sum(medians.values())}

    @contextlib.contextmanager
    def around(self, device: Any, screen: Any) -> Iterator[None]:
        """Marks around all that a loop launches for a while."""
        launch = device.launch

        def launched(kernel: str, *args: Any, **settings: Any) -> None:
            stage = next((stage for start, stage in STAGES if kernel.startswith(start)), kernel.partition(".")[0])
            self.timed(stage, lambda: launch(kernel, *args, **settings))

        device.launch = launched
        for stage in ("screen", "pairs"):
            setattr(screen, stage, self.wrapped(stage, getattr(screen, stage)))
        try:
            yield
        finally:
            for owner, attribute in ((device, "launch"), (screen, "screen"), (screen, "pairs")):
                delattr(owner, attribute)

    def wrapped(self, stage: str, method: Callable[..., None]) -> Callable[..., None]:
        """A method with marks around it."""
        return lambda *args: self.timed(stage, lambda: method(*args))

    def timed(self, stage: str, work: Callable[[], None]) -> None:
        """Note where a piece of work begins and ends, unless it is part of another."""
        if self.inside:
            work()
            return
        self.inside, begin = True, self.bench.clock.mark()
        try:
            work()
        finally:
            self.inside = False
        self.marks.append((stage, begin, self.bench.clock.mark()))
