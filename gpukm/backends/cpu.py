"""The native kernels, with OpenMP threads and run-time choice of instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
from gpukm_kernels import native

from gpukm.backends.base import Backend, Effort, Frame, Pool
from gpukm.backends.batch import Fits, Problems
from gpukm.core.stats import ClusterStats, Grid
from gpukm.errors import ConfigError

# Centroids of a group: enough of them to be worth gathering rows for, few enough to rule groups out.
_GROUP_SIZE = 40
_LEAST_GROUP_SIZE = 8
_FEW_GROUPS = 16
_GROUPING_ROUNDS = 4
# Rows a cluster below which grouping the centroids costs as much as it saves.
_TRACKED_ROWS = 4
_PLANS = ("plain", "fill", "follow", "boxes", "heads")
_WHEN = ("paying", "always", "never")
# Features at most of rows that may be sorted into boxes, and at least of rows that may get heads.
BOX_FEATURES = 8
HEAD_FEATURES = 64
# A problem is small, for one thread from its seeding to its labels, while its rows stay in a cache and an iteration
# takes less than a few milliseconds. Beyond, threads share a problem, and rows are tracked.
_SMALL_VALUES = 1 << 18
_SMALL_DISTANCES = 1 << 20
_SMALL_FEATURES = 1 << 12
# Iterations whose records are kept at first; the few fits that take more are made again with more room.
_HISTORY = 128
# A place among the packed centroids travels as float32.
_MAX_CLUSTERS = 1 << 23


class CpuBackend(Backend):
    """C++ kernels; see kernels/README.md.

    Parameters
    ----------
    threads : int or None
        None follows OpenMP: OMP_NUM_THREADS, threadpoolctl, or all cores.
    """

    name = "cpu"

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ConfigError(f"threads is {threads}, expected at least 1")
        self._threads = threads or 0
        self._cpu = native()

    def prepare(self, centroids: np.ndarray, frame: Frame) -> Any:
        if len(centroids) > _MAX_CLUSTERS:
            raise ConfigError(f"n_clusters is {len(centroids)}, the native kernels take at most {_MAX_CLUSTERS}")
        make = self._cpu.CentroidsF32 if centroids.dtype == np.float32 else self._cpu.CentroidsF64
        return make(np.ascontiguousarray(centroids), np.ascontiguousarray(frame.center, np.float64), frame.radius)

    def assign(self, x: np.ndarray, prepared: Any, labels: np.ndarray) -> int:
        return int(self._cpu.assign(x, prepared, labels, self._threads)) if len(x) else 0

    def tracker(self, x: np.ndarray, centroids: np.ndarray, resident: bool = True) -> Any | None:
        groups = group_count(x.shape[1] * x.itemsize, len(centroids))
        if groups == 1 or len(x) < _TRACKED_ROWS * len(centroids):
            groups = 0
        boxes = "paying" if resident and x.shape[1] <= BOX_FEATURES else "never"
        heads = "paying" if resident and x.shape[1] >= HEAD_FEATURES else "never"
        return self.follow(x, centroids, groups, boxes, heads) if groups or boxes == "paying" else None

    def tracker_bytes(self, n_samples: int, n_features: int, n_clusters: int, itemsize: int) -> int:
        # Besides the bounds: the centroids of the call before, and how far each has gone.
        return n_samples * bounds_bytes(n_features * itemsize, n_clusters) + n_clusters * (n_features * itemsize + 16)

    def follow(
        self, x: np.ndarray, centroids: np.ndarray, groups: int, boxes: str = "paying", heads: str = "paying"
    ) -> Any:
        """Make a tracker with so many groups of centroids, 0 for no bounds.

        ``boxes`` and ``heads`` say when there are such: paying, always or never.
        """
        make = self._cpu.TrackerF32 if x.dtype == np.float32 else self._cpu.TrackerF64
        group_of = self._neighbours(centroids, groups) if groups else np.zeros(len(centroids), np.int32)
        return make(len(x), x.shape[1], groups, group_of, _WHEN.index(boxes), _WHEN.index(heads))

    def _neighbours(self, centroids: np.ndarray, groups: int) -> np.ndarray:
        """Partition centroids into groups of neighbours by a few rounds of Lloyd; it decides speed only."""
        # No matrix product of NumPy: the threads of its BLAS would stay awake beside ours for a while.
        c = np.ascontiguousarray(centroids)
        middle = c.mean(axis=0, dtype=np.float64).astype(c.dtype).astype(np.float64)
        frame = Frame(middle, float(max((c - middle).max(), (middle - c).max())))
        centers, label = c[np.linspace(0, len(c) - 1, groups).astype(np.int64)], np.empty(len(c), np.int32)
        for _ in range(_GROUPING_ROUNDS):
            self.assign(c, self.prepare(centers, frame), label)
            order = np.argsort(label, kind="stable")
            present, starts = np.unique(label[order], return_index=True)
            sums = np.add.reduceat(c[order], starts, axis=0, dtype=np.float64)
            centers[present] = sums / np.diff(np.append(starts, len(c)))[:, None]
        return label

    def track(
        self,
        tracker: Any,
        x: np.ndarray,
        centroids: np.ndarray,
        frame: Frame,
        labels: np.ndarray,
        before: np.ndarray | None = None,
    ) -> int:
        center, known = np.ascontiguousarray(frame.center, np.float64), labels if before is None else before
        c = np.ascontiguousarray(centroids)
        return int(tracker.assign(x, c, center, frame.radius, known, labels, self._threads))

    def effort(self, tracker: Any) -> Effort:
        return Effort(frozenset([_PLANS[tracker.plan]]), tracker.scored, tracker.pairs, tracker.movers)

    def assign_two(self, x: np.ndarray, prepared: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels = np.empty(len(x), np.int32)
        nearest, second = np.empty(len(x)), np.empty(len(x))
        if len(x):
            self._cpu.assign_two(x, prepared, labels, nearest, second, self._threads)
        return labels, nearest, second

    def cross_distances(self, x: np.ndarray, points: np.ndarray) -> np.ndarray:
        out = np.empty((len(x), len(points)))
        self._cpu.cross(x, _like(points, x), out, self._threads)
        return out

    def distances(self, x: np.ndarray, centroids: np.ndarray, labels: np.ndarray) -> np.ndarray:
        out = np.empty(len(x))
        self._cpu.distances(x, _like(centroids, x), labels, out, self._threads)
        return out

    def total(self, x: np.ndarray, weight: np.ndarray | None, centroids: np.ndarray, labels: np.ndarray | None) -> int:
        bins = np.zeros(self._cpu.SUM_BINS, np.uint64)
        if not self._cpu.total(x, weight, _like(centroids, x), labels, bins, self._threads):
            raise ValueError("exact sums need finite values")
        return int.from_bytes(bins.astype("<u4").tobytes(), "little")

    def column_range(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.empty(x.shape[1]), np.empty(x.shape[1])
        self._cpu.column_range(x, low, high, self._threads)
        return low, high

    def accumulate(
        self,
        stats: ClusterStats,
        x: np.ndarray,
        weight: np.ndarray | None,
        labels: np.ndarray,
        previous: np.ndarray | None,
        grid: Grid,
    ) -> int:
        moved = self._cpu.accumulate(
            x,
            weight,
            labels,
            previous,
            grid.scales,
            grid.weight_scale,
            stats.hi,
            stats.lo,
            stats.counts,
            stats.weight_hi if weight is not None else None,
            stats.weight_lo if weight is not None else None,
            self._threads,
        )
        stats.normalise()
        return int(moved)

    def means(
        self, stats: ClusterStats, grid: Grid, previous: np.ndarray, reference: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mean, shift, gain = np.empty_like(previous), np.empty(len(previous)), np.empty(len(previous))
        units = np.ldexp(1.0, -grid.exponents)
        weights = stats.weights(grid)
        self._cpu.means(stats.hi, stats.lo, weights, units, previous, reference, mean, shift, gain, self._threads)
        return mean, shift, gain

    def lower(self, nearest: np.ndarray, x: np.ndarray, points: np.ndarray) -> None:
        self._cpu.lower(x, _like(points, x), nearest, self._threads)

    def potentials(
        self, nearest: np.ndarray, x: np.ndarray, weight: np.ndarray | None, points: np.ndarray, exponent: int
    ) -> np.ndarray:
        total = np.zeros(len(points), np.int64)
        scale = float(np.ldexp(1.0, exponent))
        self._cpu.potentials(x, weight, _like(points, x), nearest, scale, total, self._threads)
        return total

    def takes(self, n_samples: np.ndarray, n_features: int, n_clusters: int) -> np.ndarray:
        small = (n_samples * n_features <= _SMALL_VALUES) & (n_samples * n_clusters <= _SMALL_DISTANCES)
        return small & (n_features <= _SMALL_FEATURES)

    def solve(self, problems: Problems, chosen: np.ndarray, fits: Fits) -> list[np.ndarray]:
        capacity = min(problems.max_iter, _HISTORY)
        while True:
            records = np.empty((len(problems.seeds), capacity, 4))
            self._solve(problems, chosen, fits, records)
            longest = int(fits.n_iter[chosen].max(initial=0))
            if longest <= capacity:
                return [records[b, : fits.n_iter[b]].copy() for b in chosen]
            capacity = longest

    def _solve(self, problems: Problems, chosen: np.ndarray, fits: Fits, records: np.ndarray) -> None:
        """One call of the kernel, the largest problems first."""
        sizes = np.diff(problems.offsets)[chosen]
        order = np.ascontiguousarray(chosen[np.argsort(-sizes, kind="stable")])
        if not len(order):
            return
        threads = min(self._threads or self._cpu.max_threads(), len(order))
        self._cpu.batch(
            problems.x,
            problems.weight,
            problems.offsets,
            order,
            problems.seeds,
            problems.start,
            problems.trials,
            problems.n_init,
            problems.max_iter,
            problems.tol,
            problems.spherical,
            fits.solved,
            fits.centroids,
            fits.labels,
            fits.inertia,
            fits.total_weight,
            fits.n_iter,
            fits.best_init,
            fits.n_rechecked,
            fits.stop,
            fits.counts,
            fits.weights,
            fits.constant,
            records,
            threads,
        )

    def pool(
        self, x: np.ndarray, weight: np.ndarray | None, labels: np.ndarray, nearest: np.ndarray, frame: Frame
    ) -> Pool:
        return NativePool(self._cpu, self._threads, frame, x, weight, labels, nearest)


class NativePool(Pool):
    """The pool of the native kernels."""

    def __init__(self, cpu: Any, threads: int, frame: Frame, x: np.ndarray, *rows: Any) -> None:
        super().__init__(x, *rows)
        self._center, self._radius = np.ascontiguousarray(frame.center, np.float64), frame.radius
        self._pool = (cpu.PoolF32 if x.dtype == np.float32 else cpu.PoolF64)(*x.shape)
        self._threads = threads

    def add(self, rows: np.ndarray) -> None:
        self._pool.add(self.x, self._center, self._radius, self.nearest, rows, self._threads)

    def choose(self, n: int, first: int, exponent: int, enough: int) -> np.ndarray:
        chosen, scale = np.empty(n, np.int64), float(np.ldexp(1.0, exponent))
        found = self._pool.choose(self.weight, scale, self.labels, self.nearest, first, enough, chosen, self._threads)
        return chosen[:found]


def group_count(row_bytes: int, n_clusters: int) -> int:
    """Groups to keep bounds for: their memory stays within that of the rows, or 32 bytes a row where that is more."""
    groups = max(min(n_clusters // _LEAST_GROUP_SIZE, _FEW_GROUPS), n_clusters // _GROUP_SIZE)
    return max(min(groups, max(row_bytes // 4 // 8 * 8, 8)), 1)


def bounds_bytes(row_bytes: int, n_clusters: int) -> int:
    """Bytes of bounds a row: one number a group, groups rounded up to eight, and two more; none without groups."""
    groups = group_count(row_bytes, n_clusters)
    return 4 * (-(-groups // 8) * 8 + 2) if groups > 1 else 0


def boxes_bytes(row_bytes: int, n_features: int) -> int:
    """Bytes of boxes a row, where rows may be sorted into them: while it is sorted a row is there three times."""
    return 3 * row_bytes + row_bytes // 8 + 36 if n_features <= BOX_FEATURES else 0


def heads_bytes(n_features: int) -> int:
    """Bytes of heads a row at most, where it may get one: half its features in 16 bits, and what is known of it."""
    return n_features + 24 if n_features >= HEAD_FEATURES else 0


def _like(points: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Points in the dtype and layout of the rows."""
    return np.ascontiguousarray(points, dtype=x.dtype)
