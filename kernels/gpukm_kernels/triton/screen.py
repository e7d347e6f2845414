"""A screen by the matrix units: rules centroids out by proved bounds, and lists what it leaves for D to decide.

A score is |c'|^2 / 2 - x'.c'; kernels/README.md derives the bounds. Its lowest bits are replaced by the centroid's
place in the tile, so that a minimum of numbers carries its place along.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _scores(
    a, values, c_values, half_norms, rows, row_there, start, PITCH, K,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Scores of a block of rows against centroids start .. start + BLOCK_K, with places; inf where there is none.

    ``c_values`` are negated; with WHOLE ``a`` holds all features of the rows.
    """
    place = tl.arange(0, BLOCK_K)
    columns = start + place
    there = columns < K
    half = tl.load(half_norms + columns, there, float("inf"))
    scores = tl.zeros((BLOCK_N, BLOCK_K), tl.float32) + half[None, :]
    if WHOLE:
        f = tl.arange(0, BLOCK_D)
        b = tl.load(
            c_values + columns.to(tl.int64)[None, :] * PITCH + f[:, None], there[None, :] & (f < PITCH)[:, None], 0.0
        )
        scores = tl.dot(a, b, scores, input_precision=PRECISION)
    else:
        for first in range(0, PITCH, BLOCK_D):
            f = first + tl.arange(0, BLOCK_D)
            inside = f < PITCH
            a = tl.load(
                values + rows.to(tl.int64)[:, None] * PITCH + f[None, :], row_there[:, None] & inside[None, :], 0.0
            )
            b = tl.load(
                c_values + columns.to(tl.int64)[None, :] * PITCH + f[:, None], there[None, :] & inside[:, None], 0.0
            )
            scores = tl.dot(a, b, scores, input_precision=PRECISION)
    bits = (scores.to(tl.int32, bitcast=True) & -BLOCK_K) | place[None, :]
    # Infinity with a place would be no number.
    return tl.where(there[None, :], bits.to(tl.float32, bitcast=True), float("inf"))


@triton.jit
def _rows(values, rows, there, PITCH, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, WHOLE: tl.constexpr):
    """All features of a block of rows, or nothing to speak of where they do not fit a tile."""
    if WHOLE:
        f = tl.arange(0, BLOCK_D)
        inside = there[:, None] & (f < PITCH)[None, :]
        return tl.load(values + rows.to(tl.int64)[:, None] * PITCH + f[None, :], inside, 0.0)
    return tl.zeros((BLOCK_N, BLOCK_D), values.dtype.element_ty)


@triton.jit
def _error(norms, residuals, largest, residual, by_product, by_norm, by_row, tiny):
    """What a score errs by at most, per row: rounded operands, the sum, D itself, underflow; and a sixteenth more."""
    reach = norms + residuals
    c_reach = largest + residual
    small = by_product * reach * c_reach + by_norm * largest * largest + by_row * reach * reach
    small += tiny * (1 + reach) * (1 + c_reach)
    return 1.0625 * small + (1 + 2.0**-20) * (residuals * largest + reach * residual)


