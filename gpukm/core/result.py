"""What a fit returns."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from gpukm.backends.base import Rechecks


class StopReason(Enum):
    """Why the loop ended; the value is the sentence a user reads."""

    CONVERGED = "no centroid changed"
    TOLERANCE = "the centroids moved less than the tolerance"
    MAX_ITER = "the iteration limit was reached"
    EXCESS = "more rows or steps are expected to lower the inertia by less than the excess allowed"


@dataclass(frozen=True)
class IterationRecord:
    """One iteration, for progress, reports and logs.

    ``inertia`` is measured against the centroids the iteration began with and comes from the identity
    over sums, so it is for display only; ``shift`` is the summed squared movement of the centroids.
    """

    iteration: int
    inertia: float
    shift: float
    n_moved: int
    n_empty: int


def history_of(records: np.ndarray) -> tuple[IterationRecord, ...]:
    """Records from their numbers, of shape (n_iter, 4)."""
    return tuple(
        IterationRecord(number, inertia, shift, int(moved), int(empty))
        for number, (inertia, shift, moved, empty) in enumerate(records.tolist(), 1)
    )


@dataclass(frozen=True)
class FitResult:
    """A finished k-means fit.

    Attributes
    ----------
    centroids : ndarray of shape (n_clusters, n_features)
        float32 when the data has 32 bits or less, else float64.
    labels : ndarray of int32 of shape (n_samples,) or None
        Nearest centroid of each kept row, consistent with ``centroids``; an array of the same library on the same GPU
        where the data was one; None when a streamed fit was asked not to keep them.
    inertia : float
        Order-free sum of ``w * D(x, c_label)``.
    counts : ndarray of int64 of shape (n_clusters,)
        Rows per cluster.
    weights : ndarray of float64 of shape (n_clusters,)
        Summed sample weight per cluster; equals ``counts`` without weights.
    n_samples : int
        Rows used (kept).
    total_weight : float
    n_iter : int
        Iterations of the best start.
    stop : StopReason
    history : tuple of IterationRecord
        One record an iteration of the best start.
    n_init : int
        Starts made, resolved from ``"auto"``.
    best_init : int
        Which start won, from 0.
    n_scored, n_rechecked : int
        Rows labelled over all passes, and how many of them screening could not settle alone.
    rechecks : Rechecks or None
        What D decided for these, on a GPU; None where that is not counted. Of a cluster that of the workers that are
        left.
    inertia_before_swaps : float or None
        With ``quality="best"``: inertia of the best start, which swaps then lowered to ``inertia``.
    backend : str
        Name of the backend that ran.
    rejected : tuple of (str, str)
        Backends passed over by ``"auto"``, with the reason.
    settings : dict
        Every resolved setting that decides the result (JSON types only).
    warnings : tuple of str
        What was doubtful: constant columns, fewer distinct rows than clusters.
    work : dict of str to int, or None
        Of a fit on a cluster: workers, those lost and joined, tasks and those that another worker had to take, parts of
        the data opened again, and bytes moved between workers.
    """

    centroids: np.ndarray
    labels: Any
    inertia: float
    counts: np.ndarray
    weights: np.ndarray
    n_samples: int
    total_weight: float
    n_iter: int
    stop: StopReason
    history: tuple[IterationRecord, ...]
    n_init: int = 1
    best_init: int = 0
    n_scored: int = 0
    n_rechecked: int = 0
    rechecks: Rechecks | None = None
    inertia_before_swaps: float | None = None
    backend: str = ""
    rejected: tuple[tuple[str, str], ...] = ()
    settings: dict[str, object] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    work: dict[str, int] | None = None

    @property
    def labelling(self) -> str:
        """How rows came by their labels, in words."""
        share = self.n_rechecked / self.n_scored if self.n_scored else 0.0
        text = f"{self.n_scored:,} rows labelled, {1 - share:.3%} settled by screening"
        if self.rechecks is None:
            return f"{text}, {self.n_rechecked:,} rechecked"
        crowded = self.rechecks.n_crowded
        return (
            f"{text}, {self.n_rechecked - crowded:,} decided among what bounds left "
            f"({self.rechecks.n_pairs:,} distances), {crowded:,} among all centroids"
        )

    @property
    def effort_there(self) -> str:
        """What a fit on a cluster took, in words; empty where there was none."""
        if self.work is None:
            return ""
        w = self.work
        return (
            f"{w['workers']} workers ({w['workers_lost']} lost, {w['workers_joined']} joined), {w['tasks']:,} tasks "
            f"({w['tasks_retried']:,} retried), {w['parts_reopened']:,} parts of the data read again, "
            f"{w['bytes_moved'] / 1e6:,.1f} MB moved between workers"
        )

    def digest(self) -> str:
        """SHA-256 over little-endian C-order centroids, int32 labels (where kept) and float64 inertia."""
        h = hashlib.sha256()
        h.update(np.ascontiguousarray(self.centroids, dtype=self.centroids.dtype.newbyteorder("<")).tobytes())
        if self.labels is not None:
            h.update(np.ascontiguousarray(on_host(self.labels), dtype="<i4").tobytes())
        h.update(np.array([self.inertia], dtype="<f8").tobytes())
        return h.hexdigest()


def on_host(array: Any) -> Any:
    """An array of a GPU library copied to the host, bfloat16, which NumPy has not, as float32; else as it is."""
    library = type(array).__module__.partition(".")[0]
    if library == "torch":
        found = array.detach().cpu()
        return found.float() if str(found.dtype) == "torch.bfloat16" else found
    return array.get() if library == "cupy" else array
