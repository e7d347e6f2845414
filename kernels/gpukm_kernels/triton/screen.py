"""A screen by the matrix units: rules centroids out by proved bounds, and lists what it leaves for D to decide.

A score is |c'|^2 / 2 - x'.c'; kernels/README.md derives the bounds. Its lowest bits may be replaced by the centroid's
place in the tile, so that a minimum of numbers carries its place along.

Centroids come in whole tiles: what fills the last one up are zeros, with half norms of 3e38.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _rows(values, rows, there, PITCH, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, WHOLE: tl.constexpr):
    """All features of a block of rows, or nothing to speak of where they do not fit a tile."""
    if WHOLE:
        f = tl.arange(0, BLOCK_D)
        inside = there[:, None] & (f < PITCH)[None, :]
        return tl.load(values + rows.to(tl.int64)[:, None] * PITCH + f[None, :], inside, 0.0)
    return tl.zeros((BLOCK_N, BLOCK_D), values.dtype.element_ty)


@triton.jit
def _scores(
    a, values, c_values, half_norms, rows, row_there, tile, PITCH,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Scores of a block of rows against the centroids of a tile.

    ``c_values`` are negated; with WHOLE ``a`` holds all features of the rows. EVEN: a pitch is a multiple of BLOCK_D.
    """
    place = tl.arange(0, BLOCK_K)
    columns = tile * BLOCK_K + place
    half = tl.load(half_norms + columns)
    f = tl.arange(0, BLOCK_D)
    b_at = c_values + columns.to(tl.int64)[None, :] * PITCH + f[:, None]
    if WHOLE:
        b = tl.load(b_at) if EVEN else tl.load(b_at, (f < PITCH)[:, None], 0.0)
        return tl.dot(a, b, input_precision=PRECISION) + half[None, :]
    scores = tl.zeros((BLOCK_N, BLOCK_K), tl.float32) + half[None, :]
    a_at = values + rows.to(tl.int64)[:, None] * PITCH + f[None, :]
    for first in range(0, PITCH, BLOCK_D):
        if EVEN:
            a = tl.load(a_at + first, row_there[:, None], 0.0)
            b = tl.load(b_at + first)
        else:
            inside = first + f < PITCH
            a = tl.load(a_at + first, row_there[:, None] & inside[None, :], 0.0)
            b = tl.load(b_at + first, inside[:, None], 0.0)
        scores = tl.dot(a, b, scores, input_precision=PRECISION)
    return scores


@triton.jit
def _row_errors(norms, residuals, by_product, by_row, tiny):
    """What the errors of a row's scores are made of: by a tile's largest norm, by its residual, and besides."""
    reach = norms + residuals
    shared = 1.0625 * (by_product * reach + tiny * (1 + reach))
    above = 1 + 2.0**-20
    return shared + above * residuals, shared + above * reach, 1.0625 * (by_row * reach * reach + tiny * (1 + reach))


@triton.jit
def _error(by_largest, by_residual, besides, largest, residual, by_norm):
    """What a score errs by at most, per row: rounded operands, the sum, D itself, underflow; and a sixteenth more."""
    return by_largest * largest + (by_residual * residual + (besides + 1.0625 * by_norm * largest * largest))


