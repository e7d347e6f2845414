"""What a Dask cluster on this machine costs and gains.

Usage: python benchmarks/cluster.py [--only speed,overhead,peer,memory] [--repeats 5] [--rows N] [--out DIR]

speed     two workers of one thread each beside one process of two threads: 2,000,000 x 32, K=256, ten iterations
overhead  seconds of an iteration over 100 shards of next to nothing, on two workers, by themselves and asked for
peer      dask-ml's KMeans on the same cluster, the same Dask array and the same start (``pip install dask-ml``)
memory    resident memory of client and scheduler over 20 iterations: 1,000 shards, K=10,000, 128 features

Contenders take turns; figures are medians. Before anything is timed the results are compared: to the bit with the fit
in one process, and dask-ml's centroids by their inertia, of all rows, in gpukm's exact sums.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from data import problem
from record import record

from gpukm import assign, kmeans
from gpukm.executors.dask.clusters import open_cluster
from gpukm.executors.dask.executor import DaskExecutor
from gpukm.functional import fit_iter

PARTS = ("speed", "overhead", "peer", "memory")
ITERATIONS, PEER_ITERATIONS = 10, 25


def alternate(repeats: int, *calls: Callable[[], Any]) -> list[list[float]]:
    """Seconds of each call, taking turns."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for times, call in zip(seconds, calls, strict=True):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
    return seconds


def iteration(source: Any, k: int, n: int, **settings: Any) -> float:
    """Seconds of an iteration: what a fit of n takes more than one of two, shared out."""
    seconds = []
    for most in (2, n):
        began = time.perf_counter()
        made = kmeans(source, k, tol=0.0, max_iter=most, **settings).n_iter
        if made != most:
            raise SystemExit(f"the fit ended after {made} of {most} iterations")
        seconds.append(time.perf_counter() - began)
    return (seconds[1] - seconds[0]) / (n - 2)


def speed(folder: Path, repeats: int, rows: int) -> dict[str, Any]:
    """Whole fits and iterations, by workers and by threads."""
    given = problem(f"{rows}-32-256")
    path, start = str(folder / "rows.npy"), np.ascontiguousarray(given.x[given.rows])
    np.save(path, given.x)
    settings: dict[str, Any] = {"init": start, "max_iter": ITERATIONS, "tol": 0.0}
    with open_cluster("local:2", threads=2) as client:
        client.wait_for_workers(2)
        alone = kmeans(path, given.k, threads=2, **settings)
        there = kmeans(path, given.k, executor=client, **settings)
        if there.digest() != alone.digest():
            raise SystemExit("the cluster's result is another one")
        one, two = alternate(
            repeats,
            lambda: kmeans(path, given.k, threads=2, **settings),
            lambda: kmeans(path, given.k, executor=client, **settings),
        )
        each: list[list[float]] = [[], []]
        for _ in range(repeats):
            each[0].append(iteration(path, given.k, ITERATIONS, threads=2, init=start))
            each[1].append(iteration(path, given.k, ITERATIONS, executor=client, init=start))
    found = {
        "title": given.title,
        "whole_seconds": {"threads": one, "workers": two},
        "iteration_seconds": {"threads": statistics.median(each[0]), "workers": statistics.median(each[1])},
        "whole_ratio": statistics.median(a / b for a, b in zip(one, two, strict=True)),
        "iteration_ratio": statistics.median(each[0]) / statistics.median(each[1]),
        "work": there.work,
    }
    print(
        f"speed: {given.title}: two workers at {found['whole_ratio']:.2f} of the speed of two threads, fits "
        f"({statistics.median(two):.2f} and {statistics.median(one):.2f} s); iterations {found['iteration_ratio']:.2f}"
    )
    return found


def overhead(folder: Path, repeats: int) -> dict[str, Any]:
    """Iterations over 100 shards of 20 rows."""
    x = np.random.default_rng(0).normal(size=(2000, 4)).astype(np.float32)
    path = str(folder / "tiny.npy")
    np.save(path, x)
    with open_cluster("local:2", threads=2) as client:
        client.wait_for_workers(2)
        settings: dict[str, Any] = {"init": x[:8], "max_iter": 40}
        alone = kmeans(path, 8, tol=0.0, **settings)
        if kmeans(path, 8, executor=client, n_shards=100, tol=0.0, **settings).digest() != alone.digest():
            raise SystemExit("the cluster's result is another one")
        ways = {"by_themselves": client, "asked_for": DaskExecutor(client, round_seconds=0)}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, executor in ways.items():
                times[way].append(iteration(path, 8, 22, init=x[:8], executor=executor, n_shards=100))
        hops = []
        for i in range(50):
            began = time.perf_counter()
            client.submit(int, i, pure=False).result()
            hops.append(time.perf_counter() - began)
    found = {
        "shards": 100,
        "workers": 2,
        "iteration_seconds": {way: statistics.median(each) for way, each in times.items()},
        "least": {way: min(each) for way, each in times.items()},
        "round_trip_seconds": statistics.median(hops),
        "n": repeats,
    }
    own, asked = found["iteration_seconds"].values()
    print(
        f"overhead: {1e3 * own:.1f} ms an iteration over 100 shards on 2 workers, {1e3 * asked:.1f} ms where each is "
        f"asked for; {1e3 * found['round_trip_seconds']:.1f} ms to submit a task and get its result"
    )
    return found


