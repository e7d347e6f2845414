"""Centroids that follow a stream: exact evidence, a half-life, and a bound on how far they move at once.

A call labels its rows against the centroids as they stand, adds them up, and merges that with the evidence of earlier
calls, whose weight has decayed by 2**(-w / half_life) for w of new weight. Without decay a centroid is the mean of all
rows it was ever given (MacQueen, 1967, batch-wise). The bound is in units of the cluster's radius, the root mean
squared distance of its evidence before the call: one odd batch cannot carry a centroid away from what it stood for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gpukm.core.exact import row_distances
from gpukm.core.lloyd import Problem
from gpukm.core.stats import ClusterStats


@dataclass(frozen=True, eq=False)
class StreamState:
    """What is known after some calls.

    Attributes
    ----------
    centroids : ndarray of shape (n_clusters, n_features)
        In the dtype of the rows.
    means : ndarray of float64 of shape (n_clusters, n_features)
        The same before they are rounded.
    weights : ndarray of float64 of shape (n_clusters,)
        Evidence: summed weight of the rows, decayed.
    squares : ndarray of float64 of shape (n_clusters,)
        Summed ``w * D(x, mean)`` of that evidence, decayed.
    counts : ndarray of int64 of shape (n_clusters,)
        Rows ever given to each cluster; nothing decays here.
    n_held_back : ndarray of int64 of shape (n_clusters,)
        Calls in which the bound held a centroid back.
    n_steps : int
        Calls.
    """

    centroids: np.ndarray
    means: np.ndarray
    weights: np.ndarray
    squares: np.ndarray
    counts: np.ndarray
    n_held_back: np.ndarray
    n_steps: int = 0

    @classmethod
    def start(cls, centroids: np.ndarray) -> StreamState:
        """Centroids without evidence: whatever comes first decides where they go."""
        k = len(centroids)
        means = np.asarray(centroids, dtype=np.float64)
        zeros, none = np.zeros(k), np.zeros(k, np.int64)
        return cls(centroids, means, zeros, zeros, none, none)

    @classmethod
    def of(cls, centroids: np.ndarray, weights: np.ndarray, counts: np.ndarray, inertia: float) -> StreamState:
        """Go on from a fit; its inertia is shared out by weight, as a first guess of the radii."""
        state = cls.start(centroids)
        total = float(weights.sum())
        squares = weights * (inertia / total) if total > 0 else np.zeros(len(weights))
        return replace(state, weights=weights.astype(np.float64), squares=squares, counts=counts.astype(np.int64))

    @property
    def radii(self) -> np.ndarray:
        """Root mean squared distance of each cluster's evidence, float64 of shape (n_clusters,).

        One row's weight of the average over all clusters is added to each, so that a cluster of few rows has a radius.
        """
        total = float(self.weights.sum())
        average = float(self.squares.sum()) / total if total > 0 else 0.0
        radii: np.ndarray = np.sqrt((self.squares + average) / (self.weights + 1.0))
        return radii


@dataclass(frozen=True)
class HeldBack:
    """A centroid that the bound held back: it was to move by ``wanted`` and moved by ``allowed`` (distances)."""

    cluster: int
    wanted: float
    allowed: float


@dataclass(frozen=True, eq=False)
class Seen:
    """What the rows of one call add up to by cluster: sums (k, d), weights (k,), summed w * D (k,), rows (k,)."""

    sums: np.ndarray
    weights: np.ndarray
    squares: np.ndarray
    counts: np.ndarray


def observe(problem: Problem, centroids: np.ndarray) -> Seen:
    """Label the rows of a call and add them up."""
    k, d = centroids.shape
    squares, sums = np.zeros(k), None
    for shard in problem.shards:
        for block, labels, _ in shard.labelled(centroids, problem.fixed.frame):
            backend = shard.backend
            if sums is None:
                sums = backend.sums(k, d, block.weight is not None)
            backend.accumulate(sums, block.x, block.placed_weight, labels, None, problem.fixed.grid)
            distances = backend.distances(block.x, centroids, labels)
            own = backend.fetch(labels)
            squares += np.bincount(own, distances if block.weight is None else block.weight * distances, k)
    stats = ClusterStats.zero(k, d, False) if sums is None else problem.shards[0].backend.collect(sums)
    return Seen(stats.sums(problem.fixed.grid), stats.weights(problem.fixed.grid), squares, stats.counts)


def update(
    state: StreamState, seen: Seen, *, half_life: float | None, max_move: float | None, spherical: bool = False
) -> tuple[StreamState, tuple[HeldBack, ...]]:
    """Merge the rows of a call into the state.

    Parameters
    ----------
    state : StreamState
    seen : Seen
        As :func:`observe` found it against ``state.centroids``.
    half_life : float or None
        New weight, in all clusters together, after which old evidence counts half; None keeps it whole.
    max_move : float or None
        How many radii a centroid with evidence may move; None sets no bound.
    spherical : bool
        Centroids have unit length.

    Returns
    -------
    (StreamState, tuple of HeldBack)
    """
    keep = 1.0 if half_life is None else 2.0 ** (-float(seen.weights.sum()) / half_life)
    old = keep * state.weights
    weights = old + seen.weights
    total = np.where((weights > 0)[:, None], old[:, None] * state.means + seen.sums, state.means)
    divisor = np.sqrt(row_distances(total, np.zeros_like(total))) if spherical else weights
    moving = (seen.counts > 0) & (weights > 0) & (divisor > 0)
    wanted = np.divide(total, divisor[:, None], out=state.means.copy(), where=moving[:, None])
    move = wanted - state.means
    length = np.sqrt(row_distances(wanted, state.means))
    held: tuple[HeldBack, ...] = ()
    means = wanted
    if max_move is not None:
        allowed = np.where(state.weights > 0, max_move * state.radii, np.inf)
        back = np.flatnonzero(length > allowed)
        move[back] *= (allowed[back] / length[back])[:, None]
        means[back] = state.means[back] + move[back]
        if spherical:
            means[back] /= np.sqrt(row_distances(means[back], np.zeros_like(means[back])))[:, None]
            move[back] = means[back] - state.means[back]
        held = tuple(HeldBack(int(j), float(length[j]), float(allowed[j])) for j in back)
    # Squared distances to where the centroids are now: those of the old evidence, and those of the new rows.
    shift = (move * move).sum(axis=1)
    cross = (move * (seen.sums - seen.weights[:, None] * state.centroids)).sum(axis=1)
    squares = keep * state.squares + old * shift + np.maximum(seen.squares - 2 * cross + seen.weights * shift, 0.0)
    n_held_back = state.n_held_back.copy()
    n_held_back[[h.cluster for h in held]] += 1
    centroids = means.astype(state.centroids.dtype)
    return (
        StreamState(centroids, means, weights, squares, state.counts + seen.counts, n_held_back, state.n_steps + 1),
        held,
    )
