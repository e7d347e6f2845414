"""Quantiles of the radius per cluster, from counts on a logarithmic scale: order-free and of bounded size."""

from __future__ import annotations

import numpy as np

LEVELS = (0.5, 0.9, 0.95, 0.99, 1.0)
OUTLIER_LEVEL = 0.99
_COMPACT_AT = 1 << 21


def scale_bits(n_clusters: int) -> int:
    """Bits b of resolution, so that memory stays bounded: a bin spans a factor of at most 1 + 2**-b in D."""
    return 10 if n_clusters <= 256 else 7 if n_clusters <= 4096 else 5 if n_clusters <= 32768 else 4


class RadiusCounts:
    """Counts of rows per cluster and distance bin; a commutative monoid under :meth:`merge`.

    A bin is the exponent of the squared distance and its first :func:`scale_bits` mantissa bits, hence
    independent of the data. Only bins in use are stored, as sorted keys ``cluster << 32 | bin``.
    """

    def __init__(self, n_clusters: int) -> None:
        self.n_clusters = n_clusters
        self.bits = scale_bits(n_clusters)
        self.largest = np.zeros(n_clusters)
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._pending = 0

    def add(self, labels: np.ndarray, squared: np.ndarray) -> None:
        """Count rows with these labels (n,) and squared distances (n,) float64."""
        # The bits of a float64 that is not negative are ordered as the numbers are.
        bins = np.ascontiguousarray(squared + 0.0).view(np.int64) >> (52 - self.bits)
        keys, counts = np.unique((labels.astype(np.int64) << 32) | bins, return_counts=True)
        self._parts.append((keys, counts))
        self._pending += len(keys)
        if self._pending > _COMPACT_AT:
            self._compact()
        np.maximum.at(self.largest, labels, squared)

    def merge(self, other: RadiusCounts) -> None:
        """Take in the counts of another part."""
        self._parts += other._parts
        self._pending += other._pending
        np.maximum(self.largest, other.largest, out=self.largest)
        self._compact()

    def quantiles(self, levels: tuple[float, ...] = LEVELS) -> np.ndarray:
        """Return quantiles of the radius sqrt(D), float64 of shape (n_clusters, len(levels)).

        The quantile q is where the share of rows reaches q, interpolated linearly over the bin; it errs by at
        most the width of a bin. Level 1.0 is the exact maximum; a cluster without rows has zeros.
        """
        keys, counts = self._compact()
        out = np.zeros((self.n_clusters, len(levels)))
        if not len(keys):
            return out
        present, first = np.unique(keys >> 32, return_index=True)
        cumulative = np.concatenate([[0], np.cumsum(counts)])
        before = cumulative[first]
        total = cumulative[np.append(first[1:], len(keys))] - before
        bins = keys & 0xFFFFFFFF
        low = np.sqrt((bins << (52 - self.bits)).view(np.float64))
        high = np.sqrt(((bins + 1) << (52 - self.bits)).view(np.float64))
        largest = np.sqrt(self.largest[present])
        for column, level in enumerate(levels):
            rank = before + level * total
            at = np.clip(np.searchsorted(cumulative, rank, side="left") - 1, first, len(keys) - 1)
            share = (rank - cumulative[at]) / counts[at]
            value = low[at] + share * (high[at] - low[at])
            out[present, column] = largest if level >= 1.0 else np.minimum(value, largest)
        return out

    def _compact(self) -> tuple[np.ndarray, np.ndarray]:
        """Put all parts into one."""
        if not self._parts:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        if len(self._parts) > 1:
            keys = np.concatenate([k for k, _ in self._parts])
            counts = np.concatenate([c for _, c in self._parts])
            order = np.argsort(keys, kind="stable")
            keys = keys[order]
            starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
            self._parts = [(keys[starts], np.add.reduceat(counts[order], starts))]
        # Compacting again only pays once as much as is stored has come in.
        self._pending = 0
        return self._parts[0]
