"""Per-iteration time of gpukm, scikit-learn and faiss on the CPU: same data, same start, same run, interleaved.

Usage: python benchmarks/cpu.py [--repeats 5] [--threads 2] [--out benchmarks/results/NAME.json]

Every contender makes the same number of iterations from the same rows, with sampling, early stops and restarts switched
off. Its inertia on all rows, computed here in float64, is checked against gpukm's before any time is printed. A time is
that of a whole fit, set-up and final labels included, divided by its iterations; the table shows medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SHAPES = [(1_000_000, 16, 64), (200_000, 128, 1024), (2_000_000, 2, 100), (300_000, 32, 4096), (100_000, 768, 1000)]
ITERATIONS = 10


def mixture(n: int, d: int, k: int, seed: int = 0) -> np.ndarray:
    """Gaussian mixture of k components, float32 (n, d)."""
    rng = np.random.default_rng(seed)
    centers = 1.5 * rng.standard_normal((k, d), dtype=np.float32)
    return centers[rng.integers(0, k, n)] + rng.standard_normal((n, d), dtype=np.float32)


def run_gpukm(x: np.ndarray, start: np.ndarray, threads: int) -> tuple[np.ndarray, int, dict]:
    """Fit with certified exact labels."""
    from gpukm import kmeans

    fit = kmeans(x, len(start), init=start, max_iter=ITERATIONS, tol=0, threads=threads)
    return fit.centroids, fit.n_iter, {"recheck_rate": fit.n_rechecked / fit.n_scored}


def run_sklearn(x: np.ndarray, start: np.ndarray, threads: int) -> tuple[np.ndarray, int, dict]:
    """scikit-learn's Lloyd."""
    from sklearn.cluster import KMeans

    fit = KMeans(len(start), init=start, n_init=1, max_iter=ITERATIONS, tol=0, copy_x=True).fit(x)
    return fit.cluster_centers_, fit.n_iter_, {}


def run_faiss(x: np.ndarray, start: np.ndarray, threads: int) -> tuple[np.ndarray, int, dict]:
    """faiss.Kmeans on all rows."""
    import faiss

    faiss.omp_set_num_threads(threads)
    fit = faiss.Kmeans(
        x.shape[1],
        len(start),
        niter=ITERATIONS,
        max_points_per_centroid=len(x),
        min_points_per_centroid=1,
        verbose=False,
    )
    fit.train(x, init_centroids=start)
    fit.index.search(x, 1)
    # It stops by itself once its objective repeats.
    return fit.centroids, len(fit.iteration_stats), {}


CONTENDERS: dict[str, Callable] = {"gpukm": run_gpukm, "scikit-learn": run_sklearn, "faiss": run_faiss}


def inertia(x: np.ndarray, centers: np.ndarray) -> float:
    """Inertia of all rows in float64, by an implementation that is none of the contenders'."""
    c = centers.astype(np.float64)
    half = 0.5 * (c * c).sum(axis=1)
    total = 0.0
    step = max(1, (1 << 24) // len(c))
    for i in range(0, len(x), step):
        part = x[i : i + step].astype(np.float64)
        nearest = (half - part @ c.T).argmin(axis=1)
        total += float(((part - c[nearest]) ** 2).sum())
    return total


def machine() -> dict:
    """What the figures were measured on."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), cpu)
    here = Path(__file__).resolve().parent
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=here)
    dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, cwd=here)
    from gpukm_kernels import native_status

    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "kernels": native_status()[1],
        "commit": commit.stdout.strip() + ("+changes" if dirty.stdout.strip() else ""),
    }


def versions() -> dict:
    """Versions of the contenders."""
    from importlib.metadata import version

    return {name: version(name) for name in ("gpukm", "scikit-learn", "faiss-cpu", "numpy")}


def main() -> None:
    """Run, check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for n, d, k in SHAPES:
        x = mixture(n, d, k)
        start = x[np.random.default_rng(1).permutation(n)[:k]].copy()
        seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        row: dict = {"n": n, "d": d, "k": k}
        for repeat in range(arguments.repeats + 1):
            for name, run in CONTENDERS.items():
                begin = time.perf_counter()
                centers, iterations, more = run(x, start, arguments.threads)
                took = (time.perf_counter() - begin) / iterations
                if repeat == 0:
                    # The first round warms up and is checked.
                    row.setdefault("inertia", {})[name] = inertia(x, centers)
                    row.setdefault("iterations", {})[name] = iterations
                    row.update(more)
                else:
                    seconds[name].append(took)
        for name, value in row["inertia"].items():
            # The others round differently, so some rows may take another path; gpukm must not be worse.
            assert row["inertia"]["gpukm"] <= value * (1 + 1e-3), (name, row["inertia"])
        row["seconds"] = {name: statistics.median(times) for name, times in seconds.items()}
        row["all_seconds"] = seconds
        row["ratio"] = min(v for name, v in row["seconds"].items() if name != "gpukm") / row["seconds"]["gpukm"]
        rows.append(row)
        print(
            f"{n:>9,} x {d:<4} K={k:<5}"
            + "".join(f" {name} {row['seconds'][name]:.4f} s" for name in CONTENDERS)
            + f"  ratio {row['ratio']:.2f}  rechecked {row['recheck_rate']:.4%}",
            flush=True,
        )
    ratios = [row["ratio"] for row in rows]
    mean = float(np.exp(np.mean(np.log(ratios))))
    print(f"geometric mean of the ratio to the faster of the others: {mean:.2f}, least {min(ratios):.2f}")
    if arguments.out:
        result = {
            "benchmark": "cpu",
            "machine": machine(),
            "versions": versions(),
            "threads": arguments.threads,
            "iterations": ITERATIONS,
            "rows": rows,
            "geometric_mean_ratio": mean,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
