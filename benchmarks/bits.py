"""One hash of centroids, labels and inertia over backends, threads, and data in memory or streamed.

Usage: python benchmarks/bits.py [--out DIR]

Every fit seeds itself from the same seed and is made in all ways of {numpy, cpu} x {1, 2 threads} x {in memory,
streamed in small, streamed in large batches}. The table shows the first digits of each fit's SHA-256.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from data import flights, mixture
from record import record
from threadpoolctl import threadpool_limits

from gpukm import kmeans
from gpukm.sources.array import ArraySource
from gpukm.sources.base import Batch, Source

BACKENDS = ("numpy", "cpu")
THREADS = (1, 2)
SMALL, LARGE = 1_000, 9_973
ITERATIONS = 10


@dataclass(frozen=True)
class Case:
    """Data and how to cluster it."""

    name: str
    x: np.ndarray
    n_clusters: int
    init: str
    weight: np.ndarray | None = None
    metric: str = "euclidean"


class Streamed(Source):
    """Rows handed out batch by batch, as a file's are."""

    def __init__(self, x: np.ndarray, weight: np.ndarray | None) -> None:
        self._inner = ArraySource(x, weight)
        self.dtype, self.n_features, self.names, self.n_rows = x.dtype, x.shape[1], None, len(x)

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Consecutive rows."""
        yield from self._inner.batches(rows, start, stop)


def cases() -> list[Case]:
    """Real flights, small clouds with weights, and directions far from the origin."""
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 4, 20_011) * rng.random(20_011)
    return [
        Case("flights", flights(), 8, "auto"),
        Case("weighted clouds", mixture(20_011, 33, 40), 40, "k-means++", weight),
        Case("offset, cosine", mixture(8_191, 130, 20, seed=1) + np.float32(1000), 24, "random", metric="cosine"),
    ]


def main() -> None:
    """Run, check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the results")
    arguments = parser.parse_args()
    rows = []
    for case in cases():
        n, d = case.x.shape
        print(f"{case.name}: {n:,} x {d} {case.x.dtype}, K={case.n_clusters}, {case.init}, {case.metric}", flush=True)
        found = {}
        for backend, threads, batch in itertools.product(BACKENDS, THREADS, (None, SMALL, LARGE)):
            source = Streamed(case.x, case.weight) if batch else ArraySource(case.x, case.weight)
            with threadpool_limits(threads):
                fit = kmeans(
                    source,
                    case.n_clusters,
                    init=case.init,
                    max_iter=ITERATIONS,
                    tol=0,
                    metric=case.metric,
                    backend=backend,
                    threads=threads,
                    batch_size=batch,
                )
            way = f"streamed, {batch:,} rows" if batch else "in memory"
            found[f"{backend}, {threads} threads, {way}"] = fit.digest()
            print(
                f"  {backend:<6} {threads} threads  {way:<21} {fit.digest()[:24]}  {fit.n_iter} iterations", flush=True
            )
        rows.append({"case": case.name, "n": n, "d": d, "k": case.n_clusters, "init": case.init, "digests": found})
        if len(set(found.values())) != 1:
            raise SystemExit(f"{case.name}: {len(set(found.values()))} different hashes")
    print("one hash for each of them")
    record("bits", {"cases": rows}, ("numpy",), arguments.out)


if __name__ == "__main__":
    main()
