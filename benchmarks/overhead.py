"""What remembering rows costs where it avoids nothing: whole fits of noise, with and without it.

Usage: python benchmarks/overhead.py [--only 200000-128-512,...] [--iterations 10] [--repeats 5] [--threads 2]
                                     [--out DIR]

Rows are independent normal numbers, and iterations are few: hardly a distance can be ruled out. ``gpukm`` decides in
every iteration what to do; ``gpukm-plain`` is made to label all rows anew. Both have the same start and must find the
same inertia. Ratios are medians over rounds of the quotient within a round.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from data import Problem, starting_rows
from record import record
from turns import check, workers

SHAPES = (
    "2000000-2-16",
    "1000000-8-16",
    "500000-16-64",
    "200000-32-1024",
    "200000-128-512",
    "50000-384-1000",
    "100000-768-256",
)
SEED = 0
CONTENDERS = ("gpukm", "gpukm-plain")


def noise(name: str) -> Problem:
    """Normal noise of a shape N-D-K, and where to start in it."""
    n, d, k = (int(part) for part in name.split("-"))
    x = np.random.default_rng(SEED).standard_normal((n, d), dtype=np.float32)
    return Problem(name, f"normal noise, seed {SEED}", x, starting_rows(x, k))


def compare(given: Problem, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    inertia = {}
    with workers(given, ((name, arguments.threads) for name in CONTENDERS)) as (turns, _):
        for worker in turns:
            _, peak, fit = worker.fit(arguments.iterations)
            inertia[worker.name] = check(worker.name, given, fit, peak).inertia
        for number in range(arguments.repeats):
            for worker in turns if number % 2 else reversed(turns):
                seconds[worker.name].append(worker.fit(arguments.iterations)[0])
    if len(set(inertia.values())) > 1:
        raise SystemExit(f"{given.name}: inertia differs: {inertia}")
    ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
    print(f"  {given.name:<18}" + "".join(f" {n} {statistics.median(s):.3f} s" for n, s in seconds.items()), end="")
    print(f"  ratio {ratio:.3f}", flush=True)
    return {"name": given.name, "data": given.origin, "seconds": seconds, "inertia": inertia, "ratio": ratio}


def main() -> None:
    """Run, check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SHAPES), help="shapes N-D-K")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="folder of the result")
    arguments = parser.parse_args()
    rows = [compare(noise(name), arguments) for name in arguments.only.split(",")]
    found = {"threads": arguments.threads, "iterations": arguments.iterations, "rows": rows}
    print(record("overhead", found, ("numpy",), arguments.out))


if __name__ == "__main__":
    main()
