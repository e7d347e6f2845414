"""A digest of rows that does not depend on the order they are read in."""

from __future__ import annotations

import numpy as np

_MASK = (1 << 128) - 1
_BLOCK_VALUES = 1 << 16


class RowDigest:
    """Sum modulo 2**128 of a hash of every row and its number; mergeable.

    A row's hash is two 64-bit lanes, each the dot product modulo 2**64 of the values' bit patterns with odd constants
    (multiply-shift hashing: Dietzfelbinger et al., "A reliable randomized algorithm for the closest-pair problem",
    1997), mixed with the row's number, width and type by the finaliser of SplitMix64. The upper half of each pattern is
    folded into its lower half first: patterns of small whole numbers end in many zero bits, which a product keeps. It
    finds accidental change; it is no defence against an adversary.
    """

    def __init__(self) -> None:
        self._total = 0
        self._n = 0
        self._factors = np.empty((0, 2), np.uint64)

    def update(self, x: np.ndarray, row_numbers: np.ndarray) -> None:
        """Add rows ``x`` (n, d), float32 or float64, with their numbers (n,) int64."""
        n, d = x.shape
        if len(self._factors) != d:
            self._factors = _factors(d)
        step = max(1, _BLOCK_VALUES // max(1, d))
        for i in range(0, n, step):
            dots = _bits(x[i : i + step]) @ self._factors
            numbers = _mix(row_numbers[i : i + step].astype(np.uint64))
            for lane in (0, 1):
                hashes = _mix(dots[:, lane] ^ (numbers + np.uint64(16 * d + x.dtype.itemsize + lane)))
                # Halves are summed apart, for the sum of 64-bit numbers to have room.
                low = int((hashes & np.uint64(0xFFFFFFFF)).sum(dtype=np.uint64))
                high = int((hashes >> np.uint64(32)).sum(dtype=np.uint64))
                self._total += (low + (high << 32)) << (64 * lane)
        self._total &= _MASK
        self._n += n

    def merge(self, other: RowDigest) -> None:
        """Add the rows of another digest."""
        self._total = (self._total + other._total) & _MASK
        self._n += other._n

    def hexdigest(self) -> str:
        """Thirty-two hexadecimal digits for the rows, sixteen for their number."""
        return f"{self._total:032x}{self._n:016x}"


def _bits(x: np.ndarray) -> np.ndarray:
    """Folded bit patterns of some rows, uint64 (n, d); -0.0 and 0.0, one value to the algorithm, have one pattern."""
    positive = np.ascontiguousarray(x) + x.dtype.type(0)
    if x.dtype.itemsize == 4:
        bits = positive.view(np.uint32)
        return (bits ^ (bits >> np.uint32(16))).astype(np.uint64)
    wide = positive.view(np.uint64)
    return np.asarray(wide ^ (wide >> np.uint64(32)))


def _mix(value: np.ndarray) -> np.ndarray:
    """Finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    return value


def _factors(d: int) -> np.ndarray:
    """Odd constants for d features, uint64 of shape (d, 2)."""
    return _mix(np.arange(2 * d, dtype=np.uint64)).reshape(d, 2) | np.uint64(1)
