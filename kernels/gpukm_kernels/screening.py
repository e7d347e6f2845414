"""The arithmetic of screens on GPUs: what each mode may lose. kernels/README.md derives the bounds.

Matrix units truncate where they add (Fasi et al., "Numerical behavior of NVIDIA tensor cores", PeerJ CS 2021), by less
than 2^-22 of the largest term. Products of values as they are rounded here are exact: of float32 they take ten bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """An arithmetic of screening.

    Attributes
    ----------
    name : str
    rounding : str
        What x' and c' are rounded to: float16, bfloat16, tf32 or float32.
    precision : str
        What a Triton product is asked for: ieee or tf32.
    unit : float
        Largest relative error of an addition, of the sum so far.
    """

    name: str
    rounding: str
    precision: str
    unit: float

    @property
    def stored(self) -> str:
        """The type of x' and c' as they are multiplied."""
        return "float32" if self.rounding == "tf32" else self.rounding


#: Features of a stored vector come in multiples of this, which lets Triton copy them in wide pieces.
PAD = 16
PLAIN = Mode("ieee", "float32", "ieee", 2.0**-24)
_MODES = {
    "ieee": PLAIN,
    "tf32": Mode("tf32", "tf32", "tf32", 2.0**-22),
    "fp16": Mode("fp16", "float16", "ieee", 2.0**-22),
    "bf16": Mode("bf16", "bfloat16", "ieee", 2.0**-22),
}
#: Compute capabilities whose matrix units are known; an adversarial test on each is to confirm the constants.
_KNOWN = ((8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0))
#: KiB of shared memory of a processor, by compute capability; a block can have one less.
SHARED_KIB = {(8, 0): 164, (8, 6): 100, (8, 7): 164, (8, 9): 100, (9, 0): 228, (10, 0): 228}


def mode(name: str, capability: tuple[int, int]) -> Mode:
    """The arithmetic ``name`` on a device; plain float32 on one whose errors are not known."""
    return _MODES[name] if capability in _KNOWN else PLAIN


#: x' reaches to this power of two at most: the squares of float16 stay within float32, and few values lie among its
#: denormals.
_TOP = 15


def exponent_of(radius: float) -> int:
    """The power of two that x' is scaled by, for rows that reach ``radius`` from the centre."""
    return max(-1000, min(1000, _TOP - math.frexp(radius)[1])) if radius > 0 else 0


def errors(mode: Mode, d: int, exponent: int, index_bits: int = 0) -> tuple[float, float, float, float]:
    """What the error of a score is made of: by product of norms, by the centroid's and the row's square, and at least.

    Parameters
    ----------
    mode : Mode
    d : int
        Features.
    exponent : int
        As :func:`exponent_of` gave it.
    index_bits : int
        Lowest bits of a score that are replaced by a place.
    """
    exact = (d / 8 + 8) * 2.0**-53
    # Sums begin with half a centroid's square, of which every addition may lose its part.
    added = (d + 16) * mode.unit
    # A score is below |c|^2 / 2 + |x| |c|.
    place = 2.0 ** (index_bits - 23) if index_bits else 0.0
    return (
        added + place,
        added / 2 + 8 * 2.0**-24 + 2 * exact + place / 2,
        2 * exact,
        # Kept within float32: nothing is ruled out by then.
        min((d + 8) * (8 * 2.0**-126 + math.ldexp(2.0**-1022, min(2 * exponent, 1900))), 2.0**120),
    )
