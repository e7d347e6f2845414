"""Counter-based random numbers: element i depends on the seed, the purpose and i, and on nothing else.

The generator is Philox-4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) as NumPy
ships it; its raw stream is stable between NumPy versions and cheap to restate on a device.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for; each purpose has a stream of its own."""

    RANDOM_ROWS = 1
    KMEANS_PLUS_PLUS = 2
    SAMPLE = 5
    RESTART = 6
    PORTION = 7
    PROBLEM = 10
    START_SAMPLE = 11
    FIRST_ROW = 12
    CANDIDATES = 13
    SWAP = 16


def raw(seed: int, purpose: int, start: int, n: int) -> np.ndarray:
    """Elements ``start .. start + n`` of a stream, uint64 of shape (n,)."""
    skip = start % 4
    generator = np.random.Philox(key=np.array([seed, int(purpose)], dtype=np.uint64), counter=start // 4)
    return generator.random_raw(skip + n)[skip:]


def uniform_below(bound: int, seed: int, purpose: int, start: int, n: int) -> np.ndarray:
    """Integers in [0, bound), int64 of shape (n,): the high half of draw times bound; bound < 2**62.

    A run of m consecutive integers is drawn with probability m / bound to within 2**-64.
    """
    return below(raw(seed, purpose, start, n), bound)


def strata(total: int, n: int, seed: int, purpose: int, start: int) -> np.ndarray:
    """One integer from each n-th part of [0, total), ascending, int64 of shape (n,); total < 2**62, n < 2**31."""
    whole, rest = divmod(total, n)
    parts = np.arange(n + 1, dtype=np.int64)
    edges = parts * whole + parts * rest // n
    return edges[:-1] + below(raw(seed, purpose, start, n), np.diff(edges))


def below(draws: np.ndarray, bound: int | np.ndarray) -> np.ndarray:
    """The high half of each draw (n,) of 64 bits times its bound, int64 of shape (n,); bounds < 2**62."""
    low_half = np.uint64(0xFFFFFFFF)
    bounds = np.asarray(bound, dtype=np.uint64)
    high, low = draws >> np.uint64(32), draws & low_half
    bound_high, bound_low = bounds >> np.uint64(32), bounds & low_half
    middle = high * bound_low + ((low * bound_low) >> np.uint64(32))
    carry = (middle & low_half) + low * bound_high
    product = high * bound_high + (middle >> np.uint64(32)) + (carry >> np.uint64(32))
    return product.astype(np.int64)


def uniform(seed: int, purpose: int, start: int, n: int) -> np.ndarray:
    """Float64 in [0, 1) with 53 random bits, of shape (n,)."""
    return (raw(seed, purpose, start, n) >> np.uint64(11)).astype(np.float64) * 2.0**-53
