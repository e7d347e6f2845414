"""Eigenvectors of a symmetric matrix with the same bits on every machine."""

from __future__ import annotations

import math

import numpy as np

_MOST_SWEEPS = 40
# Entries off the diagonal that count as zero, relative to a power of two above the largest entry.
_ZERO = 2.0**-56


def eigh(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, largest first, and eigenvectors of a real symmetric matrix.

    Jacobi's method: each sweep rotates every pair of rows once, in the fixed order of a round-robin tournament whose
    rounds are of disjoint pairs (Brent and Luk, "The solution of singular-value and symmetric eigenvalue problems on
    multiprocessor arrays", 1985), so that a round is elementwise arithmetic on whole rows. Only IEEE sums, products,
    quotients and square roots are used: no BLAS or LAPACK, whose bits differ between versions and threads.

    Parameters
    ----------
    matrix : ndarray of float64 of shape (m, m)
        Symmetric, finite.

    Returns
    -------
    values : ndarray of float64 of shape (m,)
        In descending order.
    vectors : ndarray of float64 of shape (m, m)
        Row i belongs to value i; its entry of largest magnitude (the first of them) is positive.
    """
    m = len(matrix)
    top = float(np.abs(matrix).max(initial=0.0))
    # A power of two, so that scaling is exact and no square over- or underflows.
    scale = 2.0 ** math.frexp(top)[1] if top else 1.0
    a, v = matrix / scale, np.eye(m)
    rounds = _tournament(m)
    for _ in range(_MOST_SWEEPS):
        off = np.abs(a)
        np.fill_diagonal(off, 0.0)
        if float(off.max(initial=0.0)) <= _ZERO:
            break
        for p, q in rounds:
            a = _rotate(a, v, p, q)
    values = np.diagonal(a)
    order = np.argsort(-values, kind="stable")
    vectors = v[order]
    largest = np.argmax(np.abs(vectors), axis=1)
    vectors[vectors[np.arange(m), largest] < 0] *= -1.0
    return values[order] * scale, vectors


def _rotate(a: np.ndarray, v: np.ndarray, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Make a[p, q] zero by rotating rows p with rows q of ``a`` and ``v``, and columns of ``a``."""
    between = a[p, q]
    if (small := np.abs(between) <= _ZERO).any():
        # Late sweeps, and spectra that fall off quickly, leave few pairs to rotate.
        p, q, between = p[~small], q[~small], between[~small]
    if not len(p):
        return a
    with np.errstate(over="ignore"):
        theta = (a[q, q] - a[p, p]) / (2.0 * between)
        t = np.where(theta < 0, -1.0, 1.0) / (np.abs(theta) + np.sqrt(theta * theta + 1.0))
    c = (1.0 / np.sqrt(t * t + 1.0))[:, None]
    s = t[:, None] * c
    _mix(v, p, q, c, s)
    _mix(a, p, q, c, s)
    a = np.ascontiguousarray(a.T)
    _mix(a, p, q, c, s)
    # What rotation makes zero but for rounding is zero, and the matrix stays symmetric where it is read.
    a[p, q] = a[q, p] = 0.0
    return a


def _mix(rows: np.ndarray, p: np.ndarray, q: np.ndarray, c: np.ndarray, s: np.ndarray) -> None:
    """rows[p], rows[q] = c rows[p] - s rows[q], s rows[p] + c rows[q]."""
    first, second = rows[p], rows[q]
    rows[p] = first * c - second * s
    first *= s
    second *= c
    first += second
    rows[q] = first


def _tournament(m: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rounds of disjoint pairs that together hold every pair p < q once (circle method)."""
    n = m + m % 2
    players = list(range(n))
    rounds = []
    for _ in range(n - 1):
        pairs = [sorted((players[i], players[n - 1 - i])) for i in range(n // 2)]
        real = sorted(pair for pair in pairs if pair[1] < m)
        if real:
            p, q = np.array(real).T
            rounds.append((p, q))
        players = [players[0], players[-1], *players[1:-1]]
    return rounds
