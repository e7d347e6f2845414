"""Whether backends give the bits of the reference on the machine at hand, on data that come close to every tie."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gpukm.batched import kmeans_batched
from gpukm.functional import kmeans

#: Rows and clusters from which on a GPU labels in two steps, and no more than takes seconds.
_ROWS, _CLUSTERS = 40_000, 800


@dataclass(frozen=True)
class Checked:
    """What came of a backend.

    Attributes
    ----------
    backend : str
    problem : str or None
        The first one whose bits are others, or that failed; None if all are the same.
    reason : str
    seconds : float
        That all took, compilation included.
    """

    backend: str
    problem: str | None
    reason: str
    seconds: float


def check(backends: Sequence[str], rows: int = _ROWS, clusters: int = _CLUSTERS) -> Iterator[Checked]:
    """Solve the same problems on each backend and on the NumPy one, and compare all bits of the results.

    Parameters
    ----------
    backends : sequence of str
        That can be used here; not the NumPy one itself.
    rows, clusters : int
        Of the largest problem.

    Yields
    ------
    Checked
        For each backend, as soon as it is known.
    """
    problems = _problems(rows, clusters)
    expected = {name: solve("numpy") for name, solve in problems.items()} if backends else {}
    for backend in backends:
        begun, failed, reason = time.perf_counter(), None, ""
        for name, solve in problems.items():
            try:
                if solve(backend) != expected[name]:
                    failed, reason = name, "centroids, labels or inertia have other bits than those of numpy"
            except Exception as error:  # whatever a library of a GPU may raise is what the check is to find
                failed, reason = name, f"{type(error).__name__}: {' '.join(str(error).split())}"
            if failed:
                break
        yield Checked(backend, failed, reason, time.perf_counter() - begun)


def _problems(rows: int, clusters: int) -> dict[str, Callable[[str], list[str]]]:
    """Digests of what a backend makes of each problem, by the problem's name."""
    rng = np.random.default_rng(11)
    centers = rng.normal(size=(clusters, 24)).astype(np.float32)
    a, b = rng.integers(0, clusters, (2, rows))
    # Some rows lie all but midway between two of the centroids that the first iteration has.
    spread = np.where(rng.random((rows, 1)) < 0.1, 0, 0.3 * rng.normal(size=(rows, 24)))
    x = ((centers[a] + centers[b]) / 2 + spread).astype(np.float32)
    few = rng.lognormal(size=(rows // 10, 5))
    weight = rng.random(rows // 10)
    small = rng.normal(size=(20, 60, 6)).astype(np.float32)

    def many_clusters(backend: str) -> list[str]:
        return [kmeans(x, clusters, init=centers, max_iter=4, backend=backend, watched=True).digest()]

    def few_clusters(backend: str) -> list[str]:
        fit = kmeans(few, 7, sample_weight=weight, seed=3, n_init=1, max_iter=20, backend=backend, watched=True)
        return [fit.digest()]

    def small_problems(backend: str) -> list[str]:
        made = kmeans_batched(small, 4, init="k-means++", seed=5, backend=backend)
        return [hashlib.sha256(v.tobytes()).hexdigest() for v in (made.centroids, made.labels, made.inertia)]

    return {
        "many clusters, float32": many_clusters,
        "few clusters, float64, weighted": few_clusters,
        "many small problems": small_problems,
    }
