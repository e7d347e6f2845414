"""An iteration on many machines, from costs measured on this one: what grows with workers, and what limits first.

The step is as :mod:`gpukm.executors.dask.executor` takes it. Each of W workers has one task, over its rows, that leaves
sums of 16 bytes a centroid and feature, cut into P pieces; pieces are merged in trees of fan-in F, moved, and
fetched by every worker from the one that holds them.

    rows        N / W * K * D / rate
    sums        depth(W) * (hop + F * piece / network + F * piece / merge) * ceil(P / W)
    centroids   hop + W * piece / 4 / network        each holder sends its piece to all
    scheduler   (W + W P [P > 1] + P * tree(W) + P + 1) * task

Measured are rate, merge, hop and task, on a cluster of two processes; the network is assumed.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

#: Bytes a second between machines: ten gigabit Ethernet.
NETWORK = 1.25e9
FAN_IN, PIECE_BYTES = 8, 1 << 23
WORKERS = tuple(1 << i for i in range(11))
#: Rows, features and clusters.
PROBLEMS = ((10**11, 32, 1_000), (10**11, 128, 10_000), (10**11, 128, 100_000))
#: The part of an iteration beyond which what is no work on rows counts as a limit.
LIMIT = 0.1


@dataclass(frozen=True)
class Costs:
    """What was measured: seconds, and a second's work.

    Attributes
    ----------
    task_seconds : float
        Of the scheduler, for each task.
    hop_seconds : float
        From the end of a task to the start of one that needs its result, elsewhere.
    merge_bytes : float
        Of sums merged a second by one thread.
    rate : float
        Rows x clusters x features a second by one worker of one thread.
    network_bytes : float
        A second, assumed.
    """

    task_seconds: float
    hop_seconds: float
    merge_bytes: float
    rate: float
    network_bytes: float = NETWORK


def measure() -> Costs:
    """Measure on two processes of this machine."""
    from gpukm.core.stats import ClusterStats
    from gpukm.executors.dask.clusters import open_cluster
    from gpukm.functional import fit_iter

    with open_cluster("local:2", threads=2) as client:
        client.wait_for_workers(2)
        one, two = sorted(client.nthreads())
        n = 2000
        client.gather(client.map(abs, range(100), pure=False))
        began = time.perf_counter()
        client.gather(client.map(abs, range(n), pure=False))
        task = (time.perf_counter() - began) / n
        hops = []
        for i in range(20):
            began, value = time.perf_counter(), client.submit(abs, i, workers=[one], pure=False)
            for j in range(10):
                value = client.submit(abs, value, workers=[(two, one)[j % 2]], pure=False)
            value.result()
            hops.append((time.perf_counter() - began) / 11)
        rows, d, k = 400_000, 32, 1000
        x = np.random.default_rng(0).normal(size=(rows, d)).astype(np.float32)
        at = []
        for _ in fit_iter(x, k, init=x[:k], executor=client, max_iter=6, tol=0.0, keep_labels=False):
            at.append(time.perf_counter())
    rate = rows * d * k / statistics.median(np.diff(at)) / 2
    a = ClusterStats.zero(10_000, 128, False)
    began = time.perf_counter()
    for _ in range(5):
        a.merge(a)
    return Costs(task, statistics.median(hops), 5 * 16 * a.hi.size / (time.perf_counter() - began), rate)


def parts(costs: Costs, n: int, d: int, k: int, workers: int) -> dict[str, float]:
    """Seconds of an iteration by what they go to."""
    pieces = max(1, min(16 * k * d // PIECE_BYTES, workers))
    piece = 16 * k * d / pieces
    depth = math.ceil(math.log(workers, FAN_IN)) if workers > 1 else 0
    merges, left = 0, workers
    while left > 1:
        left = -(-left // FAN_IN)
        merges += left
    tasks = workers + (workers * pieces if pieces > 1 else 0) + pieces * (merges + 1) + 1
    level = costs.hop_seconds + FAN_IN * piece * (1 / costs.network_bytes + 1 / costs.merge_bytes)
    return {
        "rows": n / workers * k * d / costs.rate,
        "sums": depth * level,
        "centroids": costs.hop_seconds + workers * piece / 4 / costs.network_bytes,
        "scheduler": tasks * costs.task_seconds,
    }


def first_limit(costs: Costs, n: int, d: int, k: int) -> dict[str, Any] | None:
    """The fewest workers at which the rest takes a tenth of an iteration, and the largest part of the rest."""
    for workers in (1 << i for i in range(31)):
        found = parts(costs, n, d, k, workers)
        rest = {name: seconds for name, seconds in found.items() if name != "rows"}
        if sum(rest.values()) > LIMIT * sum(found.values()):
            return {"workers": workers, "by": max(rest, key=lambda name: rest[name])}
    return None


def model(costs: Costs) -> dict[str, Any]:
    """Every problem at every number of workers, and where the first limit lies."""
    found = []
    for n, d, k in PROBLEMS:
        table = {workers: parts(costs, n, d, k, workers) for workers in WORKERS}
        limit = first_limit(costs, n, d, k)
        title = f"{n:,} x {d}, K={k:,}"
        last = table[WORKERS[-1]]
        where = "none" if limit is None else f"{limit['workers']:,} workers, by {limit['by']}"
        print(
            f"  {title}: {sum(last.values()):,.1f} s an iteration on {WORKERS[-1]:,} workers of one thread, "
            f"{last['rows'] / sum(last.values()):.1%} of it work on rows; first limit: {where}"
        )
        found.append({"title": title, "seconds": table, "first_limit": limit})
    return {"costs": asdict(costs), "fan_in": FAN_IN, "piece_bytes": PIECE_BYTES, "problems": found}
