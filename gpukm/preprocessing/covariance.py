"""Covariance and projection through products of small integers, which BLAS computes without rounding.

Deviations are put on a grid of 42 bits and split into two numbers of about 21 bits. A product of two of those has 42
bits, so a sum of up to 2**10 of them is below 2**53: every partial sum is an integer that float64 holds exactly, and
the result of a matrix product has the same bits in any order of summation, with or without fused multiply-add, on
any BLAS and any number of threads. The quantisation is part of the definition.
"""

from __future__ import annotations

import numpy as np

from gpukm.core.exact import UNIT_EXPONENT

LIMB_BITS = 21
GRID_BITS = 2 * LIMB_BITS
_TERMS = 1 << 10
# Sums of a chunk are below 2**53; so many of them stay below 2**62 as int64.
_CHUNKS = 1 << 9
_CARRY_BITS = 40


class Gram:
    """Sums of w d d' of deviations d; a commutative monoid under :meth:`merge`.

    Entry (i, j) sums q(w d_i) q(d_j), where q rounds to 2**-42 of the power of two at or above the largest magnitude
    that ``d_i`` (or ``w d_i``) can have, and is symmetrised at the end; without weights q(d_i) q(d_j). So a term errs
    by at most 2**-42 of the largest product that the two columns can have.

    Parameters
    ----------
    bounds : ndarray of float64 of shape (m,)
        Largest magnitude of each deviation.
    largest_weight : float
        Largest weight.
    """

    def __init__(self, bounds: np.ndarray, largest_weight: float = 1.0) -> None:
        m = len(bounds)
        self._right = np.frexp(bounds)[1]
        self._left = np.frexp(bounds * largest_weight)[1]
        # high x high, high x low, low x high, low x low, each as low part and carry.
        self._sums = np.zeros((4, m, m), dtype=np.int64)
        self._carry = np.zeros((4, m, m), dtype=np.int64)
        self._pending = 0
        self._weighted = False

    def add(self, d: np.ndarray, weight: np.ndarray | None = None) -> None:
        """Add rows of float64 deviations (n, m) within the bounds, with weights (n,)."""
        self._weighted |= weight is not None
        for i in range(0, len(d), _TERMS):
            block = d[i : i + _TERMS]
            right = limbs(block, self._right)
            left = right if weight is None else limbs(block * weight[i : i + _TERMS, None], self._left)
            for a in range(2):
                for b in range(2):
                    if weight is None and a > b:
                        continue
                    self._sums[2 * a + b] += (left[a].T @ right[b]).astype(np.int64)
            self._pending += 1
            if self._pending == _CHUNKS:
                self._normalise()

    def merge(self, other: Gram) -> None:
        """Take in the sums of another part, made with the same bounds."""
        self._normalise()
        # The carries of two normalised sums leave room for one that is not.
        self._sums += other._sums
        self._carry += other._carry
        self._weighted |= other._weighted
        self._normalise()

    def covariance(self, weight: int) -> np.ndarray:
        """The sums over the total weight (exact, in units of 2**-1126), float64 of shape (m, m), rounded once."""
        self._normalise()
        parts = (self._carry.astype(object) << _CARRY_BITS) + self._sums
        high, middle, other, low = parts
        if not self._weighted:
            other = middle.T
        total = (high << (2 * LIMB_BITS)) + ((middle + other) << LIMB_BITS) + low
        m = len(total)
        left = self._left if self._weighted else self._right
        out = np.empty((m, m))
        for i in range(m):
            for j in range(i + 1):
                out[i, j] = out[j, i] = _quotient(
                    [
                        (int(total[i, j]), int(left[i]) + int(self._right[j]) - 2 * GRID_BITS),
                        (int(total[j, i]), int(left[j]) + int(self._right[i]) - 2 * GRID_BITS),
                    ],
                    weight,
                )
        return out

    def _normalise(self) -> None:
        """Move all but the low bits of the sums to the carries."""
        self._carry += self._sums >> _CARRY_BITS
        self._sums &= (1 << _CARRY_BITS) - 1
        self._pending = 0


def project(d: np.ndarray, components: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Project rows: sum over features of d_j * c_ij, the same bits everywhere.

    A row is rounded to 2**-42 of the power of two above its largest entry, so the result errs by at most m 2**-43 of
    that entry. Features are taken 1024 at a time, and these partial results added in order.

    Parameters
    ----------
    d : ndarray of float64 of shape (n, m)
    components : pair of ndarray of float64 of shape (p, m)
        Limbs of numbers c of magnitude at most 1, multiples of 2**-42: ``limbs(on_grid(c), 0)``.

    Returns
    -------
    ndarray of float64 of shape (n, p)
    """
    exponent = np.frexp(np.abs(d).max(axis=1, initial=0.0))[1][:, None]
    out = np.zeros((len(d), len(components[0])))
    for j in range(0, d.shape[1], _TERMS):
        high, low = limbs(d[:, j : j + _TERMS], exponent)
        top, bottom = (limb[:, j : j + _TERMS] for limb in components)
        cross = high @ bottom.T + low @ top.T
        out += (high @ top.T + cross * 2.0**-LIMB_BITS) + (low @ bottom.T) * 2.0**-GRID_BITS
    scaled: np.ndarray = np.ldexp(out, exponent - 2 * LIMB_BITS)
    return scaled


def on_grid(components: np.ndarray) -> np.ndarray:
    """Components rounded to multiples of 2**-42."""
    return np.rint(components * 2.0**GRID_BITS) * 2.0**-GRID_BITS


def limbs(x: np.ndarray, exponent: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """Integers (high, low) with x ~ (high * 2**21 + low) * 2**(exponent - 42), for |x| <= 2**exponent."""
    z = np.rint(np.ldexp(x, GRID_BITS - np.asarray(exponent)))
    high = np.rint(z * 2.0**-LIMB_BITS)
    return high, z - high * 2.0**LIMB_BITS


def _quotient(terms: list[tuple[int, int]], weight: int) -> float:
    """The mean of two numbers n * 2**e over a weight, rounded once."""
    lowest = min(e for _, e in terms)
    total = sum(n << (e - lowest) for n, e in terms)
    shift = lowest - 1 - UNIT_EXPONENT
    return (total << shift) / weight if shift >= 0 else total / (weight << -shift)
