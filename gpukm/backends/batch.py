"""Many small problems at once: what a backend is given, and the arrays it fills in."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Problems:
    """Problems of one shape but for their rows, and the rules they are solved by.

    Attributes
    ----------
    x : ndarray of shape (n_rows, n_features)
        Rows of all problems, float32 or float64; for the cosine metric of unit length. They may be where the backend
        works.
    dtype : dtype
        Of the centroids.
    weight : ndarray of float64 of shape (n_rows,) or None
    offsets : ndarray of int64 of shape (n_problems + 1,)
        Problem b has the rows ``offsets[b]:offsets[b + 1]``.
    seeds : ndarray of uint64 of shape (n_problems,)
    start : ndarray of shape (n_problems, n_clusters, n_features) or None
        Starting centroids in the dtype of the rows; None draws them.
    n_clusters : int
    trials : int
        Candidates a step of k-means++; 0 starts from random rows.
    n_init, max_iter : int
    tol : float
    spherical : bool
    """

    x: Any
    dtype: np.dtype
    weight: np.ndarray | None
    offsets: np.ndarray
    seeds: np.ndarray
    start: np.ndarray | None
    n_clusters: int
    trials: int
    n_init: int
    max_iter: int
    tol: float
    spherical: bool

    def part(self, problems: slice) -> Problems:
        """Some consecutive problems; offsets go on counting in all rows."""
        return replace(
            self,
            offsets=self.offsets[problems.start : problems.stop + 1],
            seeds=self.seeds[problems],
            start=None if self.start is None else self.start[problems],
        )


@dataclass(frozen=True)
class Fits:
    """Results in the making, an entry a problem unless said otherwise; as of :class:`gpukm.core.result.FitResult`.

    Attributes
    ----------
    solved : ndarray of uint8
        0 where the ordinary engine has to do the work, or say what is wrong with the data.
    labels : ndarray of int32 of shape (n_rows,)
    stop : ndarray of int32
        Place in :class:`gpukm.core.result.StopReason`.
    constant : ndarray of uint8 of shape (n_problems, n_features)
        Features of one value.
    """

    solved: np.ndarray
    centroids: np.ndarray
    labels: np.ndarray
    inertia: np.ndarray
    total_weight: np.ndarray
    n_iter: np.ndarray
    best_init: np.ndarray
    n_rechecked: np.ndarray
    stop: np.ndarray
    counts: np.ndarray
    weights: np.ndarray
    constant: np.ndarray

    @classmethod
    def empty(cls, problems: Problems) -> Fits:
        """Nothing solved yet."""
        n, k, d = len(problems.seeds), problems.n_clusters, problems.x.shape[1]
        return cls(
            solved=np.zeros(n, np.uint8),
            centroids=np.empty((n, k, d), problems.dtype),
            labels=np.empty(len(problems.x), np.int32),
            inertia=np.empty(n),
            total_weight=np.empty(n),
            n_iter=np.zeros(n, np.int64),
            best_init=np.empty(n, np.int64),
            n_rechecked=np.empty(n, np.int64),
            stop=np.empty(n, np.int32),
            counts=np.empty((n, k), np.int64),
            weights=np.empty((n, k)),
            constant=np.empty((n, d), np.uint8),
        )

    def part(self, problems: slice) -> Fits:
        """Views of some consecutive problems; labels stay those of all rows."""
        views = {f.name: getattr(self, f.name)[problems] for f in fields(self) if f.name != "labels"}
        return Fits(labels=self.labels, **views)
