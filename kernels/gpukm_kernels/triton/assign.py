"""Exact assignment: a screen in fast arithmetic that rules centroids out by proved bounds, and D for what it leaves.

A score is s = |c'|^2 / 2 - x'.c', with x' = (x - m) 2^e and c' likewise in the type of the mode; the truth is half the
squared distance less |x - m|^2 / 2. A row is settled where the upper bound of one centroid's score lies strictly below
the lower bounds of all others. The others are listed, swept once more, and decided by D among the centroids that the
row's upper bound does not exclude. kernels/README.md derives the bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from gpukm_kernels.triton.exact import squared_distances


@dataclass(frozen=True)
class Mode:
    """An arithmetic of screening.

    Attributes
    ----------
    dtype : torch.dtype
        Of x' and c' as they are multiplied.
    precision : str
        What ``tl.dot`` is asked for.
    product : float
        Largest relative error of a product of two values as they are stored.
    unit : float
        Largest relative error of an addition, of the sum so far.
    """

    dtype: torch.dtype
    precision: str
    product: float
    unit: float


_PLAIN = Mode(torch.float32, "ieee", 0.0, 2.0**-24)
#: By name, on the compute capabilities that are listed. Tensor cores truncate where they add (Fasi et al., "Numerical
#: behavior of NVIDIA tensor cores", PeerJ CS 2021), by less than 2^-22 of the largest term; tf32 may truncate both
#: operands to ten bits. To be confirmed by an adversarial test on each.
_MODES = {
    "ieee": _PLAIN,
    "tf32": Mode(torch.float32, "tf32", 2.0**-8, 2.0**-22),
    "fp16": Mode(torch.float16, "ieee", 0.0, 2.0**-22),
}
_CAPABILITIES = ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0))


def mode(name: str, capability: tuple[int, int]) -> Mode:
    """The arithmetic ``name`` on a device; plain float32 on one whose errors are not known."""
    return _MODES[name] if capability in _CAPABILITIES else _PLAIN


@dataclass(frozen=True)
class Screened:
    """Vectors as a mode takes them.

    Attributes
    ----------
    values : tensor of shape (n, D)
    norms : tensor of float32 of shape (n,)
        At least |x'|.
    residuals : tensor of float32 of shape (n,)
        At least the distance of x' from ``values``.
    """

    values: torch.Tensor
    norms: torch.Tensor
    residuals: torch.Tensor


def screened(x: torch.Tensor, center: torch.Tensor, exponent: int, mode: Mode) -> Screened:
    """Round (x - center) 2^exponent, x (n, D) float32 or float64, to the mode's type.

    ``center`` (D,) float64 is representable in the type of x, and no |x - center| 2^exponent is above one.
    """
    return _rounded(_centred(x, center, exponent), mode)


def _centred(x: torch.Tensor, center: torch.Tensor, exponent: int) -> torch.Tensor:
    """(x - center) 2^exponent, float64 of shape (n, D)."""
    return torch.ldexp(x.to(torch.float64) - center, torch.tensor(exponent, device=x.device))


def _rounded(true: torch.Tensor, mode: Mode) -> Screened:
    """Vectors of float64, of shape (n, D), in the mode's type."""
    values = true.to(mode.dtype)
    # In float64 a square, a sum and a root err by far less than this.
    grow = 1 + (true.shape[1] + 8) * 2.0**-52
    rest = true - values.to(torch.float64)
    norms, residuals = ((v * v).sum(dim=1).sqrt() * grow for v in (true, rest))
    return Screened(values, _upward(norms), _upward(residuals))


def _upward(v: torch.Tensor) -> torch.Tensor:
    """At least v >= 0, in float32."""
    return (v * (1 + 2.0**-22)).to(torch.float32) + 2.0**-126


