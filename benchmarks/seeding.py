"""Cost and worth of a start: gpukm's beside scikit-learn's greedy k-means++.

Usage: python benchmarks/seeding.py [--seeds 5] [--data rows.npy] [--sizes 100 1000 10000] [--best]

Cost is the time to seed over the time of one assignment pass: all rows against K centroids, by gpukm's own kernel
without any bounds, in turn with it. Worth is the inertia on all rows after 25 iterations of gpukm's Lloyd from a start,
over that from scikit-learn's starts: means over the seeds of each. Rows are a mixture of min(K, 1,000) Gaussians, and
those of ``--data``, a .npy file. ``--best`` compares quality="best" with ten restarts instead.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from data import mixture
from record import record
from verify import inertia

from gpukm import kmeans

ITERATIONS = 25
#: Seeds of scikit-learn's start by K: it takes minutes at the largest.
THEIR_SEEDS = {100: 20, 1000: 5, 10_000: 1}
PASSES = 5


def pass_seconds(x: np.ndarray, k: int) -> float:
    """One assignment pass over all rows."""
    from gpukm.backends import select
    from gpukm.backends.base import Frame

    backend = select("cpu", "auto", None).backend
    rng = np.random.default_rng(0)
    centroids = x[rng.permutation(len(x))[:k]].copy()
    center = np.median(x[:1024].astype(np.float64), axis=0).astype(x.dtype).astype(np.float64)
    frame = Frame(center, float(np.abs(x - center.astype(x.dtype)).max()))
    labels = np.empty(len(x), np.int32)
    began = time.perf_counter()
    backend.assign(x, backend.prepare(centroids, frame), labels)
    return time.perf_counter() - began


def start(x: np.ndarray, k: int, init: str, seed: int) -> tuple[np.ndarray, float]:
    """A start and the seconds it took."""
    from gpukm.backends import select
    from gpukm.functional import start_from
    from gpukm.problem import look_at

    rows = as_rows(x)
    problem = look_at(rows, select("cpu", "auto", None), k, 1, 0.0, "euclidean", None, None, 1)
    began = time.perf_counter()
    found = start_from(problem, init, k, seed, rows)
    return found, time.perf_counter() - began


def as_rows(x: np.ndarray):
    """The rows as a source."""
    from gpukm.sources.array import ArraySource

    return ArraySource(x)


def their_start(x: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, float]:
    """scikit-learn's greedy k-means++ and the seconds it took."""
    from sklearn.cluster import kmeans_plusplus

    began = time.perf_counter()
    found, _ = kmeans_plusplus(x, k, random_state=seed)
    return found, time.perf_counter() - began


def worth(x: np.ndarray, centroids: np.ndarray) -> float:
    """Inertia after Lloyd, computed by neither contender."""
    fit = kmeans(x, len(centroids), init=centroids, max_iter=ITERATIONS, tol=0)
    found = inertia(x, fit.centroids)
    # Nothing is reported of a fit that does not say what it found.
    assert abs(found - fit.inertia) <= 1e-6 * found, (found, fit.inertia)
    return found


def compare(name: str, x: np.ndarray, k: int, seeds: int, theirs: int) -> dict:
    """One row of the table."""
    inits = {
        "pooled": lambda seed: start(x, k, "pooled", seed),
        "random": lambda seed: start(x, k, "random", seed),
    }
    inits["scikit-learn"] = lambda seed: their_start(x, k, seed)
    made: dict[str, list[tuple[float, float, float]]] = {init: [] for init in inits}
    for seed in range(max(seeds, theirs)):
        for init, make in inits.items():
            if seed < (theirs if init == "scikit-learn" else seeds):
                one_pass = statistics.median(pass_seconds(x, k) for _ in range(PASSES))
                centroids, seconds = make(seed)
                made[init].append((seconds, one_pass, worth(x, centroids)))
    mean = statistics.mean(w for _, _, w in made["scikit-learn"])
    row: dict = {"data": name, "n": len(x), "d": x.shape[1], "k": k}
    for init, runs in made.items():
        row[init] = {
            "seeds": len(runs),
            "seconds": statistics.median(s for s, _, _ in runs),
            "passes": statistics.median(s / p for s, p, _ in runs),
            "inertia_ratio": statistics.mean(w for _, _, w in runs) / mean,
            "all": runs,
        }
    print(
        f"{name:>10} {len(x):>9,} x {x.shape[1]:<4} K={k:<6}"
        + "".join(
            f" {init}: {row[init]['passes']:.2f} passes, {row[init]['inertia_ratio'] - 1:+.2%} ({row[init]['seeds']})"
            for init in inits
        ),
        flush=True,
    )
    return row


def best(name: str, x: np.ndarray, k: int, seeds: int) -> dict:
    """quality="best" beside ten restarts: seconds, and inertia over that of one start."""
    ways: dict[str, Callable[[int], object]] = {
        "one start": lambda seed: kmeans(x, k, init="auto", seed=seed),
        "ten starts": lambda seed: kmeans(x, k, init="auto", n_init=10, seed=seed),
        "best": lambda seed: kmeans(x, k, init="auto", seed=seed, quality="best"),
    }
    made: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for seed in range(seeds):
        for way, fit in ways.items():
            began = time.perf_counter()
            result = fit(seed)
            made[way].append((time.perf_counter() - began, inertia(x, result.centroids)))
    one = statistics.mean(w for _, w in made["one start"])
    row: dict = {"data": name, "n": len(x), "d": x.shape[1], "k": k, "seeds": seeds}
    for way, runs in made.items():
        row[way] = {
            "seconds": statistics.median(s for s, _ in runs),
            "inertia_ratio": statistics.mean(w for _, w in runs) / one,
        }
    print(
        f"{name:>10} {len(x):>9,} x {x.shape[1]:<4} K={k:<6}"
        + "".join(f" {way}: {row[way]['seconds']:.2f} s, {row[way]['inertia_ratio'] - 1:+.2%}" for way in ways),
        flush=True,
    )
    return row


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--their-seeds", type=int, help="seeds of scikit-learn's start (default: 20, 5 and 1 by K)")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the mixtures")
    parser.add_argument("--features", type=int, default=16, help="features of the mixtures")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000], metavar="K")
    parser.add_argument("--data", type=Path, help="a .npy file with more rows")
    parser.add_argument("--best", action="store_true", help='compare quality="best" with ten restarts')
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    arguments = parser.parse_args()
    rows = []
    for k in arguments.sizes:
        data = {"mixture": mixture(arguments.rows, arguments.features, min(k, 1000))}
        if arguments.data is not None:
            data["file"] = np.load(arguments.data).astype(np.float32)
        for name, x in data.items():
            if len(x) < 10 * k:
                continue
            if arguments.best:
                rows.append(best(name, x, k, arguments.seeds))
            else:
                theirs = arguments.their_seeds or THEIR_SEEDS.get(k, 1)
                rows.append(compare(name, x, k, arguments.seeds, theirs))
    name = "seeding-best" if arguments.best else "seeding"
    print(record(name, {"iterations": ITERATIONS, "rows": rows}, ("scikit-learn", "numpy"), arguments.out))


if __name__ == "__main__":
    main()
