"""Candidates for centres on a GPU: a screen, D for what it leaves open, and a greedy choice in one block of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpukm.backends.base import Frame, Pool
from gpukm.backends.cascade import Cascade, Lists, Packed, Rounded
from gpukm.backends.device import Device

_THREADS = 256
#: Threads that choose.
_CHOOSERS = 1024
#: Looks at candidates in one launch, each some microseconds: displays must not wait for longer.
_STEPS = 1 << 15
#: Pairs that there is room for at first, a row.
_PAIRS = 8
#: Memory to be had for a pair: it lies in a screen's lists, then in a candidate's, while there are old ones of both.
_PAIR_BYTES = 64


class GpuPool(Pool):
    """Candidates and their lists on the device; kernels of ``pool.cu``.

    Labels and distances that are NumPy's have a copy on the device, which they follow after each choice.

    Parameters
    ----------
    device : Device
    cascade : Cascade
        Whose screen finds what candidates may be nearer to.
    room : callable
        Bytes that may be taken on the device.
    frame : Frame
    x : array of the device of shape (n, n_features)
    weight, labels, nearest : arrays of shape (n,)
        As of :class:`Pool`, on the device or the host.
    """

    def __init__(
        self,
        device: Device,
        cascade: Cascade,
        room: Callable[[], int],
        frame: Frame,
        x: Any,
        weight: Any,
        labels: Any,
        nearest: Any,
    ) -> None:
        super().__init__(x, weight, labels, nearest)
        self._device, self._cascade, self._room, self._frame = device, cascade, room, frame
        self._weight, self._labels, self._nearest = (
            array if array is None or device.owns(array) else device.place(np.ascontiguousarray(array))
            for array in (weight, labels, nearest)
        )
        self._rounded: Rounded | None = None
        self._lists: Lists | None = None
        self._candidates = np.empty(0, np.int64)
        # Of all candidates their lists one after another, and where each begins and how long it is.
        self._rows: Any = None
        self._distances: Any = None
        self._starts: Any = None
        self._counts: Any = None

    def add(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        device, (n, d) = self._device, self.x.shape
        points = device.empty((len(rows), d), device.wide(self.x))
        self._launch(
            "rows.gather", len(rows) * d, self.x, device.place(np.ascontiguousarray(rows)), points, len(rows), d
        )
        packed = self._cascade.pack(device.fetch(points), self._frame)
        if self._rounded is None:
            self._rounded = self._cascade.round(self.x, packed)
        if self._lists is None:
            self._lists = Lists(device, n, _PAIRS)
        n_pairs = self._pair(packed, self._rounded, self._lists)
        if n_pairs > self._lists.room:
            self._lists = None
            parts = min(-(-n_pairs * _PAIR_BYTES // max(1, self._room())), len(rows))
            if parts > 1:
                for part in np.array_split(rows, parts):
                    self.add(part)
                return
            self._lists = Lists(device, n, -(-5 * n_pairs // (4 * n)))
            self._pair(packed, self._rounded, self._lists)
        pairs = self._lists.places, self._lists.centroids, self._lists.distances
        counts = device.zeros(len(rows), np.int32)
        self._launch("pool.measure", 8 * n_pairs, self.x, packed.centroids, self._nearest, *pairs, counts, n_pairs, d)
        old = self._make_room(rows, device.fetch(counts))
        self._launch(
            "pool.fill", n_pairs, *pairs, self._starts[old:], self._counts[old:], self._rows, self._distances, n_pairs
        )

    def _pair(self, packed: Packed, rounded: Rounded, lists: Lists) -> int:
        """List pairs of a row and a candidate that may be nearer than its centre; there may be more than have room."""
        n, d = self.x.shape
        self._launch(
            "pool.begin", 8 * n, self.x, packed.center, packed.scale, self._nearest, lists.threshold, lists.rows,
            lists.n_rows, lists.n_pairs, n, d,
        )  # fmt: skip
        self._cascade.pairs(self.x, rounded, packed, lists)
        return int(self._device.fetch(lists.n_pairs)[0])

    def _make_room(self, rows: np.ndarray, counts: np.ndarray) -> int:
        """Take candidates whose lists, of so many rows, are empty as yet; how many others still have rows."""
        device = self._device
        starts, sizes = np.empty(0, np.int64), np.empty(0, np.int32)
        if len(self._candidates):
            starts, sizes = device.fetch(self._starts), device.fetch(self._counts)
        kept = np.flatnonzero(sizes)
        ends = np.cumsum(np.concatenate([sizes[kept], counts]), dtype=np.int64)
        total, old = int(ends[-1]), len(kept)
        to = device.place(np.concatenate([[0], ends[:-1]]))
        own, distances = device.empty(total, np.int32), device.empty(total, np.float64)
        if old:
            self._launch(
                "pool.move", 32 * old, device.place(starts[kept]), device.place(sizes[kept]), self._rows,
                self._distances, to, own, distances, old,
            )  # fmt: skip
        self._candidates = np.concatenate([self._candidates[kept], rows])
        self._starts, self._counts = to, device.place(np.concatenate([sizes[kept], np.zeros_like(counts)]))
        self._rows, self._distances = own, distances
        return old

    def choose(self, n: int, first: int, exponent: int, enough: int) -> np.ndarray:
        device, m = self._device, len(self._candidates)
        most = min(n, m)
        if not most:
            return np.empty(0, np.int64)
        scale = float(np.ldexp(1.0, exponent))
        gains, chosen, state = device.empty(m, np.int64), device.empty(most, np.int32), device.zeros(3, np.int64)
        lists = self._starts, self._counts, self._rows, self._distances, gains
        self._launch("pool.look", 32 * m, self._nearest, self._weight, scale, *lists, m)
        found, over = 0, 0
        while not over:
            device.launch(
                "pool.choose", device.kind(self.x), 1, _CHOOSERS, self._nearest, self._labels, self._weight, scale,
                *lists, chosen, state, m, first, most, enough, _STEPS,
            )  # fmt: skip
            found, _, over = device.fetch(state).tolist()
        for own, array in ((self._labels, self.labels), (self._nearest, self.nearest)):
            if own is not array:
                device.fetch(own, array)
        return self._candidates[device.fetch(chosen)[:found]]

    def _launch(self, kernel: str, threads: int, *args: Any) -> None:
        """A kernel for so many threads, or as many as fill the device."""
        device = self._device
        device.launch(kernel, device.kind(self.x), device.blocks(-(-threads // _THREADS)), _THREADS, *args)
