"""Data made to spoil screening: exact labels, and time against a float64 brute force.

Usage: python benchmarks/adversarial.py [--repeats 5] [--threads 2] [--out DIR]

The cases are one outlier of 1e9 that owns a centroid, lognormal values, binary values, few distinct rows, and values
around 1e6; all float32. Each is labelled against rows as centroids and against the centroids three iterations later.
Labels must be the lowest argmin of D on every row. Contenders take turns in the same run:

gpukm    CpuBackend.prepare and .assign, labels from nothing
tracked  the backend's tracker over four successive sets of centroids, per set, its own making included
pairs    D of all pairs by the native kernel, and argmin
gemm     |c|^2/2 - x.c in float64 by NumPy's matrix product, and argmin (not exact)

The ratio is gpukm to the faster of pairs and gemm, by medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np
from record import record
from threadpoolctl import threadpool_limits

from gpukm import kmeans
from gpukm.backends.base import Frame
from gpukm.backends.cpu import CpuBackend

SHAPES = ((100_000, 32, 256), (20_000, 128, 512))
SETS = 4
WORST_RATIO = 1.3
_BLOCK_BYTES = 1 << 22


def data(name: str, n: int, d: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and the rows among them that serve as first centroids."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d), dtype=np.float32)
    chosen = rng.permutation(n)[:k]
    if name == "outlier 1e9":
        x[chosen[0]] = 1e9
    elif name == "lognormal":
        x = np.exp(2 * x)
    elif name == "binary":
        x = (x > 0).astype(np.float32)
    elif name == "duplicates":
        x = x[rng.integers(0, k // 2, n)]
    elif name == "offset 1e6":
        x += np.float32(1e6)
    return x, x[chosen].copy()


CASES = ("outlier 1e9", "lognormal", "binary", "duplicates", "offset 1e6")


def frame_of(x: np.ndarray) -> Frame:
    """Origin and reach as a fit takes them: the median of a sample, and the largest difference from it."""
    center = np.median(x[:: max(1, len(x) // 1024)][:1024].astype(np.float64), axis=0)
    center = center.astype(x.dtype).astype(np.float64)
    return Frame(center, float(np.maximum(x.max(axis=0) - center, center - x.min(axis=0)).max()))


def by_pairs(backend: CpuBackend, x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Labels by D of all pairs, in blocks that stay in cache."""
    step = max(1, _BLOCK_BYTES // (8 * len(c)))
    parts = [backend.cross_distances(x[i : i + step], c).argmin(axis=1) for i in range(0, len(x), step)]
    return np.concatenate(parts)


def by_gemm(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Labels by a float64 matrix product, in blocks that stay in cache."""
    c = c.astype(np.float64)
    half = 0.5 * (c * c).sum(axis=1)
    step = max(1, _BLOCK_BYTES // (8 * len(c)))
    parts = [(half - x[i : i + step].astype(np.float64) @ c.T).argmin(axis=1) for i in range(0, len(x), step)]
    return np.concatenate(parts)


def measure(x: np.ndarray, sets: list[np.ndarray], threads: int, repeats: int) -> dict:
    """Check the labels against the first and the last set of centroids, and time the first."""
    backend, frame, c = CpuBackend(threads), frame_of(x), sets[0]
    labels = np.empty(len(x), np.int32)
    expected = {i: by_pairs(backend, x, sets[i]) for i in (0, -1)}

    def gpukm() -> None:
        backend.assign(x, backend.prepare(c, frame), labels)

    def tracked() -> None:
        tracker = backend.tracker(x, sets[0])
        assert tracker is not None
        for each in sets:
            backend.track(tracker, x, each, frame, labels)

    rechecked = {}
    for i, wanted in expected.items():
        rechecked[i] = backend.assign(x, backend.prepare(sets[i], frame), labels)
        if not np.array_equal(labels, wanted):
            raise SystemExit(f"{int((labels != wanted).sum())} labels are not the argmin of D")
    tracked()
    if not np.array_equal(labels, expected[-1]):
        raise SystemExit(f"{int((labels != expected[-1]).sum())} tracked labels are not the argmin of D")
    # The reference of the reference: some rows by NumPy alone.
    some = np.random.default_rng(1).permutation(len(x))[:64]
    lanes = np.zeros((8, len(some), len(c)))
    for j in range(x.shape[1]):
        difference = x[some, None, j].astype(np.float64) - c[None, :, j].astype(np.float64)
        lanes[j % 8] += difference * difference
    lanes = lanes[:4] + lanes[4:]
    lanes = lanes[:2] + lanes[2:]
    if not np.array_equal((lanes[0] + lanes[1]).argmin(axis=1), expected[0][some]):
        raise SystemExit("the native D differs from NumPy's")
    gemm_wrong = int((by_gemm(x, c) != expected[0]).sum())
    runs = {
        "gpukm": (gpukm, 1),
        "tracked": (tracked, len(sets)),
        "pairs": (lambda: by_pairs(backend, x, c), 1),
        "gemm": (lambda: by_gemm(x, c), 1),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (run, share) in runs.items():
            began = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - began) / share)
    middle = {name: statistics.median(taken) for name, taken in times.items()}
    brute = min(middle["pairs"], middle["gemm"])
    return {
        "seconds": middle,
        "all_seconds": times,
        "ratio": middle["gpukm"] / brute,
        "tracked_ratio": middle["tracked"] / brute,
        "recheck_rate": rechecked[0] / len(x),
        "rows_gemm_labels_wrongly": gemm_wrong,
    }


def main() -> None:
    """Run, check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="folder of the results")
    arguments = parser.parse_args()
    rows = []
    with threadpool_limits(arguments.threads):
        for n, d, k in SHAPES:
            print(f"{n:,} x {d}, K={k}")
            for name in CASES:
                x, start = data(name, n, d, k)
                sets = [start]
                for _ in range(SETS - 1 + 3):
                    sets.append(kmeans(x, k, init=sets[-1], max_iter=1, tol=0, threads=arguments.threads).centroids)
                for when, first in (("rows", 0), ("later", 3)):
                    found = measure(x, sets[first : first + SETS], arguments.threads, arguments.repeats)
                    rows.append({"case": name, "n": n, "d": d, "k": k, "centroids": when, **found})
                    times = "  ".join(f"{key} {1e3 * value:6.1f} ms" for key, value in found["seconds"].items())
                    print(
                        f"  {name:<12} {when:<6} {times}  ratio {found['ratio']:.2f}  tracked "
                        f"{found['tracked_ratio']:.2f}  rechecked {found['recheck_rate']:.2%}",
                        flush=True,
                    )
    worst = max(row["ratio"] for row in rows)
    print(f"all labels exact; largest ratio {worst:.2f}, tracked {max(row['tracked_ratio'] for row in rows):.2f}")
    found = {"threads": arguments.threads, "cases": rows, "largest_ratio": worst}
    record("adversarial", found, ("numpy",), arguments.out)
    if worst > WORST_RATIO:
        raise SystemExit(f"slower than {WORST_RATIO} times a brute force")


if __name__ == "__main__":
    main()
