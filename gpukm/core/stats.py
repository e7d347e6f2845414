"""Mergeable statistics: what a batch, a shard, a thread and a worker report, and how it becomes centroids.

A cluster's sum S is one integer on a power-of-two grid, held in two int64 limbs: ``S = hi * 2**32 + lo``. A row adds
``rint(fl64(w * x) * 2**s)``, with one s per feature chosen so that ``sum(|w * x|) * 2**s <= 2**82``. Hence

* addition is associative and exact, whatever the order, and subtracting a row that moved is exact too;
* the quantisation of one term is at most ``2**-83 * total_weight * max|x|``, which for float32 data within a dynamic
  range of 2**58 / n_samples is no error at all;
* a term's high part fits 50 bits and its low part 32, so float64 arithmetic can extract and add them exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LIMB_BITS = 32
GRID_BITS = 82
_LIMIT = 1000


@dataclass(frozen=True)
class Grid:
    """The power-of-two grid of the sums.

    Attributes
    ----------
    exponents : ndarray of int32 of shape (n_features,)
        A value v of feature f counts ``rint(v * 2**exponents[f])``.
    weight_exponent : int
        The same for the weights themselves.
    """

    exponents: np.ndarray
    weight_exponent: int

    @classmethod
    def of(cls, max_abs: np.ndarray, total_weight: float) -> Grid:
        """Choose the grid from max|x| per feature (n_features,) and the total weight; no row may exceed either.

        The total weight and not the number of rows: weight 2 then equals the row twice, bit for bit.
        """
        _, high = np.frexp(np.asarray(max_abs, dtype=np.float64) * total_weight)
        exponents = np.where(np.asarray(max_abs) > 0, np.clip(GRID_BITS - high, -_LIMIT, _LIMIT), 0)
        return cls(exponents.astype(np.int32), int(np.clip(GRID_BITS - np.frexp(total_weight)[1], -_LIMIT, _LIMIT)))

    @property
    def scales(self) -> np.ndarray:
        """``2**exponents`` as float64."""
        return np.ldexp(1.0, self.exponents)

    @property
    def weight_scale(self) -> float:
        """``2**weight_exponent``."""
        return float(np.ldexp(1.0, self.weight_exponent))


def split(terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split grid terms (float64, any shape) into integral high and low parts, still float64: t ~ hi * 2**32 + lo."""
    hi = np.rint(terms * 2.0**-LIMB_BITS)
    return hi, np.rint(terms - hi * 2.0**LIMB_BITS)