def peer(repeats: int, rows: int) -> dict[str, Any]:
    """Fits beside dask-ml's."""
    import dask.array
    from dask_ml.cluster import KMeans

    given = problem(f"{rows}-32-100")
    start = np.ascontiguousarray(given.x[given.rows])
    with open_cluster("local:2", threads=2) as client, client.as_current():
        client.wait_for_workers(2)
        x = client.persist(dask.array.from_array(given.x, chunks=(-(-rows // 8), 32)))
        settings: dict[str, Any] = {"max_iter": PEER_ITERATIONS, "tol": 0.0}
        fits: dict[str, Any] = {}

        def theirs() -> None:
            fits["dask-ml"] = KMeans(given.k, init=start, **settings).fit(x).cluster_centers_

        def ours() -> None:
            fits["gpukm"] = kmeans(x, given.k, init=start, executor=client, **settings).centroids

        theirs()
        ours()
        inertia = {name: assign(given.x, np.asarray(c, np.float32)).inertia for name, c in fits.items()}
        slow, fast = alternate(repeats, theirs, ours)
    ratio = statistics.median(a / b for a, b in zip(slow, fast, strict=True))
    apart = inertia["dask-ml"] / inertia["gpukm"] - 1
    print(
        f"peer: {given.title}, {PEER_ITERATIONS} iterations: {ratio:.1f} times as fast as dask-ml "
        f"({statistics.median(fast):.2f} s and {statistics.median(slow):.2f} s), whose inertia is {apart:+.2e} of ours"
    )
    return {
        "title": given.title,
        "iterations": PEER_ITERATIONS,
        "seconds": {"dask-ml": slow, "gpukm": fast},
        "ratio": ratio,
        "inertia": inertia,
        "inertia_apart": apart,
    }


@contextmanager
def processes(folder: Path) -> Iterator[tuple[int, str]]:
    """A scheduler and two workers, each a process of its own; the scheduler's process number and file."""
    file, running = str(folder / "scheduler.json"), []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [
        ["scheduler", "--scheduler-file", file, "--host", "127.0.0.1", "--port", "0", "--no-dashboard"],
        *[["worker", "--scheduler-file", file, "--nthreads", "1", "--no-nanny", "--memory-limit", "0"]] * 2,
    ]
    try:
        for command in commands:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *command],
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=folder,
                )
            )
        yield running[0].pid, file
    finally:
        for process in running:
            process.kill()
            process.wait()


def resident_bytes(pid: int) -> int:
    """Resident memory of a process (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def memory(folder: Path, rows: int) -> dict[str, Any]:
    """Client and scheduler, iteration by iteration."""
    n_shards, k, d = 1000, 10_000, 128
    x = np.random.default_rng(0).normal(size=(max(rows, k), d)).astype(np.float32)
    path = str(folder / "wide.npy")
    np.save(path, x)
    series: list[dict[str, int]] = []
    with processes(folder) as (scheduler, file), open_cluster(f"file:{file}") as client:
        client.wait_for_workers(2)
        fit = fit_iter(path, k, init=x[:k], executor=client, n_shards=n_shards, max_iter=20, tol=0.0, keep_labels=False)
        for _ in fit:
            series.append({"client": resident_bytes(os.getpid()), "scheduler": resident_bytes(scheduler)})
    # What the first iterations bring along is not growth: code that is loaded, buffers that are kept.
    grown = {name: series[-1][name] - series[len(series) // 4][name] for name in ("client", "scheduler")}
    print(
        f"memory: {n_shards} shards, K={k:,}, {d} features, {len(series)} iterations: "
        + ", ".join(
            f"{name} {series[0][name] / 2**20:.0f}, {series[len(series) // 4][name] / 2**20:.0f}, "
            f"{series[-1][name] / 2**20:.0f} MiB at first, after a quarter, in the end"
            for name in grown
        )
    )
    return {"shards": n_shards, "clusters": k, "features": d, "rows": len(x), "bytes": series, "grown_bytes": grown}


def main() -> None:
    """Run, check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, help="rows of the first and third part, to try the script")
    parser.add_argument("--out", type=Path, help="folder of the result")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        raise SystemExit(f"there is no part {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "speed" in wanted:
            found["speed"] = speed(folder, arguments.repeats, arguments.rows or 2_000_000)
        if "overhead" in wanted:
            found["overhead"] = overhead(folder, arguments.repeats)
        if "peer" in wanted:
            found["peer"] = peer(arguments.repeats, arguments.rows or 1_000_000)
        if "memory" in wanted:
            found["memory"] = memory(folder, arguments.rows or 100_000)
    record("cluster", found, ("dask", "distributed", "dask-ml", "numpy"), arguments.out)


if __name__ == "__main__":
    main()
