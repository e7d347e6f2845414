"""The readable reference: NumPy only, one thread's worth of thought, the same bits as every other backend."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpukm.backends.base import Backend, Frame, Pool
from gpukm.core.exact import exact_sum, in_lanes, row_distances
from gpukm.core.stats import ClusterStats, Grid, split

_BLOCK_BYTES = 1 << 22
_UNIT = 2.0**-53


@dataclass(frozen=True)
class Prepared:
    """Centroids, and their centred copies and norms for screening."""

    centroids: np.ndarray
    center: np.ndarray
    centred: np.ndarray
    half_norms: np.ndarray
    largest: float


class NumpyBackend(Backend):
    """Screens with a float64 matrix product, decides with D."""

    name = "numpy"

    def prepare(self, centroids: np.ndarray, frame: Frame) -> Prepared:
        centred = centroids.astype(np.float64) - frame.center
        half = 0.5 * np.einsum("kd,kd->k", centred, centred)
        return Prepared(centroids, frame.center, centred, half, float(np.sqrt(2.0 * half.max())))

    def assign(self, x: np.ndarray, prepared: Prepared, labels: np.ndarray) -> int:
        rechecked = 0
        for rows in _blocks(len(x), len(prepared.centroids)):
            scores, slack = _screen(x[rows], prepared)
            labels[rows] = scores.argmin(axis=1)
            close = scores <= (scores.min(axis=1) + slack)[:, None]
            unsettled = np.flatnonzero(close.sum(axis=1) > 1)
            rechecked += len(unsettled)
            for part in _blocks(len(unsettled), len(prepared.centroids) * x.shape[1]):
                row, candidate = np.nonzero(close[unsettled[part]])
                d = _pair_distances(x[rows][unsettled[part][row]], prepared.centroids[candidate])
                # Candidates come in ascending order, so the first of equal distances is the lowest index.
                order = np.lexsort((candidate, d, row))
                first = order[np.unique(row[order], return_index=True)[1]]
                labels[rows.start + unsettled[part]] = candidate[first]
        return rechecked

    def assign_two(self, x: np.ndarray, prepared: Prepared) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels = np.empty(len(x), dtype=np.int32)
        nearest, second = np.empty(len(x)), np.full(len(x), np.inf)
        for rows in _blocks(len(x), len(prepared.centroids) * x.shape[1]):
            d = self.cross_distances(x[rows], prepared.centroids)
            labels[rows] = d.argmin(axis=1)
            if d.shape[1] > 1:
                d.partition(1, axis=1)
                second[rows] = d[:, 1]
            nearest[rows] = d.min(axis=1)
        return labels, nearest, second

    def cross_distances(self, x: np.ndarray, points: np.ndarray) -> np.ndarray:
        out = np.empty((len(x), len(points)))
        for rows in _blocks(len(x), len(points) * 8):
            out[rows] = _pair_distances(x[rows, None, :], points[None, :, :])
        return out

    def distances(self, x: np.ndarray, centroids: np.ndarray, labels: np.ndarray) -> np.ndarray:
        out = np.empty(len(x))
        for rows in _blocks(len(x), x.shape[1]):
            out[rows] = _pair_distances(x[rows], centroids[labels[rows]])
        return out

    def total(self, x: np.ndarray, weight: np.ndarray | None, centroids: np.ndarray, labels: np.ndarray | None) -> int:
        d = self.distances(x, centroids, np.zeros(len(x), np.int32) if labels is None else labels)
        return int(exact_sum(d if weight is None else weight * d))

    def column_range(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n, d = x.shape
        # NumPy reduces narrow rows slowly: many of them side by side make a wide one.
        fold = max(1, min(n, 1024 // d))
        wide = x[: n - n % fold].reshape(-1, fold * d)
        rest = x[n - n % fold :]
        ends = []
        for reduce in (np.min, np.max):
            inner = reduce(wide, axis=0).reshape(fold, d)
            ends.append(reduce(np.concatenate([inner, rest]), axis=0).astype(np.float64))
        return ends[0], ends[1]

    def accumulate(
        self,
        stats: ClusterStats,
        x: np.ndarray,
        weight: np.ndarray | None,
        labels: np.ndarray,
        previous: np.ndarray | None,
        grid: Grid,
    ) -> int:
        moved = None if previous is None else np.flatnonzero(labels != previous)
        for start in range(0, len(x) if moved is None else len(moved), 1 << 16):
            rows = slice(start, start + (1 << 16)) if moved is None else moved[start : start + (1 << 16)]
            w = None if weight is None else weight[rows]
            _add(stats, x[rows], w, labels[rows], grid, 1)
            if previous is not None:
                _add(stats, x[rows], w, previous[rows], grid, -1)
        stats.normalise()
        return len(x) if moved is None else len(moved)

    def means(
        self, stats: ClusterStats, grid: Grid, previous: np.ndarray, reference: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sums, weights = stats.sums(grid), stats.weights(grid)[:, None]
        c = previous.astype(np.float64) - reference
        gain = in_lanes(c * (weights * c - 2.0 * (sums - weights * reference)))
        mean = np.divide(sums, weights, out=np.zeros_like(sums), where=weights > 0)
        mean = np.where(weights > 0, mean.astype(previous.dtype), previous)
        return mean, row_distances(mean, previous), gain

    def lower(self, nearest: np.ndarray, x: np.ndarray, points: np.ndarray) -> None:
        for rows in _blocks(len(x), len(points)):
            np.minimum(nearest[rows], self.cross_distances(x[rows], points).min(axis=1), out=nearest[rows])

    def potentials(
        self, nearest: np.ndarray, x: np.ndarray, weight: np.ndarray | None, points: np.ndarray, exponent: int
    ) -> np.ndarray:
        total = np.zeros(len(points), dtype=np.int64)
        for rows in _blocks(len(x), len(points)):
            d = np.minimum(nearest[rows, None], self.cross_distances(x[rows], points))
            if weight is not None:
                d = weight[rows, None] * d
            total += np.rint(np.ldexp(d, exponent)).astype(np.int64).sum(axis=0)
        return total

    def pool(
        self, x: np.ndarray, weight: np.ndarray | None, labels: np.ndarray, nearest: np.ndarray, frame: Frame
    ) -> NumpyPool:
        return NumpyPool(self, x, weight, labels, nearest)


@dataclass
class Candidate:
    """A row that may become a centre; and the rows that it is nearer to than any centre, with D."""

    row: int
    near: np.ndarray
    distances: np.ndarray


class NumpyPool(Pool):
    """Looks again at the candidate that gained most when it was last looked at: gains only ever fall."""

    def __init__(self, backend: Backend, *rows: Any) -> None:
        super().__init__(*rows)
        self._backend = backend
        self._candidates: list[Candidate] = []

    def add(self, rows: np.ndarray) -> None:
        for part in _blocks(len(rows), len(self.x)):
            distances = self._backend.cross_distances(self.x[rows[part]], self.x)
            for row, d in zip(rows[part], distances, strict=True):
                near = np.flatnonzero(d < self.nearest)
                self._candidates.append(Candidate(int(row), near, d[near]))

    def choose(self, n: int, first: int, exponent: int, enough: int) -> np.ndarray:
        chosen: list[int] = []
        heap = [(-self._gain(c, exponent), i) for i, c in enumerate(self._candidates)]
        heapq.heapify(heap)
        taken, gained = set(), 0
        while len(chosen) < n and gained < enough and heap and heap[0][0]:
            i = heap[0][1]
            gain = self._gain(self._candidates[i], exponent)
            heapq.heapreplace(heap, (-gain, i))
            if heap[0] != (-gain, i) or not gain:
                continue
            heapq.heappop(heap)
            taken.add(i)
            gained += gain
            chosen.append(self._candidates[i].row)
            self.nearest[self._candidates[i].near] = self._candidates[i].distances
            self.labels[self._candidates[i].near] = first + len(chosen) - 1
        self._candidates = [c for i, c in enumerate(self._candidates) if i not in taken]
        return np.array(chosen, np.int64)

    def _gain(self, c: Candidate, exponent: int) -> int:
        """What a candidate gains now; rows that it is no longer nearer to leave its list."""
        still = c.distances < self.nearest[c.near]
        c.near, c.distances = c.near[still], c.distances[still]
        w = 1.0 if self.weight is None else self.weight[c.near]
        shares = [np.rint(np.ldexp(w * d, exponent)) for d in (self.nearest[c.near], c.distances)]
        return int((shares[0].astype(np.int64) - shares[1].astype(np.int64)).sum())


def _blocks(n: int, width: int) -> list[slice]:
    """Cut n rows so that a float64 block of that width stays in cache."""
    step = max(1, _BLOCK_BYTES // (8 * width))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _screen(x: np.ndarray, p: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """Half squared distances less |x|^2/2 (n, k), and the difference (n,) below which two of them may be swapped.

    Centring, norms, a product of any summation order and D's own rounding each err by at most (D + 8) units of
    |x| |c| + |c|^2; two scores make twice that, and a factor of two covers the second-order terms.
    """
    centred = x.astype(np.float64) - p.center
    norms = np.sqrt(np.einsum("nd,nd->n", centred, centred))
    slack = 4.0 * (x.shape[1] + 8) * _UNIT * (norms + p.largest) ** 2
    return p.half_norms - centred @ p.centred.T, slack + 1e-300


def _pair_distances(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """D between broadcastable rows, over the last axis."""
    shape = np.broadcast_shapes(x.shape[:-1], c.shape[:-1])
    lanes = np.zeros((8, *shape))
    for start in range(0, x.shape[-1], 8):
        diff = x[..., start : start + 8].astype(np.float64) - c[..., start : start + 8].astype(np.float64)
        lanes[: diff.shape[-1]] += np.moveaxis(diff * diff, -1, 0)
    pairs = lanes[:4] + lanes[4:]
    halves = pairs[:2] + pairs[2:]
    return np.asarray(halves[0] + halves[1])


def _add(
    stats: ClusterStats, x: np.ndarray, weight: np.ndarray | None, labels: np.ndarray, grid: Grid, sign: int
) -> None:
    """Add (or with sign -1 take away) at most 2**16 rows: float64 sums of the limbs are exact at that size."""
    if not len(x):
        return
    values = x.astype(np.float64)
    if weight is not None:
        values *= weight[:, None]
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    hi, lo = split(values[order] * grid.scales)
    stats.hi[present] += sign * np.add.reduceat(hi, starts, axis=0).astype(np.int64)
    stats.lo[present] += sign * np.add.reduceat(lo, starts, axis=0).astype(np.int64)
    stats.counts[present] += sign * np.diff(np.append(starts, len(x)))
    if weight is not None and stats.weight_hi is not None and stats.weight_lo is not None:
        w_hi, w_lo = split(weight[order] * grid.weight_scale)
        stats.weight_hi[present] += sign * np.add.reduceat(w_hi, starts).astype(np.int64)
        stats.weight_lo[present] += sign * np.add.reduceat(w_lo, starts).astype(np.int64)
