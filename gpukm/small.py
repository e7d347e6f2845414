"""A small problem in memory, solved in one call of a backend rather than iteration by iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpukm.backends.base import Backend
from gpukm.backends.batch import Fits, Problems
from gpukm.core.result import FitResult, StopReason, history_of
from gpukm.core.seeding import trials
from gpukm.sources.base import Source
from gpukm.sources.csr import CsrSource

STOPS = tuple(StopReason)
#: What a backend starts from in such a call, besides given centroids.
METHODS = ("k-means++", "random")


@dataclass(frozen=True)
class Rules:
    """How a fit starts and when it stops; ``init`` is a method's name, the centroids to start from, or a callable."""

    n_clusters: int
    init: Any
    n_init: int
    max_iter: int
    tol: float
    seed: int
    spherical: bool


def solve_small(rows: Source, backend: Backend, rules: Rules) -> tuple[FitResult | None, np.ndarray]:
    """Solve it if the backend takes it, with the bits of the ordinary engine.

    Returns
    -------
    (FitResult or None, ndarray of int64)
        The fit, and the features of one value. None where the ordinary engine has to do the work, or to say what is
        wrong with the data.
    """
    nothing = None, np.empty(0, np.int64)
    x = None if isinstance(rows, CsrSource) else rows.array()
    k, given = rules.n_clusters, isinstance(rules.init, np.ndarray)
    if x is None or len(x) < k or not (given or rules.init in METHODS):
        return nothing
    if not backend.takes(np.array([len(x)]), x.shape[1], k)[0]:
        return nothing
    problems = Problems(
        x=x,
        dtype=x.dtype,
        weight=rows.weights(),
        offsets=np.array([0, len(x)]),
        seeds=np.array([rules.seed], np.uint64),
        start=np.ascontiguousarray(np.asarray(rules.init)[None], dtype=x.dtype) if given else None,
        n_clusters=k,
        trials=trials(k) if given or rules.init == "k-means++" else 0,
        n_init=rules.n_init,
        max_iter=rules.max_iter,
        tol=rules.tol,
        spherical=rules.spherical,
    )
    fits = Fits.empty(problems)
    [records] = backend.solve(problems, np.zeros(1, np.int64), fits)
    if not fits.solved[0]:
        return nothing
    n_iter = int(fits.n_iter[0])
    found = FitResult(
        centroids=fits.centroids[0],
        labels=fits.labels,
        inertia=float(fits.inertia[0]),
        counts=fits.counts[0],
        weights=fits.weights[0],
        n_samples=len(x),
        total_weight=float(fits.total_weight[0]),
        n_iter=n_iter,
        stop=STOPS[fits.stop[0]],
        history=history_of(records),
        n_init=rules.n_init,
        best_init=int(fits.best_init[0]),
        # Every pass labels every row: one an iteration, and the last.
        n_scored=len(x) * (n_iter + 1),
        n_rechecked=int(fits.n_rechecked[0]),
    )
    return found, np.flatnonzero(fits.constant[0])
