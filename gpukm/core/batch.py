"""What many fits at once return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpukm.core.result import FitResult, StopReason, history_of


@dataclass(frozen=True)
class BatchedResult:
    """Finished fits of many problems, B of them; ``result[b]`` is the :class:`FitResult` of one.

    Attributes
    ----------
    centroids : ndarray of shape (B, n_clusters, n_features)
        float32 when the data has 32 bits or less, else float64.
    labels : ndarray of int32 of shape (B, n_samples), or (n_rows,) for ragged problems
        Nearest centroid of each row within its own problem, in the order in which the rows were given; an array of the
        same library on the same GPU where the rows were one.
    inertia : ndarray of float64 of shape (B,)
    counts : ndarray of int64 of shape (B, n_clusters)
    weights : ndarray of float64 of shape (B, n_clusters)
        Summed sample weight per cluster.
    n_samples : ndarray of int64 of shape (B,)
    total_weight : ndarray of float64 of shape (B,)
    n_iter : ndarray of int64 of shape (B,)
        Iterations of the best start.
    init : tuple of str
        What each problem started from.
    stop : tuple of StopReason
    history : tuple of ndarray of float64 of shape (n_iter, 4)
        Inertia, shift, rows moved and empty clusters of each iteration, as in :class:`IterationRecord`.
    seeds : ndarray of uint64 of shape (B,)
        ``kmeans(rows of b, n_clusters, seed=int(seeds[b]), ...)`` gives the same bits.
    offsets : ndarray of int64 of shape (B + 1,)
        Where the rows of a problem begin and end.
    rows : ndarray of int64 of shape (n_rows,) or None
        With ``groups``: the rows group by group, so that those of problem b are ``rows[offsets[b]:offsets[b + 1]]``.
    groups : ndarray of shape (B,) or None
        The value of each group.
    n_init : int
    best_init : ndarray of int64 of shape (B,)
    n_scored, n_rechecked : ndarray of int64 of shape (B,)
        Of the best start.
    backend : str
    rejected : tuple of (str, str)
    settings : dict
        What decides the results besides ``init`` and ``seeds``.
    warnings : tuple of tuple of str
        What was doubtful, a problem.
    """

    centroids: np.ndarray
    labels: Any
    inertia: np.ndarray
    counts: np.ndarray
    weights: np.ndarray
    n_samples: np.ndarray
    total_weight: np.ndarray
    n_iter: np.ndarray
    init: tuple[str, ...]
    stop: tuple[StopReason, ...]
    history: tuple[np.ndarray, ...]
    seeds: np.ndarray
    offsets: np.ndarray
    rows: np.ndarray | None
    groups: np.ndarray | None
    n_init: int
    best_init: np.ndarray
    n_scored: np.ndarray
    n_rechecked: np.ndarray
    backend: str
    rejected: tuple[tuple[str, str], ...]
    settings: dict[str, object] = field(default_factory=dict)
    warnings: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.inertia)

    def __iter__(self) -> Iterator[FitResult]:
        return (self[b] for b in range(len(self)))

    def __getitem__(self, problem: int) -> FitResult:
        b = range(len(self))[problem]
        mine = slice(int(self.offsets[b]), int(self.offsets[b + 1]))
        labels = self.labels.reshape(-1)
        return FitResult(
            centroids=self.centroids[b],
            labels=labels[mine] if self.rows is None else labels[self.rows[mine]],
            inertia=float(self.inertia[b]),
            counts=self.counts[b],
            weights=self.weights[b],
            n_samples=int(self.n_samples[b]),
            total_weight=float(self.total_weight[b]),
            n_iter=int(self.n_iter[b]),
            stop=self.stop[b],
            history=history_of(self.history[b]),
            n_init=self.n_init,
            best_init=int(self.best_init[b]),
            n_scored=int(self.n_scored[b]),
            n_rechecked=int(self.n_rechecked[b]),
            backend=self.backend,
            rejected=self.rejected,
            settings={**self.settings, "init": self.init[b], "seed": int(self.seeds[b])},
            warnings=self.warnings[b],
        )
