"""D(x, c) on the device, to the bit: what decides wherever screening leaves anything open.

Launch with ``enable_fp_fusion=False``: a fused multiply-add would round once where the definition rounds twice.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def squared_distances(
    x, c, rows, centroids, row_there, centroid_there, D, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):
    """D of ``rows`` (BLOCK_N,) of x (N, D) to ``centroids`` (BLOCK_K,) of c (K, D), float64 (BLOCK_N, BLOCK_K).

    Lane l adds the squares of features l, l + 8, ... from +0; one that is not there adds +0, which changes no bit.
    """
    lanes = tl.arange(0, 8)
    sums = tl.zeros((BLOCK_N, BLOCK_K, 8), tl.float64)
    for first in range(0, D, 8):
        f = first + lanes
        there = f < D
        a = tl.load(x + rows.to(tl.int64)[:, None] * D + f[None, :], row_there[:, None] & there[None, :], 0.0)
        b = tl.load(c + centroids.to(tl.int64)[:, None] * D + f[None, :], centroid_there[:, None] & there[None, :], 0.0)
        difference = a.to(tl.float64)[:, None, :] - b.to(tl.float64)[None, :, :]
        sums += difference * difference
    # ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))
    low, high = tl.split(tl.permute(tl.reshape(sums, (BLOCK_N, BLOCK_K, 2, 4)), (0, 1, 3, 2)))
    fours = low + high
    low, high = tl.split(tl.permute(tl.reshape(fours, (BLOCK_N, BLOCK_K, 2, 2)), (0, 1, 3, 2)))
    even, odd = tl.split(low + high)
    return even + odd
