"""A fit of more rows than 32 bits count: 2**31 + 5 generated rows of one feature, three clusters, two iterations.

Usage: python benchmarks/limits.py [--rows 2147483653] [--threads 2] [--out DIR]

Row i is entry i modulo 65,537 of a table of drawn values, so no row is ever stored, and the whole fit can be computed
once more from how often each entry occurs, in integers and fractions. Counts, centroids and inertia must be equal to it
in every bit before anything is printed.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from record import record

from gpukm import kmeans
from gpukm.sources.base import Batch, Source

ROWS = 2**31 + 5
CLUSTERS = 3
ITERATIONS = 2
PERIOD = 65_537


def table() -> np.ndarray:
    """Multiples of 2**-20 in three overlapping clouds, float32 (PERIOD, 1); their sums are exact on the fit's grid."""
    draws = np.random.Philox(key=[2, 0]).random_raw(PERIOD)
    spread = (draws % np.uint64(1 << 20)).astype(np.float64) * 2.0**-20
    cloud = (draws >> np.uint64(40)) % np.uint64(CLUSTERS)
    return (0.75 * cloud + spread).astype(np.float32)[:, None]


class Cycle(Source):
    """Rows of a table over and over."""

    def __init__(self, values: np.ndarray, n_rows: int) -> None:
        self.dtype, self.n_features, self.names, self.n_rows = values.dtype, values.shape[1], None, n_rows
        self._values = values

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Yield views of the table laid end to end."""
        period = len(self._values)
        laid = np.concatenate([self._values] * (1 + -(-rows // period)))
        stop = self.n_rows if stop is None else stop
        for first in range(start, stop, rows):
            n = min(rows, stop - first)
            yield Batch(laid[first % period : first % period + n], first, n)


def expected(values: np.ndarray, n_rows: int, start: np.ndarray) -> tuple[list[int], np.ndarray, float]:
    """Counts, centroids and inertia of the fit, from how often each value of the table occurs."""
    x = values[:, 0].astype(np.float64)
    times = n_rows // len(x) + (np.arange(len(x)) < n_rows % len(x)).astype(np.int64)
    centroids = start[:, 0].copy()
    for last in [False] * ITERATIONS + [True]:
        d = (x[:, None] - centroids.astype(np.float64)) ** 2
        labels = d.argmin(axis=1)
        counts = [int(times[labels == j].sum()) for j in range(len(centroids))]
        if last:
            nearest = zip(d.min(axis=1).tolist(), times.tolist(), strict=True)
            return counts, centroids[:, None], float(sum(Fraction(v) * n for v, n in nearest))
        for j, count in enumerate(counts):
            mine = labels == j
            total = sum(Fraction(v) * n for v, n in zip(x[mine].tolist(), times[mine].tolist(), strict=True))
            centroids[j] = np.float32(float(total) / float(count))
    raise AssertionError("not reached")


def main() -> None:
    """Run, check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    values = table()
    start = values[:CLUSTERS].copy()
    counts, centroids, inertia = expected(values, arguments.rows, start)
    begin = time.perf_counter()
    fit = kmeans(
        Cycle(values, arguments.rows),
        CLUSTERS,
        init=start,
        max_iter=ITERATIONS,
        tol=0,
        threads=arguments.threads,
        keep_labels=False,
    )
    seconds = time.perf_counter() - begin
    checks = {
        "iterations": (fit.n_iter, ITERATIONS),
        "rows": (fit.n_samples, arguments.rows),
        "counts": (fit.counts.tolist(), counts),
        "counts add up": (int(fit.counts.sum()), arguments.rows),
        "centroids": (fit.centroids.tobytes(), centroids.tobytes()),
        "inertia": (fit.inertia, inertia),
    }
    wrong = {name: pair for name, pair in checks.items() if pair[0] != pair[1]}
    if wrong:
        raise SystemExit(f"not as computed from the table (found, expected): {wrong}")
    # A look at the data, the iterations, and the final labels.
    passes = ITERATIONS + 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{arguments.rows:,} x 1 K={CLUSTERS}: {seconds:.0f} s, {passes * arguments.rows / seconds / 1e6:.1f} M rows/s "
        f"over {passes} passes, peak memory {peak / 2**20:.0f} MiB; counts, centroids and inertia exact"
    )
    result = {
        "threads": arguments.threads,
        "n": arguments.rows,
        "d": 1,
        "k": CLUSTERS,
        "iterations": ITERATIONS,
        "passes": passes,
        "seconds": seconds,
        "peak_rss_bytes": peak,
        "counts": counts,
        "centroids": centroids[:, 0].tolist(),
        "inertia": inertia,
        "digest": fit.digest(),
        "exact": list(checks),
    }
    record("limits", result, ("numpy",), arguments.out)


if __name__ == "__main__":
    main()