@triton.jit
def _scores(
    values, c_values, half_norms, rows, row_there, start, D, K,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores of a block of rows against centroids start .. start + BLOCK_K, float32, inf where there is none."""
    columns = start + tl.arange(0, BLOCK_K)
    column_there = columns < K
    products = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for first in range(0, D, BLOCK_D):
        f = first + tl.arange(0, BLOCK_D)
        there = f < D
        a = tl.load(values + rows.to(tl.int64)[:, None] * D + f[None, :], row_there[:, None] & there[None, :], 0.0)
        b = tl.load(
            c_values + columns.to(tl.int64)[None, :] * D + f[:, None], column_there[None, :] & there[:, None], 0.0
        )
        products = tl.dot(a, b, products, input_precision=PRECISION)
    half = tl.load(half_norms + columns, column_there, float("inf"))
    return half[None, :] - products


@triton.jit
def _bound(norms, residuals, largest, residual, by_product, by_norm, by_row, tiny):
    """Error of a score at most, per row: rounding of operands, the sum, D itself, underflow; and a sixteenth more."""
    reach = norms + residuals
    c_reach = largest + residual
    small = by_product * reach * c_reach + by_norm * largest * largest + by_row * reach * reach
    small += tiny * (1 + reach) * (1 + c_reach)
    return 1.0625 * small + (1 + 2.0**-20) * (residuals * largest + reach * residual)


@triton.jit(do_not_specialize=["N", "K"])
def _screen(
    values, norms, residuals, c_values, half_norms, largest, c_residual, labels, threshold, listed, n_listed,
    by_product, by_norm, by_row, tiny, N, K, D,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program labels BLOCK_N rows; those it cannot settle go to ``listed``, with the upper bound of their best."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = rows < N
    norm, rest_norm = tl.load(norms + rows, there, 0.0), tl.load(residuals + rows, there, 0.0)
    inf = float("inf")
    upper = tl.full((BLOCK_N,), inf, tl.float32)
    lower, rest = upper, upper
    label = tl.zeros((BLOCK_N,), tl.int32)
    for tile in range(tl.cdiv(K, BLOCK_K)):
        s = _scores(
            values, c_values, half_norms, rows, there, tile * BLOCK_K, D, K, BLOCK_N, BLOCK_K, BLOCK_D, PRECISION
        )
        e = _bound(
            norm, rest_norm, tl.load(largest + tile), tl.load(c_residual + tile), by_product, by_norm, by_row, tiny
        )
        columns = tl.arange(0, BLOCK_K)
        least = tl.min(s, 1)
        at = tl.argmin(s, 1, tie_break_left=True).to(tl.int32)
        second = tl.min(tl.where(columns[None, :] == at[:, None], inf, s), 1)
        better = least + e < upper
        # The loser of the two bests joins the others.
        rest = tl.minimum(rest, tl.where(better, tl.minimum(lower, second - e), least - e))
        label = tl.where(better, tile * BLOCK_K + at, label)
        lower = tl.where(better, least - e, lower)
        upper = tl.where(better, least + e, upper)
    tl.store(labels + rows, label, there)
    tl.store(threshold + rows, upper, there)
    unsettled = there & ~(upper < rest)
    count = tl.sum(unsettled.to(tl.int32), 0)
    if count > 0:
        # Their order in the list is of no matter: each is decided by itself.
        place = tl.atomic_add(n_listed, count) + tl.cumsum(unsettled.to(tl.int32), 0) - 1
        tl.store(listed + place, rows, unsettled)


@triton.jit(do_not_specialize=["K"])
def _decide(
    x, c, values, norms, residuals, c_values, half_norms, largest, c_residual, order, labels, threshold, listed,
    n_listed, by_product, by_norm, by_row, tiny, K, D,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Programs share the list; each takes BLOCK_N rows at a time, and D decides among what their thresholds leave."""
    total = tl.load(n_listed)
    inf = float("inf")
    for block in range(tl.program_id(0), tl.cdiv(total, BLOCK_N), tl.num_programs(0)):
        places = block * BLOCK_N + tl.arange(0, BLOCK_N)
        there = places < total
        rows = tl.load(listed + places, there, 0)
        norm, rest_norm = tl.load(norms + rows, there, 0.0), tl.load(residuals + rows, there, 0.0)
        limit = tl.load(threshold + rows, there, -inf)
        best = tl.full((BLOCK_N,), inf, tl.float64)
        label = tl.full((BLOCK_N,), 2147483647, tl.int32)
        for tile in range(tl.cdiv(K, BLOCK_K)):
            s = _scores(
                values, c_values, half_norms, rows, there, tile * BLOCK_K, D, K, BLOCK_N, BLOCK_K, BLOCK_D, PRECISION
            )
            e = _bound(
                norm, rest_norm, tl.load(largest + tile), tl.load(c_residual + tile), by_product, by_norm, by_row, tiny
            )
            columns = tile * BLOCK_K + tl.arange(0, BLOCK_K)
            possible = ~(s > (limit + e)[:, None]) & there[:, None] & (columns < K)[None, :]
            if tl.max(tl.max(possible.to(tl.int32), 1), 0) > 0:
                index = tl.load(order + columns, columns < K, 2147483647)
                d = squared_distances(x, c, rows, index, there, columns < K, D, BLOCK_N, BLOCK_K)
                d = tl.where(possible, d, inf)
                least = tl.min(d, 1)
                first = tl.min(tl.where(possible & (d == least[:, None]), index[None, :], 2147483647), 1)
                label = tl.where(least < best, first, tl.where(least == best, tl.minimum(first, label), label))
                best = tl.minimum(least, best)
        tl.store(labels + rows, label, there)


@dataclass(frozen=True)
class Prepared:
    """Centroids for :func:`assign`, sorted by their norms so that those of a tile share a bound."""

    centroids: torch.Tensor
    order: torch.Tensor
    screened: Screened
    half_norms: torch.Tensor
    largest: torch.Tensor
    residual: torch.Tensor
    mode: Mode
    block: int


def prepare(centroids: torch.Tensor, center: torch.Tensor, exponent: int, mode: Mode, block: int = 64) -> Prepared:
    """Pack centroids (K, D), in the dtype of the rows, for tiles of ``block``."""
    true = _centred(centroids, center, exponent)
    square = (true * true).sum(dim=1)
    order = torch.argsort(square, stable=True).to(torch.int32)
    sorted_ = _rounded(true[order.long()], mode)
    tiles = math.ceil(len(centroids) / block)
    pad = (0, tiles * block - len(centroids))
    largest, residual = (
        torch.nn.functional.pad(v, pad).view(tiles, block).amax(dim=1).contiguous()
        for v in (sorted_.norms, sorted_.residuals)
    )
    half = (0.5 * square[order.long()]).to(torch.float32)
    return Prepared(centroids, order, sorted_, half, largest, residual, mode, block)


def assign(x: torch.Tensor, rows: Screened, prepared: Prepared, exponent: int) -> tuple[torch.Tensor, int]:
    """Label rows x (N, D): argmin_j D(x_i, c_j), ties to the lowest j.

    Returns
    -------
    labels : tensor of int32 of shape (N,)
    rechecked : int
        Rows that D had to decide.
    """
    (n, d), k = x.shape, len(prepared.centroids)
    place = torch.empty(n, dtype=torch.int32, device=x.device)
    threshold = torch.empty(n, dtype=torch.float32, device=x.device)
    listed = torch.empty(n, dtype=torch.int64, device=x.device)
    n_listed = torch.zeros(1, dtype=torch.int32, device=x.device)
    mode = prepared.mode
    exact = (d / 8 + 8) * 2.0**-53
    bounds = (
        # Two roundings to float32 cover x' and c' where they are stored as such; their residuals are counted apart.
        (d + 16) * mode.unit + mode.product,
        8 * 2.0**-24 + 2 * exact,
        2 * exact,
        8 * (d + 8) * 2.0**-126 + (d + 8) * math.ldexp(2.0**-1022, min(2 * exponent, 1900)),
    )
    block_d = 16 if d <= 16 else 32 if d <= 32 else 64
    common = {"BLOCK_K": prepared.block, "BLOCK_D": block_d, "PRECISION": mode.precision, "enable_fp_fusion": False}
    c = prepared.screened
    _screen[(triton.cdiv(n, 64),)](
        rows.values, rows.norms, rows.residuals, c.values, prepared.half_norms, prepared.largest, prepared.residual,
        place, threshold, listed, n_listed, *bounds, n, k, d, BLOCK_N=64, **common,
    )  # fmt: skip
    labels = prepared.order[place.long()]
    _decide[(min(triton.cdiv(n, 16), 1024),)](
        x, prepared.centroids, rows.values, rows.norms, rows.residuals, c.values, prepared.half_norms,
        prepared.largest, prepared.residual, prepared.order, labels, threshold, listed, n_listed, *bounds, k, d,
        BLOCK_N=16, **common,
    )  # fmt: skip
    return labels, int(n_listed)
