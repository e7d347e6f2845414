"""The engine's arithmetic on a GPU, through whichever library holds the arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from gpukm.backends import gpu_batch
from gpukm.backends.base import SHARE_ROWS, Backend, DevicePlan, Effort, Frame, Made, Pool, Rechecks
from gpukm.backends.batch import Fits, Problems
from gpukm.backends.cascade import CHUNK_ROWS, Cascade, Packed, Rounded, Screen
from gpukm.backends.device import SHORT, Device
from gpukm.backends.gpu_loop import Loop
from gpukm.backends.gpu_memory import Shape, room
from gpukm.backends.gpu_pool import GpuPool
from gpukm.backends.gpu_rows import fetch as rows_on_host
from gpukm.backends.gpu_rows import gather
from gpukm.backends.gpu_rungs import Rungs
from gpukm.backends.gpu_sums import Adder, Sums
from gpukm.backends.screens import screen_of
from gpukm.core.stats import ClusterStats, Grid

_THREADS = 256
#: The unit of the windows that a total is made of, 2^-1074, in units of 2^-1126.
_UNIT_BITS = 1126 - 1074
_WINDOW_BITS, _WINDOWS = 30, 4
_INFINITE = 0x7FF << 52
#: Squared distances that are rooted at a time.
_CROSSED = 1 << 24


@dataclass
class Tracked:
    """What a resident block keeps from call to call: its rows as the screen takes them, for one frame."""

    frame: Frame | None = None
    screen: Screen | None = None
    rounded: Rounded | None = None
    n: int = 0

    def drop_others(self, frame: Frame, screen: Screen) -> None:
        """Free rows that are those of another frame or screen, before there is memory for others."""
        if not frame.same(self.frame) or self.screen is not screen:
            self.frame, self.screen, self.rounded = frame, screen, None


class GpuBackend(Backend):
    """Triton or CUDA kernels on the arrays of one library.

    Blocks of rows may be arrays of that library, as :meth:`place` makes them, or NumPy's, which each call copies.

    Parameters
    ----------
    device : Device
    screen : Screen
    limit_bytes : int or None
        Memory to take on the device; None takes nearly all that is free.
    certify : bool
        False labels rows as the screen does; :meth:`assign_two` is for others.
    tally : array of uint64 of shape (2,) or None
        As of :class:`Cascade`.
    """

    def __init__(
        self,
        device: Device,
        screen: Screen,
        limit_bytes: int | None = None,
        *,
        certify: bool = True,
        tally: Any = None,
    ) -> None:
        self.name = device.library
        self.device, self._limit_bytes = device, limit_bytes
        self._rungs = Rungs(device, Cascade(device, screen, certify, tally))

    @property
    def certified(self) -> GpuBackend:
        if self.cascade.certify:
            return self
        return GpuBackend(self.device, self.screen, self._limit_bytes, tally=self.cascade.tally)

    @property
    def cascade(self) -> Cascade:
        """What labels rows at present."""
        return self._rungs.now

    @property
    def screen(self) -> Screen:
        """The one it was given."""
        return self._rungs.first.screen

    def rechecks(self) -> Rechecks:
        return Rechecks(*map(int, self.device.fetch(self.cascade.tally)))

    def place(self, x: np.ndarray) -> Any:
        return self._on(x)

    def stage(self, blocks: Iterable[tuple[np.ndarray | None, ...]]) -> Iterator[tuple[Any, ...]]:
        return self.device.stage(blocks)

    def holds(self, n_samples: int, n_features: int, n_clusters: int, itemsize: int) -> bool:
        shape = self._shape(n_features, n_clusters, itemsize)
        return shape.resident_bytes(n_samples) <= self._room()

    def batch_rows(self, n_features: int, n_clusters: int, itemsize: int) -> int | None:
        return self._shape(n_features, n_clusters, itemsize).streamed_rows(self._room())

    def device_plan(self, n_samples: int, n_features: int, n_clusters: int, itemsize: int) -> DevicePlan:
        shape, free = self._shape(n_features, n_clusters, itemsize), self._room()
        rows, taken = n_samples, shape.resident_bytes(n_samples)
        resident = taken <= free
        if not resident:
            rows = shape.streamed_rows(free)
            taken = shape.streamed_bytes(rows)
        return DevicePlan(self.device.name, free, taken, resident, rows)

    def fewer_rows(self, rows: int) -> int | None:
        return rows // 2

    def _shape(self, n_features: int, n_clusters: int, itemsize: int) -> Shape:
        """What memory depends on."""
        return Shape(n_features, n_clusters, itemsize, self._rungs.first.copies_rows)

    def _room(self) -> int:
        """Bytes that may be taken on the device."""
        return room(self.device.free_bytes(), self._limit_bytes)

    def fetch(self, array: Any) -> np.ndarray:
        if isinstance(array, np.ndarray) and not self.device.owns(array):
            return array
        return rows_on_host(self.device, array) if self.device.kind(array) in SHORT else self.device.fetch(array)

    def zeros(self, n: int, dtype: Any) -> Any:
        return self.device.zeros(n, dtype)

    def take(self, x: Any, rows: np.ndarray) -> Any:
        return gather(self.device, self._on(x), self._on(rows))

    def prepare(self, centroids: np.ndarray, frame: Frame) -> Packed:
        self._rungs.of_data(frame)
        return self.cascade.pack(centroids, frame)

    def assign(self, x: Any, prepared: Packed, labels: Any) -> int:
        return self._assign(self._on(x), prepared, labels, None)

    def tracker(self, x: Any, centroids: np.ndarray, resident: bool = True) -> Tracked | None:
        return Tracked() if resident and self.device.owns(x) else None

    def track(
        self,
        tracker: Tracked,
        x: Any,
        centroids: np.ndarray,
        frame: Frame,
        labels: Any,
        before: Any = None,
    ) -> int:
        prepared, rows = self.prepare(centroids, frame), self._on(x)
        tracker.drop_others(frame, prepared.screen)
        if tracker.rounded is None:
            tracker.rounded = self._rungs.of(prepared).round(rows, prepared)
        tracker.n = len(rows)
        return self._assign(rows, prepared, labels, tracker.rounded)

    def effort(self, tracker: Tracked) -> Effort:
        return Effort(frozenset(["plain"]), tracker.n, tracker.n)

    def _assign(self, x: Any, prepared: Packed, labels: Any, rounded: Rounded | None) -> int:
        """Label rows on the device."""
        found = labels if self.device.owns(labels) else self.device.empty(len(x), np.int32)
        counters, cascade = self.device.zeros(2, np.uint64), self._rungs.of(prepared)
        cascade.assign(x, prepared, found, rounded, counters=counters)
        if found is not labels:
            self.device.fetch(found, labels)
        # Of a stream some blocks may be labelled by what was packed before a change.
        self._rungs.look(len(x) if cascade is self.cascade else 0)
        return int(self.device.fetch(counters)[1])

    def assign_two(self, x: Any, prepared: Packed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._rungs.of(prepared).assign_two(self._on(x), prepared)

    def cross_distances(self, x: Any, points: Any) -> np.ndarray:
        return self.device.fetch(self._cross(self._on(x), self._on(points)))

    def placed_lengths(self, x: Any, points: np.ndarray) -> Any:
        """Roots of D(x_i, p_j), in the type of the points, of shape (n, m), on the device."""
        p, (n, m) = self._on(points), (len(x), len(points))
        out = self.device.empty((n, m), points.dtype)
        # What it takes besides is bounded.
        step = max(1, _CROSSED // m)
        for start in range(0, n, step):
            rows = slice(start, min(start + step, n))
            values = (rows.stop - start) * m
            squares = self._cross(x[rows], p)
            self._launch("rows.roots", x, -(-values // _THREADS), squares, out[rows], values)
        return out

    def _cross(self, rows: Any, points: Any) -> Any:
        """D(x_i, p_j), float64 of shape (n, m)."""
        (n, d), m = rows.shape, len(points)
        out = self.device.empty((n, m), np.float64)
        self._launch("exact.cross", rows, -(-n // 32) * -(-m // 8), rows, points, out, n, m, d)
        return out

    def distances(self, x: Any, centroids: Any, labels: Any) -> np.ndarray:
        return self.device.fetch(self.placed_distances(x, centroids, labels))

    def placed_distances(self, x: Any, centroids: Any, labels: Any) -> Any:
        rows = self._on(x)
        out = self.device.empty(len(rows), np.float64)
        self._distances(rows, None, self._on(centroids), self._on(labels), out, None)
        return out

    def _distances(self, x: Any, weight: Any, centroids: Any, labels: Any, out: Any, largest: Any) -> None:
        """D, times weight where there is one, and the bits of the largest."""
        n, d = x.shape
        self._launch("exact.distances", x, -(-n // 32), x, centroids, labels, weight, out, largest, n, d)

    def total(self, x: Any, weight: Any, centroids: Any, labels: Any) -> int:
        rows, c = self._on(x), self._on(centroids)
        total = 0
        for start in range(0, len(rows), CHUNK_ROWS):
            part = slice(start, min(start + CHUNK_ROWS, len(rows)))
            n = part.stop - start
            out, largest = self.device.empty(n, np.float64), self.device.zeros(1, np.uint64)
            w, own = (None if v is None else self._on(v[part]) for v in (weight, labels))
            self._distances(rows[part], w, c, own, out, largest)
            total += self._sum(out, int(self.device.fetch(largest)[0]), self.device.kind(rows))
        return total << _UNIT_BITS

    def _sum(self, values: Any, largest: int, row: str) -> int:
        """Exact sum of values >= 0 in units of 2^-1074, ``largest`` being the bits of the largest."""
        if largest >= _INFINITE:
            raise ValueError("exact sums need finite values")
        total, top = 0, max((largest >> 52) - 1, 0) + 52
        first = top // _WINDOW_BITS + 1
        more = largest > 0
        while more:
            first = max(first - _WINDOWS, 0)
            sums, below = self.device.zeros(_WINDOWS, np.uint64), self.device.zeros(1, np.int32)
            blocks = self.device.blocks(-(-len(values) // _THREADS))
            self.device.launch("exact.windows", row, blocks, _THREADS, values, sums, below, first, len(values))
            for w, part in enumerate(self.device.fetch(sums)):
                total += int(part) << _WINDOW_BITS * (first + w)
            more = first > 0 and bool(self.device.fetch(below)[0])
        return total

    def column_range(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        rows = self._on(x)
        n, d = rows.shape
        low = self.device.place(np.full(d, ~np.uint64(0)))
        high = self.device.zeros(d, np.uint64)
        self._launch("rows.column_range", rows, -(-n * d // (64 * _THREADS)), rows, low, high, n, d)
        return _from_sortable(self.device.fetch(low)), _from_sortable(self.device.fetch(high))

    def sums(self, k: int, d: int, weighted: bool) -> Sums:
        """Sums of no rows."""
        zeros = self.device.zeros
        sums = Sums(zeros((k, d), np.int64), zeros((k, d), np.int64), zeros(k, np.int64))
        if weighted:
            sums.weight_hi, sums.weight_lo = zeros(k, np.int64), zeros(k, np.int64)
        return sums

    def collect(self, sums: Any) -> ClusterStats:
        if isinstance(sums, ClusterStats):
            return sums.copy()
        arrays: dict[str, Any] = {name: None if v is None else self.device.fetch(v) for name, v in vars(sums).items()}
        stats = ClusterStats(**arrays)
        stats.normalise()
        return stats

    def accumulate(self, stats: Any, x: Any, weight: Any, labels: Any, previous: Any, grid: Grid) -> int:
        on_host = isinstance(stats, ClusterStats)
        sums = self._placed(stats) if on_host else stats
        rows = self._on(x)
        n = len(rows)
        w, own, before = (None if v is None else self._on(v) for v in (weight, labels, previous))
        moved = self.device.zeros(1, np.uint64)
        adder = Adder(self.device, n, len(sums.counts), self.device.place(grid.scales), grid.weight_scale)
        adder.add(sums, rows, w, own, before, moved)
        if on_host:
            for field in fields(Sums):
                if getattr(sums, field.name) is not None:
                    self.device.fetch(getattr(sums, field.name), getattr(stats, field.name))
            stats.normalise()
        return int(self.device.fetch(moved)[0])

    def means(
        self, stats: ClusterStats, grid: Grid, previous: np.ndarray, reference: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        device, (k, d) = self.device, previous.shape
        sums, old = self._placed(stats), self._on(previous)
        mean, shift, gain = (
            device.empty((k, d), previous.dtype),
            device.empty(k, np.float64),
            device.empty(k, np.float64),
        )
        flags = device.zeros(2, np.int32)
        self._launch(
            "update.means", old, -(-k // 32), sums.hi, sums.lo, sums.counts, sums.weight_hi, sums.weight_lo,
            device.place(np.ldexp(1.0, -grid.exponents)), float(np.ldexp(1.0, -grid.weight_exponent)), old,
            device.place(np.ascontiguousarray(reference, np.float64)), mean, None, shift, gain, flags[:1], flags[1:],
            None, k, d,
        )  # fmt: skip
        return device.fetch(mean), device.fetch(shift), device.fetch(gain)

    def run(
        self,
        tracker: Tracked,
        sums: Sums,
        x: Any,
        weight: Any,
        labels: Any,
        centroids: np.ndarray,
        frame: Frame,
        grid: Grid,
        reference: np.ndarray,
        tolerance: float,
        most: int,
    ) -> Iterator[Made]:
        self._rungs.of_data(frame)
        tracker.drop_others(frame, self.cascade.screen)
        shape = self._shape(x.shape[1], len(centroids), centroids.dtype.itemsize)
        # What the fit takes already counts towards a limit.
        limit = None if self._limit_bytes is None else max(0, self._limit_bytes - shape.resident_bytes(len(x)))
        loop = Loop(
            self.device, self._rungs, x, weight, labels, sums, tracker.rounded, centroids, frame, grid, reference,
            room(self.device.free_bytes(), limit),
        )  # fmt: skip
        return loop.run(tolerance, most)

    def lower(self, nearest: Any, x: Any, points: np.ndarray) -> None:
        rows, p, values = self._on(x), self._on(points), self._on(nearest)
        (n, d), m = rows.shape, len(p)
        self._launch("exact.lower", rows, -(-n // 32), rows, p, values, n, m, d)
        if values is not nearest:
            self.device.fetch(values, nearest)

    def potentials(self, nearest: Any, x: Any, weight: Any, points: np.ndarray, exponent: int) -> np.ndarray:
        rows, p = self._on(x), self._on(points)
        (n, d), m = rows.shape, len(p)
        total = self.device.zeros(m, np.uint64)
        w = None if weight is None else self._on(weight)
        self._launch(
            "exact.potentials", rows, -(-n // 32) * -(-m // 8), rows, w, p, self._on(nearest), total,
            float(np.ldexp(1.0, exponent)), n, m, d,
        )  # fmt: skip
        return self.device.fetch(total).view(np.int64)

    def share_totals(self, nearest: Any, weight: Any, exponent: int) -> np.ndarray:
        n = len(nearest)
        blocks = -(-n // SHARE_ROWS)
        totals = self.device.empty(blocks, np.int64)
        self._draw("totals", blocks, nearest, weight, exponent, totals, n, SHARE_ROWS)
        return self.device.fetch(totals)

    def share_rows(
        self, nearest: Any, weight: Any, exponent: int, blocks: np.ndarray, targets: np.ndarray
    ) -> np.ndarray:
        m = len(blocks)
        found = self.device.empty(m, np.int64)
        where, what = self.device.place(blocks), self.device.place(targets)
        self._draw("locate", m, nearest, weight, exponent, where, what, found, len(nearest), SHARE_ROWS, m)
        return self.device.fetch(found)

    def _draw(self, kernel: str, blocks: int, nearest: Any, weight: Any, exponent: int, *args: Any) -> None:
        """A kernel of ``draws.cu``."""
        values, w = self._on(nearest), None if weight is None else self._on(weight)
        scale = float(np.ldexp(1.0, exponent))
        self.device.launch(f"draws.{kernel}", "float64", self.device.blocks(blocks), _THREADS, values, w, scale, *args)

    def takes(self, n_samples: np.ndarray, n_features: int, n_clusters: int) -> np.ndarray:
        return gpu_batch.takes(self.device, self._room(), n_samples, n_features, n_clusters)

    def solve(self, problems: Problems, chosen: np.ndarray, fits: Fits) -> list[np.ndarray]:
        try:
            return gpu_batch.solve(self.device, self._room(), problems, chosen, fits)
        except MemoryError:
            # The ordinary engine takes less at a time, and says so.
            fits.solved[chosen] = 0
            return [np.empty((0, 4)) for _ in chosen]

    def pool(self, x: Any, weight: Any, labels: np.ndarray, nearest: np.ndarray, frame: Frame) -> Pool:
        return GpuPool(self.device, self.certified.cascade, self._room, frame, self._on(x), weight, labels, nearest)

    def _on(self, array: Any) -> Any:
        """The array on the device."""
        return array if self.device.owns(array) else self.device.place(np.ascontiguousarray(array))

    def _placed(self, stats: ClusterStats) -> Sums:
        """A copy of sums on the device."""
        return Sums(
            *(None if v is None else self.device.place(v) for v in (getattr(stats, f.name) for f in fields(Sums)))
        )

    def _launch(self, kernel: str, rows: Any, blocks: int, *args: Any) -> None:
        """A kernel for the type of ``rows``, with at most so many blocks as fill the device."""
        self.device.launch(kernel, self.device.kind(rows), self.device.blocks(blocks), _THREADS, *args)


def _from_sortable(bits: np.ndarray) -> np.ndarray:
    """Numbers from the integers that order as they do (``rows.cu``)."""
    top = np.uint64(1 << 63)
    return np.where(bits & top, bits ^ top, ~bits).view(np.float64)


def gpu_backend(
    library: str, index: int | None, limit_bytes: int | None = None, precision: str = "exact"
) -> GpuBackend:
    """The backend of a library, on its device ``index`` or on its current one.

    Raises
    ------
    BackendUnavailableError
        The device does not exist, its kernels do not run there, or have no such precision.
    """
    if library == "cupy":
        from gpukm.backends.devices.cupy import CupyDevice as Found
    else:
        from gpukm.backends.devices.torch import TorchDevice as Found  # type: ignore[assignment]

    device: Device = Found(index)
    return GpuBackend(device, screen_of(device, precision), limit_bytes, certify=precision == "exact")
