"""Order-free sums on the device: each row adds integers to its cluster, so atomics in any order give the same bits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# Added and taken away again, it rounds |v| < 2^51 to an integer, half to even.
_ROUND = tl.constexpr(1.5 * 2.0**52)


@triton.jit
def _split(term):
    """High and low limbs of a term, |term| <= 2^82, as gpukm.core.stats.split makes them; int64."""
    high = (term * (2.0**-32) + _ROUND) - _ROUND
    low = (term - high * (2.0**32) + _ROUND) - _ROUND
    return high.to(tl.int64), low.to(tl.int64)


@triton.jit(do_not_specialize=["N"])
def _accumulate(
    x, w, labels, before, scales, w_scale, high, low, counts, w_high, w_low, n_moved, N, D,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, WEIGHTED: tl.constexpr, MOVED: tl.constexpr,
):  # fmt: skip
    """One program takes BLOCK_N rows through all features; with MOVED rows that changed also leave their old sums."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = rows < N
    label = tl.load(labels + rows, there, 0).to(tl.int64)
    old = label
    if MOVED:
        old = tl.load(before + rows, there, 0).to(tl.int64)
        there = there & (label != old)
    moved = tl.sum(there.to(tl.int32), 0)
    if moved == 0:
        return
    tl.atomic_add(n_moved, moved.to(tl.int64))
    one = tl.full((BLOCK_N,), 1, tl.int64)
    tl.atomic_add(counts + label, one, there)
    if MOVED:
        tl.atomic_add(counts + old, -one, there)
    if WEIGHTED:
        weight = tl.load(w + rows, there, 0.0)
        w_hi, w_lo = _split(weight * tl.load(w_scale))
        tl.atomic_add(w_high + label, w_hi, there)
        tl.atomic_add(w_low + label, w_lo, there)
        if MOVED:
            tl.atomic_add(w_high + old, -w_hi, there)
            tl.atomic_add(w_low + old, -w_lo, there)
    for first in range(0, D, BLOCK_D):
        f = first + tl.arange(0, BLOCK_D)
        both = there[:, None] & (f < D)[None, :]
        v = tl.load(x + rows[:, None] * D + f[None, :], both, 0.0).to(tl.float64)
        if WEIGHTED:
            v = weight[:, None] * v
        hi, lo = _split(v * tl.load(scales + f, f < D, 0.0)[None, :])
        to = label[:, None] * D + f[None, :]
        tl.atomic_add(high + to, hi, both)
        tl.atomic_add(low + to, lo, both)
        if MOVED:
            from_ = old[:, None] * D + f[None, :]
            tl.atomic_add(high + from_, -hi, both)
            tl.atomic_add(low + from_, -lo, both)


def accumulate(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    labels: torch.Tensor,
    before: torch.Tensor | None,
    scales: torch.Tensor,
    weight_scale: float,
    high: torch.Tensor,
    low: torch.Tensor,
    counts: torch.Tensor,
    weight_high: torch.Tensor | None = None,
    weight_low: torch.Tensor | None = None,
) -> int:
    """Add rows to the sums of their clusters, in place; return how many rows changed cluster.

    Parameters
    ----------
    x : tensor of float32 or float64 of shape (N, D)
    weight : tensor of float64 of shape (N,) or None
        None counts every row once; then the limbs of weights are not touched.
    labels, before : tensor of int32 of shape (N,)
        With ``before`` only rows whose label differs are added, and leave their old cluster.
    scales : tensor of float64 of shape (D,)
        Powers of two; a row adds w x 2^s as two limbs, ``high * 2**32 + low``.
    high, low : tensor of int64 of shape (K, D)
        Low limbs come in below 2^32, and are left for the caller to carry.
    counts, weight_high, weight_low : tensor of int64 of shape (K,)
    """
    n, d = x.shape
    moved = torch.zeros(1, dtype=torch.int64, device=x.device)
    # A number would be passed as float32.
    w_scale = torch.tensor([weight_scale], dtype=torch.float64, device=x.device)
    none = counts
    _accumulate[(triton.cdiv(n, 64),)](
        x, scales if weight is None else weight, labels, labels if before is None else before, scales, w_scale,
        high, low, counts, none if weight_high is None else weight_high, none if weight_low is None else weight_low,
        moved, n, d, BLOCK_N=64, BLOCK_D=min(64, triton.next_power_of_2(d)), WEIGHTED=weight is not None,
        MOVED=before is not None, enable_fp_fusion=False,
    )  # fmt: skip
    return int(moved)
