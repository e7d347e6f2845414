"""log(1 + x) with the same bits on every machine: only IEEE additions, products and quotients in a fixed order.

The algorithm is that of FreeBSD's msun ``s_log1p.c`` (Sun Microsystems, 1993): with u = 1 + x = 2**k (1 + f),
sqrt(2)/2 < 1 + f < sqrt(2), and s = f / (2 + f), ``log(1 + f) = f - (f**2/2 - s (f**2/2 + R(s**2)))`` where R is a
Remez polynomial of degree 14, plus ``k log 2`` in two parts and a correction for the rounding of 1 + x.
Its error stays below 1 ulp.
"""

from __future__ import annotations

import numpy as np

_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_HALF_SQRT2_BITS = np.array(float.fromhex("0x1.6a09e667f3bcdp-1")).view(np.int64)[()]
# Lp1 .. Lp7 of s_log1p.c.
_R = tuple(
    float.fromhex(text)
    for text in (
        "0x1.5555555555593p-1",
        "0x1.999999997fa04p-2",
        "0x1.2492494229359p-2",
        "0x1.c71c51d8e78afp-3",
        "0x1.7466496cb03dep-3",
        "0x1.39a09d078c69fp-3",
        "0x1.2f112df3e5244p-3",
    )
)
_BLOCK = 1 << 13


def log1p(x: np.ndarray) -> np.ndarray:
    """Natural logarithm of 1 + x, elementwise.

    Parameters
    ----------
    x : ndarray of float64
        Finite and above -1; NaN gives NaN.

    Returns
    -------
    ndarray of float64, of the same shape
        Within 1 ulp of the true value, and exactly x for abs(x) < 2**-54; keeps the sign of zero.
    """
    x = np.asarray(x, dtype=np.float64)
    flat = np.ascontiguousarray(x).reshape(-1)
    out = np.empty_like(flat)
    spare = np.empty((6, min(_BLOCK, len(flat))))
    for i in range(0, len(flat), _BLOCK):
        part = flat[i : i + _BLOCK]
        _log1p(part, out[i : i + _BLOCK], spare[:, : len(part)])
    return out.reshape(x.shape)


def _log1p(x: np.ndarray, out: np.ndarray, spare: np.ndarray) -> None:
    """One block that stays in the cache, as that of the six rows of scratch."""
    u, f, lost, s, z, k = spare
    np.add(x, 1.0, out=u)
    # What 1 + x lost in rounding (Knuth's two-sum): lost = (x - (u - 1)) + (1 - (u - (u - 1))).
    np.subtract(u, 1.0, out=s)
    np.subtract(x, s, out=lost)
    np.subtract(u, s, out=s)
    np.subtract(1.0, s, out=s)
    lost += s
    # u = 2**k m with sqrt(2)/2 <= m < sqrt(2), through the bits of the number.
    exponent = k.view(np.int64)
    np.subtract(u.view(np.int64), _HALF_SQRT2_BITS, out=exponent)
    exponent >>= 52
    np.left_shift(exponent, 52, out=s.view(np.int64))
    np.subtract(u.view(np.int64), s.view(np.int64), out=f.view(np.int64))
    f -= 1.0
    # Where k = 0, f takes all that was lost, and is x itself.
    np.multiply(lost, exponent == 0, out=s)
    f += s
    lost -= s
    lost /= u
    k[:] = exponent
    np.add(f, 2.0, out=s)
    np.divide(f, s, out=s)
    np.multiply(s, s, out=z)
    r = u
    np.multiply(z, _R[-1], out=r)
    for coefficient in _R[-2::-1]:
        r += coefficient
        r *= z
    half_square = z
    np.multiply(f, 0.5, out=half_square)
    half_square *= f
    # k ln2_high - ((f**2/2 - (s (f**2/2 + R) + (k ln2_low + lost))) - f)
    r += half_square
    r *= s
    np.multiply(k, _LN2_LOW, out=s)
    lost += s
    r += lost
    half_square -= r
    half_square -= f
    k *= _LN2_HIGH
    np.subtract(k, half_square, out=out)
    # The differences have made -0 into +0.
    np.copysign(out, x, out=out)
