"""Time to within 1% of the converged inertia: gpukm's, scikit-learn's mini-batches and superkmeans hierarchical.

Usage: python benchmarks/quality.py [--repeats 3] [--threads 2] [--shapes 1000000x16x64,1000000x64x256] [--folder DIR]

The mark is the inertia that Lloyd's algorithm converges to on all rows (gpukm's KMeans, k-means++, tol=0). Each
contender runs with several settings, from cheap to thorough, each with a new seed a repeat; all make centroids and no
labels. A setting counts when the median of its inertia on all rows is at most 1.01 times the mark; inertia is computed
in float64 by an implementation that is none of the contenders'. The table shows medians; a contender's time is that of
its fastest setting that counts. Contenders take turns, and a first round warms up.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cpu import inertia, mixture
from record import record

WITHIN = 1.01
Run = Callable[[np.ndarray, int, int, int], np.ndarray]


def gpukm(**settings: float) -> Run:
    def run(x: np.ndarray, k: int, seed: int, threads: int) -> np.ndarray:
        from gpukm import minibatch_kmeans

        return minibatch_kmeans(x, k, seed=seed, threads=threads, compute_labels=False, **settings).centroids

    return run


def sklearn(**settings: int) -> Run:
    def run(x: np.ndarray, k: int, seed: int, threads: int) -> np.ndarray:
        from sklearn.cluster import MiniBatchKMeans

        return MiniBatchKMeans(k, random_state=seed, compute_labels=False, **settings).fit(x).cluster_centers_

    return run


def superkmeans(**settings: float) -> Run:
    def run(x: np.ndarray, k: int, seed: int, threads: int) -> np.ndarray:
        from superkmeans import SuperKMeans

        return SuperKMeans(k, x.shape[1], hierarchical=True, seed=seed, n_threads=threads, **settings).train(x)

    return run


CONTENDERS: dict[str, dict[str, Run]] = {
    "gpukm": {"max_excess=0.01": gpukm(max_excess=0.01), "default": gpukm()},
    "scikit-learn": {
        "default": sklearn(),
        "batch_size=8192": sklearn(batch_size=8192),
        "batch_size=8192, n_init=5": sklearn(batch_size=8192, n_init=5),
        "batch_size=32768, n_init=5": sklearn(batch_size=32768, n_init=5),
    },
    "superkmeans": {
        "default": superkmeans(),
        "iters_refinement=5": superkmeans(iters_refinement=5),
        "iters_refinement=25": superkmeans(iters_refinement=25, early_termination=False),
    },
}


def measure(x: np.ndarray, k: int, repeats: int, threads: int, least: float) -> dict:
    """Run every setting of every contender in turn."""
    found: dict = {name: {s: {"seconds": [], "ratio": []} for s in runs} for name, runs in CONTENDERS.items()}
    for repeat in range(repeats + 1):
        for name, runs in CONTENDERS.items():
            for setting, run in runs.items():
                begin = time.perf_counter()
                centroids = run(x, k, repeat, threads)
                seconds = time.perf_counter() - begin
                if repeat:
                    found[name][setting]["seconds"].append(seconds)
                    found[name][setting]["ratio"].append(inertia(x, centroids) / least)
    return found


def compare(shape: str, repeats: int, threads: int) -> dict:
    """Measure one shape and print its part of the table."""
    from gpukm import kmeans

    n, d, k = map(int, shape.split("x"))
    x = mixture(n, d, k)
    begin = time.perf_counter()
    lloyd = kmeans(x, k, seed=0, tol=0, threads=threads)
    seconds = time.perf_counter() - begin
    least = inertia(x, lloyd.centroids)
    if abs(lloyd.inertia / least - 1) > 1e-9:
        raise SystemExit(f"gpukm reports an inertia of {lloyd.inertia}, the check finds {least}")
    found = measure(x, k, repeats, threads, least)
    best: dict[str, float | None] = {}
    print(f"{n:,} x {d} K={k}: Lloyd {least:.6g} after {lloyd.n_iter} iterations in {seconds:.1f} s", flush=True)
    for name, settings in found.items():
        times = []
        for setting, result in settings.items():
            took, ratio = statistics.median(result["seconds"]), statistics.median(result["ratio"])
            reached = ratio <= WITHIN
            times += [took] if reached else []
            spread = f"{min(result['ratio']):.4f} .. {max(result['ratio']):.4f}"
            mark = "within 1%" if reached else "not within 1%"
            print(f"  {name:13} {setting:28} {took:8.3f} s  inertia {ratio:.4f} ({spread})  {mark}", flush=True)
        best[name] = min(times, default=None)
    others = [seconds for name, seconds in best.items() if name != "gpukm" and seconds is not None]
    mine = best["gpukm"]
    ratio = min(others) / mine if others and mine is not None else None
    print(f"  faster than the better: {'nobody else is within 1%' if ratio is None else f'{ratio:.1f}'}", flush=True)
    reference = {"inertia": least, "iterations": lloyd.n_iter, "seconds": seconds}
    shape_of = {"n": n, "d": d, "k": k, "lloyd": reference}
    return {**shape_of, "runs": found, "seconds_to_within": best, "ratio": ratio}


def main() -> None:
    """Run, check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--shapes", default="1000000x16x64,1000000x64x256", help="rows x features x clusters, ...")
    parser.add_argument("--folder", type=Path, help="where the JSON goes (default: results)")
    arguments = parser.parse_args()
    import sklearn.cluster  # noqa: F401  (what is limited has to be loaded)
    import superkmeans as _  # noqa: F401
    from threadpoolctl import threadpool_limits

    with threadpool_limits(arguments.threads):
        rows = [compare(shape, arguments.repeats, arguments.threads) for shape in arguments.shapes.split(",")]
    settings = {"threads": arguments.threads, "repeats": arguments.repeats, "within": WITHIN}
    path = record("quality", {**settings, "rows": rows}, ["scikit-learn", "superkmeans", "numpy"], arguments.folder)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
