"""Cases of fits: five iterations from one start, whole fits, and fits of embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from data import START_SEED, starting_rows
from gpu_cases import FLASHLIB, MAIN, TO_BOTH, TO_FLASHLIB, Bench, Case, attempt, failed, least, wrong
from gpu_check import judged
from gpu_contenders import Absent, Data, Peer
from gpu_ours import Gpukm
from gpu_times import spread, take_turns, useful_tflops

EQUAL_INERTIA = 1e-6
MOST_ITERATIONS = 300
#: Ends the name of a peer whose rows are a copy of half the size.
HALF = ", rows as bfloat16"


def run_five(bench: Bench, case: Case) -> tuple[dict[str, Any], dict[str, float]]:
    """Five whole iterations from one start."""
    return compare_fits(bench, case, 5, converge=False)


def run_fit(bench: Bench, case: Case) -> tuple[dict[str, Any], dict[str, float]]:
    """Whole fits until nothing moves, or as many iterations as gpukm made."""
    return compare_fits(bench, case, MOST_ITERATIONS, converge=True)


def run_embeddings(bench: Bench, case: Case) -> tuple[dict[str, Any], dict[str, float]]:
    """The same on a file of embeddings."""
    if bench.embeddings is None:
        raise Absent("embeddings are read from the file given with --embeddings FILE.npy")
    return compare_fits(bench, case, MOST_ITERATIONS, converge=True, data=read_embeddings(bench, case))


def read_embeddings(bench: Bench, case: Case) -> Data:
    """Rows of the file, at most as many as the case has."""
    assert bench.embeddings is not None
    x = np.ascontiguousarray(np.load(bench.embeddings, mmap_mode="r")[: case.n], dtype=np.float32)
    k = min(case.k, max(2, len(x) // 10))
    rows = np.asarray(starting_rows(x, k))
    on = x if bench.torch is None else bench.torch.from_numpy(x)
    return Data(on.cuda() if bench.on_gpu else on, rows, f"{bench.embeddings.name}; start {START_SEED}")


def compare_fits(
    bench: Bench, case: Case, iterations: int, converge: bool, data: Data | None = None
) -> tuple[dict[str, Any], dict[str, float]]:
    """Fits of all contenders, gpukm first, whose iterations bound those of the others."""
    data = bench.data(case) if data is None else data
    contenders, absent = fitters(bench, halves=not converge)
    found: dict[str, dict[str, Any]] = {}
    work: dict[str, list[Callable[[], Any]]] = {}
    bound = iterations
    for name, peer in contenders.items():
        rows = data
        if name.endswith(HALF):
            rows = replace(data, x=data.x.bfloat16())
        ready = attempt(absent, name, peer.fitting, rows, bound, converge)
        made = ready and attempt(absent, name, bench.peak, ready)
        if not made:
            failed(bench, case, name, absent)
            continue
        fit, peak = made
        problem, inertia = judged(data, fit, isinstance(peer, Gpukm))
        if problem:
            wrong(bench, case, name, problem, absent)
            continue
        if isinstance(peer, Gpukm):
            bound = fit.iterations
        found[name] = {
            "inertia": inertia,
            "iterations": fit.iterations,
            "rechecked": fit.rechecked,
            "peak_bytes": peak,
        }
        work[name] = [ready]
    for name, times in take_turns(bench, work).items():
        found[name] |= spread(times)
        each, (n, d, k) = found[name]["median_ms"] / max(1, found[name]["iterations"]), data.shape
        found[name]["tflops"] = useful_tflops(n, k, d, each)
    values = {}
    if ours := least(found, MAIN):
        speed = {name: found[name]["median_ms"] / found[ours]["median_ms"] for name in found}
        flashlib = [speed[name] for name in FLASHLIB if name in speed]
        if flashlib:
            values[TO_FLASHLIB] = min(flashlib)
        # A faster fit that ends higher is no fit of the same quality.
        higher = [
            name
            for name in ("flashlib triton", "flash-kmeans")
            if name in found and found[ours]["inertia"] > found[name]["inertia"] * (1 + EQUAL_INERTIA)
        ]
        if flashlib and "flash-kmeans" in speed:
            values[TO_BOTH] = 0.0 if higher else min(*flashlib, speed["flash-kmeans"])
    return {"data": data.origin, "contenders": found, "left_out": absent, "iterations": bound}, values


def fitters(bench: Bench, halves: bool = False) -> tuple[dict[str, Peer], dict[str, str]]:
    """Who fits; with ``halves`` peers that take bfloat16 fit such a copy of the rows as well."""
    contenders: dict[str, Peer] = dict(bench.gpukm)
    absent = dict(bench.absent)
    if bench.on_gpu:
        for name, ours in bench.gpukm.items():
            contenders[f"{name}, rows from the host"] = Gpukm(ours.backend, ours.library, from_host=True)
    for name, peer in bench.peers.items():
        if "float32" in peer.kinds:
            contenders[name] = peer
        if halves and "bfloat16" in peer.kinds and peer.package != "torch":
            contenders[name + HALF] = peer
    return contenders, absent
