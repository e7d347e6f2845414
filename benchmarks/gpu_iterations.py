"""Cases of one iteration: by differences of fits, and inside the device's own loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from gpu_cases import MAIN, MICROSECONDS, Bench, Case, attempt, failed, least, wrong
from gpu_check import judged
from gpu_contenders import Absent, Data
from gpu_fits import MOST_ITERATIONS, fitters
from gpu_ours import Gpukm
from gpu_times import spread, take_turns, useful_tflops


def run_iteration(bench: Bench, case: Case) -> tuple[dict[str, Any], dict[str, float]]:
    """One iteration: fits of 2m iterations less fits of m, over m; and iterations inside the device's own loop."""
    every = bench.rotation(case)
    contenders, absent = fitters(bench)
    first = next(iter(bench.gpukm.values()))
    whole = first.fitting(every[0], MOST_ITERATIONS, True)()
    if problem := judged(every[0], whole, True)[0]:
        raise Absent(f"gpukm is wrong: {problem}")
    m = min(32, (whole.iterations - 4) // 2)
    if m < 2:
        raise Absent(f"the fit ends after {whole.iterations} iterations, too few to tell the time of one")
    work: dict[str, list[Callable[[], Any]]] = {}
    found: dict[str, dict[str, Any]] = {}
    for name, peer in contenders.items():
        both = attempt(absent, name, lambda peer=peer: [[peer.fitting(x, i, False) for x in every] for i in (m, 2 * m)])
        fits = both and attempt(absent, name, lambda both=both: [calls[0]() for calls in both])
        if not fits:
            failed(bench, case, name, absent)
            continue
        problem, inertia = judged(every[0], fits[1], isinstance(peer, Gpukm))
        if problem:
            wrong(bench, case, name, problem, absent)
            continue
        found[name] = {"inertia": inertia, "iterations": fits[1].iterations}
        work |= {f"{name}: {i}": calls for i, calls in zip((m, 2 * m), both, strict=True)}
    times = take_turns(bench, work)
    for name, row in found.items():
        pairs = zip(times[f"{name}: {2 * m}"], times[f"{name}: {m}"], strict=False)
        row |= spread([(longer - shorter) / m for longer, shorter in pairs])
    for name, peer in bench.gpukm.items():
        if peer.cascade is None:
            continue
        for ahead in (False, True):
            label = f"{name}, inside the loop" + (", queued" if ahead else "")
            inner = attempt(absent, label, in_loop, bench, peer, every, m, ahead)
            if inner:
                found[label] = spread(inner)
    values = {}
    if best := least(found, MAIN):
        values[MICROSECONDS] = 1e3 * found[best]["median_ms"]
    for row in found.values():
        if row["median_ms"] > 0:
            row["tflops"] = useful_tflops(case.n, case.k, case.d, row["median_ms"])
    return {"data": every[0].origin, "m": m, "copies": len(every), "contenders": found, "left_out": absent}, values


def in_loop(bench: Bench, peer: Gpukm, every: Sequence[Data], m: int, ahead: bool) -> list[float]:
    """Milliseconds of an iteration that the device makes without the host, from several fits."""

    def measure(loop: Any) -> float:
        device, clock = loop._device, bench.clock
        history = device.empty((m + 3, 5), np.float64)
        loop._iterate(-1.0, history)
        again = device.record(lambda: loop._iterate(-1.0, history))
        again()
        if ahead:
            clock.run_ahead()
        begin = clock.mark()
        for _ in range(m):
            again()
        taken_ms = clock.between(begin, clock.mark()) / m
        if device.fetch(loop._control)[0]:
            raise Absent(f"the fit ended within {m} iterations, which says nothing about their time")
        return taken_ms

    return [watched(peer, every[i % len(every)], measure) for i in range(10)]


def watched(peer: Gpukm, data: Data, measure: Callable[[Any], Any]) -> Any:
    """What ``measure`` makes of the loop that a fit hands to the device after its first iteration."""
    from gpukm.backends import gpu

    found: list[Any] = []
    real = gpu.Loop

    class Watched(real):
        """Measured instead of run; the host goes on without it."""

        def run(self, tolerance: float, most: int) -> Iterator[Any]:
            if not found:
                found.append(measure(self))
            return iter(())

    gpu.Loop = Watched
    try:
        Gpukm(peer.backend, peer.library, stepwise=True).fitting(data, 2, False)()
    finally:
        gpu.Loop = real
    if not found:
        raise Absent("the fit did not reach the loop of the device")
    return found[0]
