"""Cases of the tiles of the Triton screen."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
from gpu_cases import Bench, Case, attempt
from gpu_check import expected
from gpu_contenders import Absent, host
from gpu_times import spread, useful_tflops


def run_tiles(bench: Bench, case: Case) -> tuple[dict[str, Any], dict[str, float]]:
    """Tiles of the Triton screen: assignments with rows rounded before, which the screen takes nearly all of."""
    if not bench.on_gpu or "gpukm torch" not in bench.gpukm:
        raise Absent("it needs a CUDA device, torch and Triton")
    from gpukm_kernels.screening import mode
    from gpukm_kernels.triton.tiles import candidates, table

    from gpukm.backends.cascade import Cascade
    from gpukm.backends.triton_screen import TritonScreen

    peer, data, began = bench.gpukm["gpukm torch"], bench.data(case), time.monotonic()
    device, rows, start = peer.backend.device, peer.rows(data.x), host(data.start)
    right, frame, found = expected(data.x, data.start), peer.frame(rows), {}
    labels, absent = peer.backend.zeros(len(rows), np.int32), {}
    arithmetic = mode("fp16", device.capability)
    usual = table(device.capability, arithmetic.stored, case.d)

    def measured(chosen: Any) -> dict[str, Any]:
        cascade = Cascade(device, TritonScreen(device, arithmetic, chosen))
        packed = cascade.pack(start, frame)
        rounded, lists = cascade.round(rows, packed), cascade.lists(len(rows))
        counters = device.zeros(2, np.uint64)

        def work() -> None:
            cascade.assign(rows, packed, labels, rounded, lists, counters)

        work()
        if not np.array_equal(host(labels), right):
            raise AssertionError("labels are wrong")
        times = [bench.clock.time(work) for _ in range(7)]
        return {**spread(times), "tflops": useful_tflops(case.n, case.k, case.d, statistics.median(times))}

    for chosen in (usual, *(t for t in candidates(arithmetic.stored, case.d, 227 << 10) if t != usual)):
        if bench.left < 0 or time.monotonic() - began > 1.5 * case.seconds:
            absent["other tiles"] = "no time was left for them"
            break
        label = f"{arithmetic.stored} rows {chosen.rows}, centroids {chosen.centroids}, features {chosen.features}"
        label += f", warps {chosen.warps}, stages {chosen.stages}" + (" (table)" if chosen == usual else "")
        row = attempt(absent, label, measured, chosen)
        if row:
            found[label] = row
        elif "labels are wrong" in absent[label]:
            bench.wrong.append(f"{case.name}: {label}")
    fastest = dict(sorted(found.items(), key=lambda item: item[1]["median_ms"]))
    return {"data": data.origin, "contenders": fastest, "left_out": absent}, {}
