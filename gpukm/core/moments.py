"""Order-free sums of many columns by group, of bounded precision and therefore fast."""

from __future__ import annotations

import numpy as np

LIMB_BITS = 30
N_LIMBS = 3


class GroupSums:
    """Sums of bounded terms per column and group; a commutative monoid under addition of ``limbs``.

    A term t of a column with exponent e (|t| <= 2**e) counts as ``rint(t * 2**(90 - e))``: one integer in three limbs
    of 30 bits. The quantisation is 2**-91 of the largest possible term, so an outlier 2**30 times farther than the
    rest leaves squared differences 30 bits. A limb's total stays below 2**63 for 2**32 rows.

    Parameters
    ----------
    n_groups : int
    exponents : ndarray of int of shape (n_columns,)
    """

    def __init__(self, n_groups: int, exponents: np.ndarray) -> None:
        self.exponents = np.asarray(exponents, dtype=np.int32)
        self.limbs = np.zeros((N_LIMBS, len(self.exponents), n_groups), dtype=np.int64)

    def add(self, columns: slice, terms: np.ndarray, groups: np.ndarray, starts: np.ndarray) -> None:
        """Add terms (n_columns_here, n) whose runs ``starts`` belong to ``groups``; overwrites ``terms``.

        At most 2**22 rows a call, so that float64 sums of limbs are exact.
        """
        rest = np.multiply(terms, np.ldexp(1.0, LIMB_BITS - self.exponents[columns])[:, None], out=terms)
        for limb in range(N_LIMBS):
            whole = np.rint(rest)
            self.limbs[limb][columns, groups] += np.add.reduceat(whole, starts, axis=1).astype(np.int64)
            if limb + 1 < N_LIMBS:
                rest -= whole
                rest *= 2.0**LIMB_BITS

    def totals(self) -> np.ndarray:
        """Sums as float64 of shape (n_groups, n_columns)."""
        # Carry so that the lower limbs are in [0, 2**30): the top two then hold more than 53 bits of any large sum.
        high, middle, low = self.limbs
        middle = middle + (low >> LIMB_BITS)
        low = low & ((1 << LIMB_BITS) - 1)
        high = high + (middle >> LIMB_BITS)
        middle = middle & ((1 << LIMB_BITS) - 1)
        value = high.astype(np.float64) + (middle * 2.0**LIMB_BITS + low) * 2.0 ** (-2 * LIMB_BITS)
        return np.ldexp(value, self.exponents[:, None] - LIMB_BITS).T.copy()
