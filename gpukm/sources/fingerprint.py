"""A digest of rows that does not depend on the order they are read in."""

from __future__ import annotations

import numpy as np

_MASK = (1 << 128) - 1
_BLOCK_VALUES = 1 << 18


class RowDigest:
    """Sum modulo 2**128 of a hash of every row and its number; mergeable.

    A row's hash is two 64-bit lanes, each the dot product of its bit patterns with odd constants (multiply-shift
    hashing: Dietzfelbinger et al., "A reliable randomized algorithm for the closest-pair problem", 1997), mixed with
    the row number by the finaliser of SplitMix64. It finds accidental change; it is no defence against an adversary.
    """

    def __init__(self) -> None:
        self._total = 0
        self._n = 0
        self._factors = np.empty((2, 0), np.uint64)

    def update(self, x: np.ndarray, row_numbers: np.ndarray) -> None:
        """Add rows ``x`` (n, d), float32 or float64, with their numbers (n,) int64."""
        n, d = x.shape
        if self._factors.shape[1] != d:
            self._factors = _factors(d)
        step = max(1, _BLOCK_VALUES // max(1, d))
        for i in range(0, n, step):
            part = np.ascontiguousarray(x[i : i + step])
            # -0.0 and 0.0 are one value to the algorithm.
            bits = (part + part.dtype.type(0)).view(np.uint32 if part.itemsize == 4 else np.uint64)
            numbers = row_numbers[i : i + step].astype(np.uint64)
            lanes = []
            for factors in self._factors:
                row = np.zeros(len(part), np.uint64)
                for f in range(d):
                    row += bits[:, f] * factors[f]
                lanes.append(_mix(row ^ _mix(numbers + factors[0])))
            for lane, shift in zip(lanes, (0, 64), strict=True):
                low = int((lane & np.uint64(0xFFFFFFFF)).sum(dtype=np.uint64))
                high = int((lane >> np.uint64(32)).sum(dtype=np.uint64))
                self._total += (low + (high << 32)) << shift
        self._total &= _MASK
        self._n += n

    def merge(self, other: RowDigest) -> None:
        """Add the rows of another digest."""
        self._total = (self._total + other._total) & _MASK
        self._n += other._n

    def hexdigest(self) -> str:
        """Thirty-two hexadecimal digits for the rows, sixteen for their number."""
        return f"{self._total:032x}{self._n:016x}"


def _mix(value: np.ndarray) -> np.ndarray:
    """Finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _factors(d: int) -> np.ndarray:
    """Odd constants for d features, uint64 of shape (2, d)."""
    return np.stack([_mix(np.arange(d, dtype=np.uint64) * np.uint64(2) + np.uint64(lane)) | np.uint64(1) for lane in (0, 1)])
