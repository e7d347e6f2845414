"""Sums of float64 values that do not depend on the order of the terms.

A float64 is an integer multiple of 2**-1126 (the unit used here), so a sum of floats is one Python integer:
adding integers is associative, and a batch, a thread, a shard and a worker may add in any order.
The extraction of fixed windows of bits follows Demmel and Nguyen, "Fast Reproducible Floating-Point
Summation" (ARITH 2013), with windows at absolute positions, so that nothing about the data must be known first.
"""

from __future__ import annotations

import math

import numpy as np

UNIT_EXPONENT = -1126
_WINDOW_BITS = 30
# q < 2**30 and at most 2**21 rows keep a float64 sum of window values below 2**53, hence exact.
_CHUNK_ROWS = 1 << 21


def exact_sum(values: np.ndarray, axis: int | None = None) -> int | np.ndarray:
    """Exact sum of finite float64 values, in units of 2**-1126.

    Parameters
    ----------
    values : ndarray of shape (n,) or (n, m)
        Finite; converted to float64.
    axis : None or 0
        None sums everything to one Python int; 0 sums columns.

    Returns
    -------
    int or object ndarray of int of shape (m,)
        Add these to merge partial sums; :func:`to_float` rounds once.
    """
    values = np.asarray(values, dtype=np.float64)
    if axis is None:
        return int(_windows(values.reshape(-1, 1), lambda q: q.sum(axis=0), 1)[0])
    return _windows(values.reshape(len(values), -1), lambda q: q.sum(axis=0), int(np.prod(values.shape[1:])))


def exact_sum_by(values: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Exact sums of ``values`` (n,) per label, an object ndarray of int of shape (k,) in units of 2**-1126."""
    values = np.asarray(values, dtype=np.float64)
    total = np.zeros(k, dtype=object)
    for start in range(0, len(values), _CHUNK_ROWS):
        part = labels[start : start + _CHUNK_ROWS]
        total = total + _windows(
            values[start : start + _CHUNK_ROWS, None],
            lambda q, part=part: np.bincount(part, weights=q[:, 0], minlength=k),
            k,
        )
    return total


def to_float(total: int) -> float:
    """Round an exact sum to float64, half to even."""
    return int(total) / (1 << -UNIT_EXPONENT)


def to_floats(totals: np.ndarray) -> np.ndarray:
    """Round an array of exact sums to float64, half to even, keeping its shape."""
    flat = [to_float(t) for t in np.asarray(totals, dtype=object).ravel()]
    return np.array(flat, dtype=np.float64).reshape(np.shape(totals))


def fold(values: np.ndarray) -> float:
    """Sum float64 values over a fixed binary tree: pad with zeros to a power of two, then add halves."""
    size = 1 << max(0, (len(values) - 1).bit_length())
    tree = np.zeros(size, dtype=np.float64)
    tree[: len(values)] = values
    while len(tree) > 1:
        half = len(tree) // 2
        tree = tree[:half] + tree[half:]
    return float(tree[0])


def in_lanes(terms: np.ndarray) -> np.ndarray:
    """Sum each row of terms (n, m) as D sums its squares: eight lanes, then a fixed tree; float64 of shape (n,)."""
    lanes = np.zeros((8, len(terms)))
    for start in range(0, terms.shape[1], 8):
        part = terms[:, start : start + 8]
        lanes[: part.shape[1]] += part.T
    pairs = lanes[:4] + lanes[4:]
    halves = pairs[:2] + pairs[2:]
    return np.asarray(halves[0] + halves[1])


def row_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """D between rows of equal index of two arrays (n, m)."""
    difference = a.astype(np.float64) - b.astype(np.float64)
    return in_lanes(difference * difference)


def _windows(values: np.ndarray, reduce, width: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Split values into 30-bit windows of absolute position, reduce each exactly, and put them together."""
    total = np.zeros(width, dtype=object)
    for start in range(0, len(values), _CHUNK_ROWS):
        rest = values[start : start + _CHUNK_ROWS]
        top = float(np.max(np.abs(rest), initial=0.0))
        if not math.isfinite(top):
            raise ValueError("exact sums need finite values")
        if top == 0.0:
            continue
        grid = _WINDOW_BITS * -((_WINDOW_BITS - math.frexp(top)[1]) // _WINDOW_BITS)
        while True:
            grid = max(grid, UNIT_EXPONENT)
            # Towards zero, so that putting a window aside never overflows; in two steps where 2**-grid would.
            half = grid // 2
            q = np.trunc(np.ldexp(np.ldexp(rest, -half), half - grid))
            part = reduce(q)
            if part.any():
                total = total + (part.astype(np.int64).astype(object) << (grid - UNIT_EXPONENT))
            rest = rest - np.ldexp(q, grid)
            if not rest.any():
                break
            grid -= _WINDOW_BITS
    return total
