"""Cases of assignments: labels of rows by given centroids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpu_cases import EXACT, FAST, FLASHLIB, MAIN, TFLOPS, Bench, Case, attempt, failed, least, wrong
from gpu_check import expected
from gpu_contenders import Data, Peer, host
from gpu_ours import Gpukm
from gpu_times import spread, take_turns, useful_tflops


def run_assign(bench: Bench, case: Case) -> tuple[dict[str, Any], dict[str, float]]:
    """Labels of rows by given centroids."""
    every = bench.rotation(case)
    data = every[0]
    right = expected(data.x, data.start)
    contenders, absent = assigners(bench, case)
    found: dict[str, dict[str, Any]] = {}
    work: dict[str, list[Callable[[], Any]]] = {}
    for name, peer in contenders.items():
        # Memory is that of a call with what was prepared for it.
        made = attempt(absent, name, bench.peak, first_call, peer, data)
        ready = made and attempt(absent, name, prepared, peer, every[1:])
        if ready is None:
            failed(bench, case, name, absent)
            continue
        (call, labels), peak = made
        exact = float((host(labels).reshape(-1) == right).mean())
        found[name] = {"exact": exact, "peak_bytes": peak}
        if isinstance(peer, Gpukm) and peer.certifies:
            if exact < 1:
                wrong(bench, case, name, f"{1 - exact:.2%} of the labels are wrong", absent)
                del found[name]
                continue
            found[name]["rechecked"] = peer.rechecked(data)
        work[name] = [call, *ready]
    for name, times in take_turns(bench, work).items():
        found[name] |= spread(times)
        found[name]["tflops"] = useful_tflops(case.n, case.k, case.d, found[name]["median_ms"])
        found[name]["rows_gb_s"] = data.x.nbytes / found[name]["median_ms"] / 1e6
    values = {}
    if best := least(found, MAIN):
        values[TFLOPS] = found[best]["tflops"]
    return {"data": data.origin, "copies": len(every), "contenders": found, "left_out": absent}, values


def run_half(bench: Bench, case: Case) -> tuple[dict[str, Any], dict[str, float]]:
    """The same of bfloat16, which is read as it is; exact labels are compared with flashlib's best path."""
    found, _ = run_assign(bench, case)
    values, each = {}, found["contenders"]
    if fastest := least(each, [f"{name}, fast" for name in MAIN]):
        values[FAST] = each[fastest]["median_ms"]
    ours, theirs = least(each, MAIN), least(each, FLASHLIB)
    if ours and theirs:
        values[EXACT] = each[ours]["median_ms"] / each[theirs]["median_ms"]
    return found, values


def first_call(peer: Peer, data: Data) -> tuple[Callable[[], Any], Any]:
    """An assignment, and what it gives."""
    call = peer.assigning(data)
    return call, call()


def prepared(peer: Peer, every: Sequence[Data]) -> list[Callable[[], Any]]:
    """The same for more inputs."""
    return [peer.assigning(one) for one in every]


def assigners(bench: Bench, case: Case) -> tuple[dict[str, Peer], dict[str, str]]:
    """Who labels rows of this type, and who does not."""
    absent = dict(bench.absent)
    contenders: dict[str, Peer] = {}
    for name, peer in bench.gpukm.items():
        if case.kind in peer.kinds:
            contenders[name] = peer
            if peer.cascade is not None:
                contenders[f"{name}, fast"] = peer.fast()
                contenders[f"{name}, fast, rows rounded before"] = peer.fast("rounded")
                contenders[f"{name}, rows rounded before"] = Gpukm(peer.backend, peer.library, "rounded")
                contenders[f"{name}, centroids from the host"] = Gpukm(peer.backend, peer.library, "call")
        else:
            absent[name] = f"it takes no rows of {case.kind}"
    for name, peer in bench.peers.items():
        if case.kind in peer.kinds:
            contenders[name] = peer
        else:
            absent[name] = f"it takes no rows of {case.kind}"
    return contenders, absent
