"""The case of rows in the host's memory, beside the link and the kernel."""

from __future__ import annotations

import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpu_cases import MAIN, SHARE, Bench, Case, attempt, failed, least
from gpu_contenders import Absent, host
from gpu_times import LEAST_CALLS, spread, useful_tflops

LINK_BYTES = 1 << 30


def run_stream(bench: Bench, case: Case) -> tuple[dict[str, Any], dict[str, float]]:
    """Passes over rows in the host's memory: fits of three iterations less fits of one, over two."""
    if not bench.on_gpu:
        raise Absent("it needs a CUDA device")
    torch, d = bench.torch, case.d
    n = min(case.n, bench.rows, int(0.3 * available_bytes() / (4 * d)))
    block = bench.data(replace(case, n=min(n, 1 << 20)))
    start, small = host(block.start), block.host
    pinned = torch.empty((n, d), dtype=torch.float32, pin_memory=True)
    for first in range(0, n, len(small)):
        part = pinned[first : first + len(small)]
        part.copy_(torch.from_numpy(small[: len(part)]))
    places = {"pageable": pinned.numpy().copy(), "pinned": pinned.numpy()}
    link = {
        where: statistics.median(link_gb_s(bench, torch.from_numpy(x)) for _ in range(LEAST_CALLS))
        for where, x in places.items()
    }
    kernel = {}
    for name, peer in bench.gpukm.items():
        work = peer.assigning(block)
        work()
        kernel[name] = len(small) / statistics.median(bench.clock.time(work) for _ in range(5)) * 1e3
    found: dict[str, dict[str, Any]] = {}
    absent, work_of = dict(bench.absent), {}
    for name, peer in {**bench.gpukm, **bench.peers}.items():
        for where, x in places.items():
            label = f"{name}, {where}"
            ready = attempt(absent, label, lambda peer=peer, x=x: [peer.passing(x, start, i) for i in (1, 3)])
            if ready is None or attempt(absent, label, bench.peak, ready[0]) is None:
                failed(bench, case, label, absent)
                continue
            work_of[label] = ready
    for _ in range(LEAST_CALLS):
        for label, (one, three) in work_of.items():
            if bench.left < 0 and found.get(label):
                continue
            taken_ms = (bench.clock.time(three) - bench.clock.time(one)) / 2
            found.setdefault(label, {"passes": []})["passes"].append(taken_ms)
    for row in found.values():
        row |= spread(row.pop("passes"))
        if row["median_ms"] <= 0:
            continue
        row["rows_per_second"] = n / row["median_ms"] * 1e3
        row["tflops"] = useful_tflops(n, case.k, d, row["median_ms"])
        row["rows_gb_s"] = 4 * d * n / row["median_ms"] / 1e6
    values = {}
    if ours := least(found, [f"{name}, {where}" for name in MAIN for where in places]):
        name, where = ours.rsplit(", ", 1)
        values[SHARE] = found[ours]["rows_per_second"] / min(1e9 * link[where] / (4 * d), kernel[name])
    found_all = {"rows": n, "link_gb_s": link, "kernel_rows_per_second": kernel, "contenders": found}
    return {"data": block.origin, **found_all, "left_out": absent}, values


def link_gb_s(bench: Bench, x: Any) -> float:
    """GB/s of a copy of host rows to the device."""
    part = x[: max(1, min(len(x), LINK_BYTES // (4 * x.shape[1])))]
    on = bench.torch.empty(part.shape, dtype=part.dtype, device="cuda")
    on.copy_(part)
    return float(part.nbytes / bench.clock.time(lambda: on.copy_(part)) / 1e6)


def available_bytes() -> int:
    """Memory of the host that is free."""
    info = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+)", info.read_text()) if info.exists() else None
    return int(found.group(1)) << 10 if found else 1 << 34
