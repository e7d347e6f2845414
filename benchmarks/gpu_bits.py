"""The case of the hashes: every backend's fits have the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gpu_cases import HASHES, Bench, Case


def run_bits(bench: Bench, case: Case) -> tuple[dict[str, Any], dict[str, float]]:
    """One hash of centroids, labels and inertia, on the shapes of tests/parity/test_bits.py."""
    from gpukm_kernels import native_status

    from gpukm.functional import kmeans
    from gpukm.sources.array import ArraySource

    reference = "cpu" if native_status()[0] else "numpy"
    rows, equal = [], 0
    for n, d, k, clusters, dtype, weighted, init, metric in parity_shapes():
        x, weight = parity_data(n, d, k, dtype, weighted)
        settings = {"init": x[:clusters].copy() if init == "array" else init, "metric": metric, "seed": 3}
        settings |= {"n_init": 2, "max_iter": 8, "watched": True}
        digests = {}
        for backend in (reference, *(peer.library for peer in bench.gpukm.values())):
            digests[backend] = kmeans(ArraySource(x, weight), clusters, backend=backend, **settings).digest()
        title = f"{n} x {d} {dtype}, K={clusters}, {init}, {metric}{', weighted' if weighted else ''}"
        equal += len(set(digests.values())) == 1
        rows.append({"case": title, "digests": digests})
        if len(set(digests.values())) != 1:
            bench.wrong.append(f"{case.name}: {title}: {digests}")
    return {"fits": rows, "reference": reference, "equal": equal, "left_out": {}}, {HASHES: equal / len(rows)}


def parity_shapes() -> Iterator[tuple[int, int, int, int, str, bool, str, str]]:
    """Rows, features, Gaussians, clusters, type, weights, start and metric of every fit."""
    for dtype in ("float32", "float64"):
        for metric in ("euclidean", "cosine"):
            for weighted in (False, True):
                for init in ("random", "k-means++", "pooled", "array"):
                    yield 1200, 20, 15, 15, dtype, weighted, init, metric
        yield 4000, 12, 40, 160, dtype, True, "random", "euclidean"


def parity_data(n: int, d: int, k: int, dtype: str, weighted: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows and weights of one of them."""
    rng = np.random.default_rng(0)
    x = (3 * rng.normal(size=(k, d))[rng.integers(0, k, n)] + rng.normal(size=(n, d))).astype(dtype)
    return x, rng.uniform(0, 2, n) if weighted else None