@dataclass
class ClusterStats:
    """Per-cluster sums; a commutative monoid under :meth:`merge`.

    Attributes
    ----------
    hi, lo : ndarray of int64 of shape (n_clusters, n_features)
        Limbs of the weighted sums, on the fit's :class:`Grid`.
    counts : ndarray of int64 of shape (n_clusters,)
    weight_hi, weight_lo : ndarray of int64 of shape (n_clusters,) or None
        Limbs of the summed weights; None when every row weighs one.
    """

    hi: np.ndarray
    lo: np.ndarray
    counts: np.ndarray
    weight_hi: np.ndarray | None = None
    weight_lo: np.ndarray | None = None

    @classmethod
    def zero(cls, n_clusters: int, n_features: int, weighted: bool) -> ClusterStats:
        """Return the identity of :meth:`merge`."""
        weight = [np.zeros(n_clusters, np.int64) for _ in range(2)] if weighted else [None, None]
        shape = (n_clusters, n_features)
        return cls(np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(n_clusters, np.int64), *weight)

    def merge(self, other: ClusterStats) -> ClusterStats:
        """Return the statistics of both parts together; exact and in any order."""
        merged = ClusterStats(self.hi + other.hi, self.lo + other.lo, self.counts + other.counts)
        # Statistics of no rows may not know of weights.
        heavy = [part for part in (self, other) if part.weight_hi is not None and part.weight_lo is not None]
        if heavy:
            merged.weight_hi = sum(part.weight_hi for part in heavy)  # type: ignore[misc,assignment]
            merged.weight_lo = sum(part.weight_lo for part in heavy)  # type: ignore[misc,assignment]
        merged.normalise()
        return merged

    def part(self, clusters: slice) -> ClusterStats:
        """Views of the statistics of some consecutive clusters."""
        weights = [None if w is None else w[clusters] for w in (self.weight_hi, self.weight_lo)]
        return ClusterStats(self.hi[clusters], self.lo[clusters], self.counts[clusters], *weights)

    def total(self) -> ClusterStats:
        """Statistics of all clusters together, as of one; without weights."""
        total = ClusterStats(
            self.hi.sum(0, keepdims=True), self.lo.sum(0, keepdims=True), self.counts.sum(keepdims=True)
        )
        total.normalise()
        return total

    def copy(self) -> ClusterStats:
        """Return an independent copy."""
        weights = [None if w is None else w.copy() for w in (self.weight_hi, self.weight_lo)]
        return ClusterStats(self.hi.copy(), self.lo.copy(), self.counts.copy(), *weights)

    def normalise(self) -> None:
        """Carry so that every low limb is in [0, 2**32); the integers stay the same and stay far from overflow."""
        _carry(self.hi, self.lo)
        if self.weight_hi is not None and self.weight_lo is not None:
            _carry(self.weight_hi, self.weight_lo)

    def weights(self, grid: Grid) -> np.ndarray:
        """Summed weight per cluster, float64 of shape (n_clusters,)."""
        if self.weight_hi is None or self.weight_lo is None:
            return self.counts.astype(np.float64)
        return np.ldexp(limbs_to_float(self.weight_hi, self.weight_lo), -grid.weight_exponent)

    def sums(self, grid: Grid) -> np.ndarray:
        """Weighted sums rounded once, float64 of shape (n_clusters, n_features)."""
        return np.ldexp(limbs_to_float(self.hi, self.lo), -grid.exponents)

    def add(self, x: np.ndarray, weight: float, cluster: int, sign: int, grid: Grid) -> None:
        """Add one row x (n_features,) to a cluster's statistics, or with ``sign`` -1 take it away."""
        hi, lo = split(weight * x.astype(np.float64) * grid.scales)
        self.hi[cluster] += sign * hi.astype(np.int64)
        self.lo[cluster] += sign * lo.astype(np.int64)
        self.counts[cluster] += sign
        if self.weight_hi is not None and self.weight_lo is not None:
            w_hi, w_lo = split(np.array(weight * grid.weight_scale))
            self.weight_hi[cluster] += sign * np.int64(w_hi)
            self.weight_lo[cluster] += sign * np.int64(w_lo)
        self.normalise()


def _carry(hi: np.ndarray, lo: np.ndarray) -> None:
    """Move what exceeds 32 bits from the low limbs to the high ones, in place."""
    hi += lo >> LIMB_BITS
    lo &= (1 << LIMB_BITS) - 1


def limbs_to_float(hi: np.ndarray, lo: np.ndarray) -> np.ndarray:
    """Round ``hi * 2**32 + lo`` to float64, half to even and once; |S| < 2**94, lo in [0, 2**32)."""
    negative = hi < 0
    # Two's complement negation over both limbs, so that what follows sees magnitudes only.
    low = np.where(negative, -lo, lo)
    high = np.where(negative, -hi, hi) + (low >> LIMB_BITS)
    low &= (1 << LIMB_BITS) - 1
    # Bring 62 leading bits into one word; any bit lost below sets the last one, which keeps the rounding right.
    shift = np.clip(62 - np.frexp(high.astype(np.float64))[1], 0, LIMB_BITS).astype(np.int64)
    word = (high << shift) | (low >> (LIMB_BITS - shift))
    word |= (low & ((np.int64(1) << (LIMB_BITS - shift)) - 1)) != 0
    value = np.ldexp(word.astype(np.float64), (LIMB_BITS - shift).astype(np.int32))
    return np.where(negative, -value, value)