@triton.jit(do_not_specialize=["N", "K", "TWO"])
def screen(
    values, norms, residuals, c_values, half_norms, largest, c_residual, order, labels, threshold, listed, n_listed,
    stop, by_product, by_norm, by_row, tiny, TWO, N, K, PITCH,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """One program labels BLOCK_N rows, and lists those it cannot settle.

    Parameters
    ----------
    values : (N, PITCH)
        Rows as they are multiplied; norms, residuals : (N,) float32 bound them.
    c_values : (K, PITCH)
        Centroids, negated, in the order of ``order`` (K,) int32; half_norms (K,); largest, c_residual a tile.
    labels : (N,) int32
    threshold : (N,) float32
        What the score of the nearest centroid does not exceed, or with TWO that of the second nearest.
    listed : (N,) int64, n_listed : (1,) uint64
        With TWO all rows.
    stop : int32
        Nothing is done where it is set.
    """
    # No early return, which would keep loads of the loop from running ahead.
    going_on = tl.load(stop) == 0
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = rows < tl.where(going_on, N, 0)
    norm, rest_norm = tl.load(norms + rows, there, 0.0), tl.load(residuals + rows, there, 0.0)
    a = _rows(values, rows, there, PITCH, BLOCK_N, BLOCK_D, WHOLE)
    inf = float("inf")
    upper = tl.full((BLOCK_N,), inf, tl.float32)
    second, lower, rest = upper, upper, upper
    at = tl.zeros((BLOCK_N,), tl.int32)
    for tile in range(tl.where(going_on, tl.cdiv(K, BLOCK_K), 0)):
        s = _scores(
            a, values, c_values, half_norms, rows, there, tile * BLOCK_K, PITCH, K, BLOCK_N, BLOCK_K, BLOCK_D,
            PRECISION, WHOLE,
        )  # fmt: skip
        e = _error(
            norm, rest_norm, tl.load(largest + tile), tl.load(c_residual + tile), by_product, by_norm, by_row, tiny
        )
        least = tl.min(s, 1)
        # Places differ, so that none but the smallest is equal to it.
        next_ = tl.min(tl.where(s == least[:, None], inf, s), 1)
        place = least.to(tl.int32, bitcast=True) & (BLOCK_K - 1)
        closer = least + e < upper
        # What loses joins the others.
        rest = tl.minimum(rest, tl.minimum(next_ - e, tl.where(closer, lower, least - e)))
        # A bound that is no number rules nothing out.
        rest = tl.where(e < inf, rest, -inf)
        second = tl.minimum(second, tl.minimum(next_ + e, tl.where(closer, upper, least + e)))
        at = tl.where(closer, tile * BLOCK_K + place, at)
        lower = tl.where(closer, least - e, lower)
        upper = tl.where(closer, least + e, upper)
    tl.store(labels + rows, tl.load(order + at, there, 0), there)
    every = at * 0 + TWO > 0
    tl.store(threshold + rows, tl.where(every, second, upper), there)
    unsettled = there & (every | ~(upper < rest))
    count = tl.sum(unsettled.to(tl.int32), 0)
    if count > 0:
        # Their order in the list is of no matter: each is decided by itself.
        place = tl.atomic_add(n_listed, count.to(tl.int64)) + tl.cumsum(unsettled.to(tl.int32), 0) - 1
        tl.store(listed + place, rows, unsettled)


@triton.jit(do_not_specialize=["K", "ROOM"])
def pairs(
    values, norms, residuals, c_values, half_norms, largest, c_residual, order, threshold, listed, n_listed,
    pair_places, pair_centroids, n_pairs, crowded, by_product, by_norm, by_row, tiny, ROOM, K, PITCH,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Programs share the list, BLOCK_N rows at a time: pairs of a place and each centroid its threshold leaves.

    Pairs beyond ROOM are left out, and their place is marked in ``crowded``, uint8.
    """
    total = tl.load(n_listed)
    for block in range(tl.program_id(0), tl.cdiv(total, BLOCK_N), tl.num_programs(0)):
        places = block * BLOCK_N + tl.arange(0, BLOCK_N)
        there = places < total
        rows = tl.load(listed + places, there, 0)
        norm, rest_norm = tl.load(norms + rows, there, 0.0), tl.load(residuals + rows, there, 0.0)
        limit = tl.load(threshold + rows, there, -float("inf"))
        a = _rows(values, rows, there, PITCH, BLOCK_N, BLOCK_D, WHOLE)
        for tile in range(tl.cdiv(K, BLOCK_K)):
            s = _scores(
                a, values, c_values, half_norms, rows, there, tile * BLOCK_K, PITCH, K, BLOCK_N, BLOCK_K, BLOCK_D,
                PRECISION, WHOLE,
            )  # fmt: skip
            e = _error(
                norm, rest_norm, tl.load(largest + tile), tl.load(c_residual + tile), by_product, by_norm, by_row, tiny
            )
            columns = tile * BLOCK_K + tl.arange(0, BLOCK_K)
            # Not the other way round: a bound that is no number rules nothing out.
            left = ~((s - e[:, None]) > limit[:, None]) & there[:, None] & (columns < K)[None, :]
            mine = tl.sum(left.to(tl.int32), 1)
            count = tl.sum(mine, 0)
            if count > 0:
                first = tl.atomic_add(n_pairs, count.to(tl.int64)) + tl.cumsum(mine, 0) - mine
                at = first[:, None] + tl.cumsum(left.to(tl.int32), 1) - 1
                fits = left & (at < ROOM)
                index = tl.load(order + columns, columns < K, 0)
                tl.store(pair_places + at, (places.to(tl.int32))[:, None] + tl.zeros_like(columns)[None, :], fits)
                tl.store(pair_centroids + at, index[None, :] + tl.zeros_like(mine)[:, None], fits)
                tl.store(crowded + places, tl.full((BLOCK_N,), 1, tl.uint8), there & (first + mine > ROOM) & (mine > 0))
