"""Many small problems: gpukm.kmeans_batched beside a Python loop over scikit-learn's KMeans.

Usage: python benchmarks/batched.py [--problems 1000] [--looped 100] [--repeats 5] [--out DIR]

1,000 problems of 1,000 x 16, K=8, float32, in four kinds of data: normal noise, and eight clouds at three distances
from each other. Both sides draw k-means++ starts (greedy, one start) with their own random numbers and stop by default
rules. gpukm solves all problems in one call. scikit-learn gets `--looped` of them, another part in each round, and
its time is scaled by the number of problems; it runs as it comes, and once more with its threads limited to one, which
suits problems of this size better. Both figures are shown.

Before any timing, some results are compared to gpukm.kmeans on the same rows and seed (equal bits), and the mean
inertia of both sides to each other: different starts end in different local optima, so their means may differ by four
standard errors.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from record import record
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from gpukm import kmeans, kmeans_batched

ROWS, FEATURES, K = 1000, 16, 8
DISTANCES = (0.0, 1.0, 1.5, 3.0)


def data(problems: int, distance: float) -> np.ndarray:
    """Eight clouds a problem; at distance 0 they are one."""
    rng = np.random.default_rng(0)
    centers = distance * rng.standard_normal((problems, K, FEATURES), dtype=np.float32)
    chosen = rng.integers(0, K, (problems, ROWS, 1))
    noise = rng.standard_normal((problems, ROWS, FEATURES), dtype=np.float32)
    return noise + np.take_along_axis(centers, chosen, axis=1)


def loop(x: np.ndarray) -> list[KMeans]:
    """scikit-learn, one problem after another."""
    return [KMeans(K, init="k-means++", n_init=1, random_state=0).fit(rows) for rows in x]


def check(x: np.ndarray) -> dict[str, float]:
    """Equal bits with single fits, and inertia and iterations of both sides on some problems."""
    ours = kmeans_batched(x, K)
    for b in range(0, len(x), max(1, len(x) // 10)):
        alone = kmeans(x[b], K, seed=int(ours.seeds[b]))
        if alone.digest() != ours[b].digest() or alone.n_iter != ours.n_iter[b]:
            raise SystemExit(f"problem {b} differs from a fit of its own")
    theirs = loop(x)
    inertia = np.array([fit.inertia_ for fit in theirs])
    ratio = float(ours.inertia.mean() / inertia.mean())
    error = float(np.std(ours.inertia - inertia) / inertia.mean()) / len(x) ** 0.5
    if not abs(ratio - 1) < 4 * error + 0.005:
        raise SystemExit(f"mean inertia is {ratio:.4f} of scikit-learn's, expected 1 within {4 * error + 0.005:.4f}")
    iterations = statistics.fmean(fit.n_iter_ for fit in theirs)
    return {
        "inertia_ratio": ratio,
        "gpukm_iterations": float(ours.n_iter.mean()),
        "scikit_learn_iterations": iterations,
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Run, check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--looped", type=int, default=100, help="problems of a round that scikit-learn gets")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder of the results")
    arguments = parser.parse_args()
    n, part = arguments.problems, min(arguments.looped, arguments.problems)
    rows = []
    for distance in DISTANCES:
        x = data(n, distance)
        facts = check(x[:part])
        seconds: dict[str, list[float]] = {"gpukm": [], "scikit-learn": [], "scikit-learn, one thread": []}
        for turn in range(arguments.repeats):
            first = turn * part % max(1, n - part + 1)
            some = x[first : first + part]
            seconds["gpukm"].append(timed(lambda x=x: kmeans_batched(x, K)) / n)  # type: ignore[misc]
            seconds["scikit-learn"].append(timed(lambda some=some: loop(some)) / part)  # type: ignore[misc]
            with threadpool_limits(1):
                seconds["scikit-learn, one thread"].append(timed(lambda some=some: loop(some)) / part)  # type: ignore[misc]
        middle = {name: statistics.median(times) for name, times in seconds.items()}
        faster = {name: middle[name] / middle["gpukm"] for name in middle if name != "gpukm"}
        rows.append({"distance": distance, **facts, "seconds_a_problem": seconds, "medians": middle, "faster": faster})
        print(
            f"clouds at {distance:g}: gpukm {1e6 * middle['gpukm']:.0f} us a problem, "
            + ", ".join(f"{name} {1e6 * middle[name]:.0f} us ({ratio:.1f} x)" for name, ratio in faster.items())
            + f"; {facts['gpukm_iterations']:.1f} and {facts['scikit_learn_iterations']:.1f} iterations, "
            f"inertia {facts['inertia_ratio']:.4f}",
            flush=True,
        )
    shape = {"problems": n, "looped": part, "rows": ROWS, "features": FEATURES, "k": K, "cpus": os.cpu_count()}
    print(record("batched", {"shape": shape, "cases": rows}, ("numpy", "scikit-learn"), arguments.out))


if __name__ == "__main__":
    main()