@triton.jit(do_not_specialize=["N", "K"])
def sweep(
    values, norms, residuals, c_values, half_norms, largest, c_residual, tile_of, rest_of, stop,
    by_product, by_norm, by_row, tiny, N, K, PITCH,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """One program finds the tile of BLOCK_N rows' lowest upper bound, and what scores elsewhere do not fall below.

    Nothing is asked of a score but a minimum, which is what makes it fast: which centroid it belongs to, and what comes
    next in its tile, is for :func:`screen` to find, in that tile alone.

    Parameters
    ----------
    tile_of : (N,) int32
    rest_of : (N,) float32
        At most the score of any centroid in another tile.
    values, ..., PITCH
        As of :func:`screen`.
    """
    # No early return, which would keep loads of the loop from running ahead.
    going_on = tl.load(stop) == 0
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = rows < tl.where(going_on, N, 0)
    u, v, besides = _row_errors(
        tl.load(norms + rows, there, 0.0), tl.load(residuals + rows, there, 0.0), by_product, by_row, tiny
    )
    a = _rows(values, rows, there, PITCH, BLOCK_N, BLOCK_D, WHOLE)
    upper = tl.full((BLOCK_N,), float("inf"), tl.float32)
    lower, rest = upper, upper
    at = tl.zeros((BLOCK_N,), tl.int32)
    for tile in range(tl.where(going_on, tl.cdiv(K, BLOCK_K), 0)):
        s = _scores(
            a, values, c_values, half_norms, rows, there, tile, PITCH, BLOCK_N, BLOCK_K, BLOCK_D, PRECISION, WHOLE,
            EVEN,
        )  # fmt: skip
        e = _error(u, v, besides, tl.load(largest + tile), tl.load(c_residual + tile), by_norm)
        least = tl.min(s, 1)
        # A bound that is no number rules nothing out.
        low, up = tl.maximum(least - e, -3.0e38), least + e
        closer = up < upper
        # What loses joins the others.
        rest = tl.minimum(rest, tl.where(closer, lower, low))
        at = tl.where(closer, tile, at)
        lower = tl.where(closer, low, lower)
        upper = tl.where(closer, up, upper)
    tl.store(tile_of + rows, at, there)
    tl.store(rest_of + rows, rest, there)


@triton.jit(do_not_specialize=["N", "K", "TWO"])
def screen(
    values, norms, residuals, c_values, half_norms, largest, c_residual, order, labels, threshold, listed, n_listed,
    stop, in_turn, tile_of, rest_of, by_product, by_norm, by_row, tiny, TWO, N, K, PITCH,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr,
    EVEN: tl.constexpr, WITHIN: tl.constexpr,
):  # fmt: skip
    """One program labels BLOCK_N rows, and lists those it cannot settle.

    Parameters
    ----------
    values : (N, PITCH)
        Rows as they are multiplied; norms, residuals : (N,) float32 bound them.
    c_values : (whole tiles, PITCH)
        Centroids, negated, in the order of ``order`` (K,) int32, and half_norms; largest, c_residual a tile.
    labels : (N,) int32
    threshold : (N,) float32
        What the score of the nearest centroid does not exceed, or with TWO that of the second nearest.
    listed : (N,) int64, n_listed : (1,) uint64
        With TWO all rows.
    stop : int32
        Nothing is done where it is set.
    in_turn, tile_of, rest_of : (N,)
        With WITHIN rows come tile by tile, in the order of ``in_turn``, int32, and look for centroids in their tile
        alone; the others are known by :func:`sweep`.
    """
    going_on = tl.load(stop) == 0
    inf = float("inf")
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = rows < tl.where(going_on, N, 0)
    upper = tl.full((BLOCK_N,), inf, tl.float32)
    if WITHIN:
        rows = tl.load(in_turn + rows, there, 0).to(tl.int64)
        own = tl.load(tile_of + rows, there, 0)
        first, end = tl.min(tl.where(there, own, 1 << 30), 0), tl.max(tl.where(there, own + 1, 0), 0)
        rest = tl.load(rest_of + rows, there, inf)
    else:
        own = tl.zeros((BLOCK_N,), tl.int32)
        first, end = 0, tl.where(going_on, tl.cdiv(K, BLOCK_K), 0)
        rest = upper
    u, v, besides = _row_errors(
        tl.load(norms + rows, there, 0.0), tl.load(residuals + rows, there, 0.0), by_product, by_row, tiny
    )
    a = _rows(values, rows, there, PITCH, BLOCK_N, BLOCK_D, WHOLE)
    second, lower = upper, upper
    at = tl.zeros((BLOCK_N,), tl.int32)
    for tile in range(first, end):
        s = _scores(
            a, values, c_values, half_norms, rows, there, tile, PITCH, BLOCK_N, BLOCK_K, BLOCK_D, PRECISION, WHOLE,
            EVEN,
        )  # fmt: skip
        e = _error(u, v, besides, tl.load(largest + tile), tl.load(c_residual + tile), by_norm)
        place = tl.arange(0, BLOCK_K)
        bits = (s.to(tl.int32, bitcast=True) & -BLOCK_K) | place[None, :]
        # A thread holds both columns of a pair: the larger one need not be looked at for the smallest.
        left, right = tl.split(tl.reshape(bits.to(tl.float32, bitcast=True), (BLOCK_N, BLOCK_K // 2, 2)))
        smaller, larger = tl.minimum(left, right), tl.maximum(left, right)
        least = tl.min(smaller, 1)
        # Places differ, so that none but the smallest is equal to it.
        next_ = tl.min(tl.minimum(larger, tl.where(smaller == least[:, None], inf, smaller)), 1)
        low, up = least - e, least + e
        joins = (own == tile) | (not WITHIN)
        closer = joins & (up < upper)
        # What loses joins the others; a bound that is no number rules nothing out.
        others = tl.minimum(next_ - e, tl.where(closer, lower, low))
        rest = tl.where(joins, tl.where(e < inf, tl.minimum(rest, others), -inf), rest)
        second = tl.where(joins, tl.minimum(second, tl.minimum(next_ + e, tl.where(closer, upper, up))), second)
        at = tl.where(closer, tile * BLOCK_K + (least.to(tl.int32, bitcast=True) & (BLOCK_K - 1)), at)
        lower = tl.where(closer, low, lower)
        upper = tl.where(closer, up, upper)
    tl.store(labels + rows, tl.load(order + at, there & (at < K), 0), there)
    every = at * 0 + TWO > 0
    tl.store(threshold + rows, tl.where(every, second, upper), there)
    unsettled = there & (every | ~(upper < rest))
    count = tl.sum(unsettled.to(tl.int32), 0)
    if count > 0:
        # Their order in the list is of no matter: each is decided by itself.
        place_in_list = tl.atomic_add(n_listed, count.to(tl.int64)) + tl.cumsum(unsettled.to(tl.int32), 0) - 1
        tl.store(listed + place_in_list, rows, unsettled)


@triton.jit(do_not_specialize=["K", "ROOM"])
def pairs(
    values, norms, residuals, c_values, half_norms, largest, c_residual, order, threshold, listed, n_listed,
    pair_places, pair_centroids, n_pairs, crowded, by_product, by_norm, by_row, tiny, ROOM, K, PITCH,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr,
    EVEN: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Pairs of a place in the list and each centroid that its threshold leaves.

    Programs share the list, BLOCK_N rows and TILES tiles at a time. Pairs beyond ROOM are left out, and their place is
    marked in ``crowded``, uint8.
    """
    total, tiles = tl.load(n_listed), tl.cdiv(K, BLOCK_K)
    parts = tl.cdiv(tiles, TILES)
    for item in range(tl.program_id(0).to(tl.int64), tl.cdiv(total, BLOCK_N) * parts, tl.num_programs(0)):
        places = item // parts * BLOCK_N + tl.arange(0, BLOCK_N)
        first_tile = (item % parts).to(tl.int32) * TILES
        there = places < total
        rows = tl.load(listed + places, there, 0)
        u, v, besides = _row_errors(
            tl.load(norms + rows, there, 0.0), tl.load(residuals + rows, there, 0.0), by_product, by_row, tiny
        )
        limit = tl.load(threshold + rows, there, -float("inf"))
        a = _rows(values, rows, there, PITCH, BLOCK_N, BLOCK_D, WHOLE)
        for tile in range(first_tile, tl.minimum(first_tile + TILES, tiles)):
            s = _scores(
                a, values, c_values, half_norms, rows, there, tile, PITCH, BLOCK_N, BLOCK_K, BLOCK_D, PRECISION, WHOLE,
                EVEN,
            )  # fmt: skip
            e = _error(u, v, besides, tl.load(largest + tile), tl.load(c_residual + tile), by_norm)
            place = tl.arange(0, BLOCK_K)
            # Not the other way round: a bound that is no number rules nothing out.
            out = (s - e[:, None] > limit[:, None]) | ~there[:, None]
            left = tl.where(out, BLOCK_K, tl.where(tile * BLOCK_K + place < K, place, BLOCK_K)[None, :])
            # The first that is left of every row, then the second: few rows have more.
            nearest = tl.min(left, 1)
            count = tl.sum((nearest < BLOCK_K).to(tl.int32), 0)
            while count > 0:
                has = nearest < BLOCK_K
                before = tl.atomic_add(n_pairs, count.to(tl.int64))
                at = before + tl.cumsum(has.to(tl.int32), 0) - 1
                fits = has & (at < ROOM)
                tl.store(pair_places + at, places.to(tl.int32), fits)
                tl.store(pair_centroids + at, tl.load(order + tile * BLOCK_K + nearest, fits, 0), fits)
                left = tl.where(left == nearest[:, None], BLOCK_K, left)
                nearest = tl.min(left, 1)
                # A list that is full takes no more of any row, but all are counted.
                more, full = nearest < BLOCK_K, at * 0 + before + count >= ROOM
                tl.store(crowded + places, tl.full((BLOCK_N,), 1, tl.uint8), (has & ~fits) | (more & full))
                if before + count >= ROOM:
                    pending = tl.sum(tl.sum((left < BLOCK_K).to(tl.int32), 1), 0)
                    tl.atomic_add(n_pairs, pending.to(tl.int64))
                count = tl.sum((more & ~full).to(tl.int32), 0)
