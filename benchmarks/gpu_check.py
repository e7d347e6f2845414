"""Exact labels and sums, by an implementation that is none of the contenders': all that is timed is held against it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gpu_contenders import Data, Fit, host, taken

#: Rows whose labels are compared with D to every centroid, beside the check of all rows.
SAMPLE = 512
#: Values of float64 that the check holds at a time.
BLOCK_VALUES = 1 << 26
#: gpukm reports an exact sum over exact labels, so that only the rounding of the check may show.
INERTIA_TOLERANCE = 1e-9


def definition(x: Any, c: Any) -> Any:
    """D of every row (m, d) to every centroid (k, d), float64 (m, k), as gpukm/backends/base.py defines it."""
    x, c = double(x), double(c)
    lanes = zeros_like(x, (len(x), len(c), 8))
    for first in range(0, x.shape[1], 8):
        difference = x[:, None, first : first + 8] - c[None, :, first : first + 8]
        lanes[:, :, : difference.shape[2]] += difference * difference
    l0, l1, l2, l3, l4, l5, l6, l7 = (lanes[:, :, i] for i in range(8))
    return ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))


def exact_labels(x: Any, c: Any) -> np.ndarray:
    """Nearest centroid of each row by :func:`definition`, ties to the lowest, int64 (n,).

    A matrix product in float64 settles the rows whose two smallest scores lie further apart than rounding, of the
    product and of D, can explain; D decides the others.
    """
    n, d = x.shape
    k, wide = len(c), double(c)
    half = 0.5 * (wide * wide).sum(1)
    reach = math.sqrt(2 * float(half.max()))
    found, step = np.empty(n, np.int64), max(1, BLOCK_VALUES // k)
    for first in range(0, n, step):
        rows = double(x[first : first + step])
        scores = half[None, :] - rows @ wide.T
        best = scores.argmin(1)
        if k > 1:
            number = numbers_like(scores, len(rows))
            least = scores[number, best] + 0.0
            scores[number, best] = math.inf
            gap = scores[number, scores.argmin(1)] - least
            norms = (rows * rows).sum(1) ** 0.5
            open_ = host(~(gap > 16 * (d + 16) * 2.0**-53 * (norms + reach) ** 2)).nonzero()[0]
            best = host(best).copy()
            each = max(1, BLOCK_VALUES // (8 * k))
            for at in range(0, len(open_), each):
                places = open_[at : at + each]
                best[places] = host(definition(taken(rows, places), wide).argmin(1))
        found[first : first + step] = host(best)
    return found


def expected(x: Any, c: Any) -> np.ndarray:
    """:func:`exact_labels`, held against :func:`definition` on rows spread over all."""
    found = exact_labels(x, c)
    sample = np.unique(np.linspace(0, len(found) - 1, SAMPLE).astype(np.int64))
    each = max(1, BLOCK_VALUES // (8 * len(c)))
    for at in range(0, len(sample), each):
        places = sample[at : at + each]
        if not np.array_equal(host(definition(taken(x, places), c).argmin(1)), found[places]):
            raise AssertionError("the check contradicts itself")
    return found


def total(x: Any, c: Any, labels: np.ndarray) -> float:
    """Sum of squared distances to the labelled centroids, in float64."""
    wide, step, parts = double(c), max(1, BLOCK_VALUES // x.shape[1]), []
    for first in range(0, len(labels), step):
        difference = double(x[first : first + step]) - taken(wide, labels[first : first + step])
        parts.append(float((difference * difference).sum()))
    return math.fsum(parts)


def judged(data: Data, fit: Fit, ours: bool) -> tuple[str | None, float]:
    """What is wrong with a fit, if anything, and its inertia over all rows."""
    x, c = data.x, host(fit.centroids)
    c = c.astype(x.dtype) if isinstance(x, np.ndarray) else data.start.new_tensor(c)
    labels = expected(x, c)
    inertia = total(x, c, labels)
    if ours:
        assert fit.inertia is not None
        if not np.array_equal(host(fit.labels), labels):
            return f"{(host(fit.labels) != labels).sum():,} labels are wrong", inertia
        if abs(fit.inertia - inertia) > INERTIA_TOLERANCE * inertia:
            return f"it reports inertia {fit.inertia!r}, it is {inertia!r}", inertia
    return None, inertia


def double(array: Any) -> Any:
    """The array in float64, where it is."""
    return array.double() if hasattr(array, "double") else array.astype(np.float64)


def zeros_like(array: Any, shape: tuple[int, ...]) -> Any:
    """Zeros of the same library, place and type."""
    return np.zeros(shape, array.dtype) if isinstance(array, np.ndarray) else array.new_zeros(shape)


def numbers_like(array: Any, n: int) -> Any:
    """0 .. n-1, of the same library and place."""
    if isinstance(array, np.ndarray):
        return np.arange(n)
    import torch

    return torch.arange(n, device=array.device)
