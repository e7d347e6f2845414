"""The statistics pass: what a finished clustering looks like, in numbers that do not depend on how it was run.

Two passes over the rows. :func:`survey` finds ranges and draws a sample; :func:`summarize` then looks at every row
with its label and distances. Every number is made of counts, exact sums, minima, maxima, and rows chosen by row
number, so batch size, shards and threads change no bit of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from gpukm.backends.select import usable_threads
from gpukm.core.exact import exact_sum_by, to_float, to_floats
from gpukm.core.golden import GoldenRows, GoldenTracker
from gpukm.core.histogram import BINS, bin_codes, quantile_edges
from gpukm.core.moments import GroupSums
from gpukm.core.quantiles import LEVELS, OUTLIER_LEVEL, RadiusCounts
from gpukm.core.sampling import Rows, sample, sample_size
from gpukm.sources.base import Batch, Source

#: Cells (clusters x features) beyond which variances per cluster and feature are dropped.
VARIANCE_CELLS = 1 << 22
#: Cells (clusters x features x bins) beyond which histograms per cluster are dropped.
HISTOGRAM_CELLS = 1 << 22
#: Names in :meth:`ClusterSummary.tensors` that may hold infinities.
NON_FINITE = frozenset({"histogram_edges"})
_BLOCK_VALUES = 1 << 17

#: Rows with their labels (n,), squared distance to the centroid and to the second nearest one, float64 (n,).
Assigned = tuple[Batch, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Survey:
    """What one look at the rows tells; a commutative monoid under :meth:`merge`.

    Attributes
    ----------
    minimum, maximum : ndarray of shape (n_features,)
        In the working dtype; +inf and -inf without rows.
    largest_weight : float
    sample : Rows
        A uniform sample of the rows, the same for every batching.
    """

    minimum: np.ndarray
    maximum: np.ndarray
    largest_weight: float
    sample: Rows
    sample_rows: int

    def merge(self, other: Survey) -> Survey:
        """Both parts together."""
        return Survey(
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            max(self.largest_weight, other.largest_weight),
            self.sample.merge(other.sample, self.sample_rows),
            self.sample_rows,
        )


@dataclass(frozen=True, eq=False)
class ClusterSummary:
    """Statistics of a clustering. All features are as they were clustered, that is after preprocessing.

    Attributes
    ----------
    counts : ndarray of int64 of shape (n_clusters,)
    weights : ndarray of float64 of shape (n_clusters,)
        Summed sample weight; equal to ``counts`` without weights.
    inertia : ndarray of float64 of shape (n_clusters,)
        Sum of ``w * D(x, centroid)`` over the cluster's rows.
    silhouette : ndarray of float64 of shape (n_clusters,)
        Weighted mean of ``1 - a / b``, a and b the distances to the nearest and the second nearest centroid: the
        simplified silhouette (Hruschka et al., 2004). Zero for an empty cluster and for a single one.
    radius_quantiles : ndarray of float64 of shape (n_clusters, 5)
        Quantiles of sqrt(D) at :data:`gpukm.core.quantiles.LEVELS`, over rows; the last is the maximum.
    mean, variance, minimum, maximum : ndarray of float64 of shape (n_features,)
        Of each feature over all rows (mean and variance weighted).
    cluster_variance : ndarray of float64 of shape (n_clusters, n_features) or None
        Weighted mean squared difference from the centroid; None where ``notes`` says so.
    histogram_edges : ndarray of float64 of shape (n_features, 19)
        As :func:`gpukm.core.histogram.quantile_edges` describes.
    histogram : ndarray of int64 of shape (n_features, 20)
        Rows per bin.
    cluster_histogram : ndarray of int64 of shape (n_clusters, n_features, 20) or None
        Rows per bin of each cluster; None where ``notes`` says so.
    golden : GoldenRows
        Rows with their expected labels.
    n_samples : int
    total_weight, total_inertia : float
        Rounded once from exact sums.
    notes : tuple of str
        What was left out, and why.
    """

    counts: np.ndarray
    weights: np.ndarray
    inertia: np.ndarray
    silhouette: np.ndarray
    radius_quantiles: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    cluster_variance: np.ndarray | None
    histogram_edges: np.ndarray
    histogram: np.ndarray
    cluster_histogram: np.ndarray | None
    golden: GoldenRows
    n_samples: int
    total_weight: float
    total_inertia: float
    notes: tuple[str, ...] = ()

    @property
    def outlier_radius(self) -> np.ndarray:
        """Distance beyond which a row of a cluster counts as an outlier, float64 of shape (n_clusters,)."""
        return self.radius_quantiles[:, LEVELS.index(OUTLIER_LEVEL)]

    def tensors(self) -> dict[str, np.ndarray]:
        """All arrays by name, without the golden rows; what is None is absent."""
        arrays = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in arrays if isinstance(value, np.ndarray)}


def survey(source: Source, *, seed: int = 0, batch_rows: int = 1 << 16) -> Survey:
    """Look at every row once: ranges, the largest weight, and a sample.

    Parameters
    ----------
    source : Source
        The rows as they were clustered.
    seed : int
        Which sample.
    batch_rows : int
        Rows to hold at a time; changes no result.
    """
    d = source.n_features
    low, high, heaviest = np.full(d, np.inf), np.full(d, -np.inf), 0.0
    size = sample_size(d)
    rows = Rows.none(d, source.dtype, np.uint64)
    for batch in source.batches(batch_rows):
        if not len(batch.x):
            continue
        # Adding 0 makes -0 into 0, of which min and max return either.
        low, high = np.minimum(low, batch.x.min(axis=0) + 0.0), np.maximum(high, batch.x.max(axis=0) + 0.0)
        heaviest = max(heaviest, 1.0 if batch.weight is None else float(batch.weight.max()))
        rows = sample(rows, batch, seed, size)
    return Survey(low, high, heaviest, rows, size)


def summarize(
    source: Source,
    centroids: np.ndarray,
    assigned: Iterable[Assigned],
    *,
    surveyed: Survey | None = None,
    seed: int = 0,
    batch_rows: int = 1 << 16,
    threads: int | None = None,
) -> ClusterSummary:
    """Make the statistics of a clustering.

    Parameters
    ----------
    source : Source
        The rows as they were clustered; read once for ranges and a sample, unless ``surveyed`` is given.
    centroids : ndarray of shape (n_clusters, n_features)
    assigned : iterable of (Batch, labels, nearest, second)
        The same rows with labels int32 (n,), squared distances to the centroid and to the second nearest one
        float64 (n,), as :func:`gpukm.functional.assign_batches` yields them; consumed once.
    surveyed : Survey or None
        Result of :func:`survey` over the same rows.
    seed : int
        Which rows are sampled.
    batch_rows : int
        Rows to hold at a time while surveying.
    threads : int or None
        Threads to use; None for every core this process may use.

    Returns
    -------
    ClusterSummary
        The same bits for any batch size and number of threads. Memory is bounded by a few hundred megabytes beside
        the batches; where clusters x features are too many, parts are left out and ``notes`` names them.
    """
    look = survey(source, seed=seed, batch_rows=batch_rows) if surveyed is None else surveyed
    return gather(assigned, centroids, look, threads).finish(look)


def gather(
    assigned: Iterable[Assigned], centroids: np.ndarray, look: Survey, threads: int | None = None
) -> Accumulator:
    """Take in rows, all or those of a part, as :func:`summarize` describes them; ``look`` is of all rows."""
    accumulator = Accumulator(centroids, look)
    with ThreadPoolExecutor(threads or usable_threads()) as pool:
        for batch, labels, nearest, second in assigned:
            accumulator.add(batch, labels, nearest, second, pool)
    return accumulator


class Accumulator:
    """Running totals of the pass; a commutative monoid under :meth:`merge`, for equal centroids and survey.

    Copied or pickled it holds the totals alone, which can be merged and finished but take in no more rows.
    """

    def __init__(self, centroids: np.ndarray, look: Survey) -> None:
        k, d = centroids.shape
        minimum = np.where(np.isfinite(look.minimum), look.minimum, 0.0)
        maximum = np.where(np.isfinite(look.maximum), look.maximum, 0.0)
        self.middle = minimum + (maximum - minimum) / 2
        low, high = np.minimum(minimum, centroids.min(axis=0)), np.maximum(maximum, centroids.max(axis=0))
        # One bit more than needed, for the rounding of the terms.
        _, weight_exponent = np.frexp(look.largest_weight)
        reach = np.frexp(high - low)[1] + 1
        linear = np.clip(reach + weight_exponent, -900, 1020)
        square = np.clip(2 * reach + weight_exponent, -900, 1020)
        self.first, self.second = GroupSums(1, linear), GroupSums(1, square)
        self.spread = GroupSums(k, square) if k * d <= VARIANCE_CELLS else None
        # A row per feature, so that a block's share of it is found in one piece.
        self._columns = None if self.spread is None else np.ascontiguousarray(centroids.T, dtype=np.float64)
        self.edges = quantile_edges(look.sample.x, look.minimum)
        self.histogram = np.zeros((d, BINS), np.int64)
        self.cluster_histogram = np.zeros((d, k * BINS), np.int64) if k * d * BINS <= HISTOGRAM_CELLS else None
        self.counts = np.zeros(k, np.int64)
        self.weights: np.ndarray | None = None
        self.inertia, self.silhouette = np.zeros(k, object), np.zeros(k, object)
        self.radii = RadiusCounts(k)
        self.golden = GoldenTracker(look.sample)

    def add(
        self,
        batch: Batch,
        labels: np.ndarray,
        nearest: np.ndarray,
        second: np.ndarray,
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        """Take in some rows."""
        x, w, k = batch.x, batch.weight, len(self.counts)
        if not len(x):
            return
        counts = np.bincount(labels, minlength=k)
        self.counts += counts
        if w is not None:
            weights = exact_sum_by(w, labels, k)
            self.weights = weights if self.weights is None else self.weights + weights
        potential = nearest if w is None else w * nearest
        self.inertia = self.inertia + exact_sum_by(potential, labels, k)
        if k > 1:
            ratio = np.sqrt(nearest) / np.sqrt(np.where(second > 0, second, 1.0))
            score = np.where(second > 0, 1.0 - ratio, 0.0)
            self.silhouette = self.silhouette + exact_sum_by(score if w is None else w * score, labels, k)
        self.radii.add(labels, nearest)
        self.golden.add(batch, labels, nearest, second)
        # Long runs of equal labels make the sums fast; many clusters need more rows for that.
        rows = 1 << int(np.clip((16 * k - 1).bit_length(), 14, 17))
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            self._add_features(x[part], None if w is None else w[part], labels[part], pool)

    def merge(self, other: Accumulator) -> None:
        """Take in the totals of another part."""
        for mine, theirs in ((self.first, other.first), (self.second, other.second), (self.spread, other.spread)):
            if mine is not None and theirs is not None:
                mine.limbs += theirs.limbs
        self.histogram += other.histogram
        if self.cluster_histogram is not None:
            self.cluster_histogram += other.cluster_histogram
        self.counts += other.counts
        if other.weights is not None:
            self.weights = other.weights if self.weights is None else self.weights + other.weights
        self.inertia = self.inertia + other.inertia
        self.silhouette = self.silhouette + other.silhouette
        self.radii.merge(other.radii)
        self.golden.merge(other.golden)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_columns": None}

    def finish(self, look: Survey) -> ClusterSummary:
        """Round the totals; ``look`` is that of the beginning."""
        k, d = len(self.counts), len(self.histogram)
        weights = self.counts.astype(np.float64) if self.weights is None else to_floats(self.weights)
        total = float(self.counts.sum()) if self.weights is None else to_float(int(self.weights.sum()))
        divisor = np.where(weights > 0, weights, 1.0)
        offset = self.first.totals()[0] / (total or 1.0)
        variance = np.maximum(self.second.totals()[0] / (total or 1.0) - offset * offset, 0.0)
        constant = look.minimum == look.maximum
        notes = []
        if self.spread is None:
            notes.append(
                f"variances per cluster and feature were left out: {k} clusters x {d} features exceed "
                f"{VARIANCE_CELLS} values"
            )
        by_cluster = None
        if self.cluster_histogram is None:
            notes.append(
                f"histograms per cluster were left out: {k} clusters x {d} features x {BINS} bins exceed "
                f"{HISTOGRAM_CELLS} values"
            )
        else:
            by_cluster = np.ascontiguousarray(self.cluster_histogram.reshape(d, k, BINS).transpose(1, 0, 2))
        return ClusterSummary(
            counts=self.counts,
            weights=weights,
            inertia=to_floats(self.inertia),
            silhouette=to_floats(self.silhouette) / divisor,
            radius_quantiles=self.radii.quantiles(),
            mean=np.where(constant, look.minimum, self.middle + offset).astype(np.float64),
            variance=np.where(constant, 0.0, variance),
            minimum=look.minimum.astype(np.float64),
            maximum=look.maximum.astype(np.float64),
            cluster_variance=None if self.spread is None else self.spread.totals() / divisor[:, None],
            histogram_edges=self.edges,
            histogram=self.histogram,
            cluster_histogram=by_cluster,
            golden=self.golden.finish(look.sample, self.counts),
            n_samples=int(self.counts.sum()),
            total_weight=total,
            total_inertia=to_float(int(self.inertia.sum())),
            notes=tuple(notes),
        )

    def _add_features(
        self, x: np.ndarray, w: np.ndarray | None, labels: np.ndarray, pool: ThreadPoolExecutor | None
    ) -> None:
        """Sums and histograms of a block of rows, features dealt to threads."""
        k, d = len(self.counts), x.shape[1]
        # Radix sort exists for 16 bits only.
        order = np.argsort(labels.astype(np.uint16), kind="stable") if k <= 1 << 16 else np.argsort(labels)
        ordered = labels[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        run = _Run(order, ordered.astype(np.int64), starts, None if w is None else w[order])
        width = max(1, _BLOCK_VALUES // len(x))
        parts = [slice(f, min(f + width, d)) for f in range(0, d, width)]
        mapped = (map if pool is None else pool.map)(lambda part: self._add_part(x, run, part), parts)
        list(mapped)

    def _add_part(self, x: np.ndarray, run: _Run, part: slice) -> None:
        """Sums and histograms of some features of a block of rows."""
        stored = np.ascontiguousarray(x[:, part][run.order].T)
        values = stored.astype(np.float64)
        whole = np.zeros(1, np.intp)
        terms = values - self.middle[part, None]
        weighted = terms if run.weight is None else terms * run.weight
        squares = weighted * terms
        self.second.add(part, squares, whole[:1], whole)
        self.first.add(part, weighted, whole[:1], whole)
        groups = run.labels[run.starts]
        if self.spread is not None and self._columns is not None:
            lengths = np.diff(np.append(run.starts, len(run.labels)))
            values -= np.repeat(self._columns[part][:, groups], lengths, axis=1)
            values *= values
            if run.weight is not None:
                values *= run.weight
            self.spread.add(part, values, groups, run.starts)
        shifted = run.labels * BINS
        for i, feature in enumerate(range(part.start, part.stop)):
            codes = bin_codes(stored[i], self.edges[feature])
            if self.cluster_histogram is None:
                self.histogram[feature] += np.bincount(codes, minlength=BINS)
                continue
            counts = np.bincount(shifted + codes, minlength=self.cluster_histogram.shape[1])
            self.cluster_histogram[feature] += counts
            self.histogram[feature] += counts.reshape(-1, BINS).sum(axis=0)


@dataclass(frozen=True)
class _Run:
    """A block of rows in order of their labels: where each came from, its label, where runs start, its weight."""

    order: np.ndarray
    labels: np.ndarray
    starts: np.ndarray
    weight: np.ndarray | None
