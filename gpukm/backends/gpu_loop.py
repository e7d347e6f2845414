"""Iterations on a GPU without the host, which looks after them every few."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpukm.backends.base import Frame, Made
from gpukm.backends.cascade import Cascade, Rounded
from gpukm.backends.device import Device
from gpukm.core.stats import Grid

_THREADS = 256
#: Iterations between two looks, and what they should take together, so that looking costs next to nothing.
_MOST_UNSEEN = 32
_UNSEEN_SECONDS = 0.02
_LINE = 5
_STOPPED, _EMPTY = 1, 2


class Loop:
    """Lloyd's iterations of rows that lie on the device.

    Parameters
    ----------
    device : Device
    cascade : Cascade
    x : array of shape (n, d)
    weight : array of float64 of shape (n,) or None
    labels : array of int32 of shape (n,)
        As of the iteration before.
    sums : Sums
        Of these labels; both are kept up to date in place.
    rounded : Rounded or None
        The rows as the screen takes them, about the centre of ``frame``.
    centroids : ndarray of shape (k, d)
    frame : Frame
    grid : Grid
    reference : ndarray of shape (d,)
    """

    def __init__(
        self,
        device: Device,
        cascade: Cascade,
        x: Any,
        weight: Any,
        labels: Any,
        sums: Any,
        rounded: Rounded | None,
        centroids: np.ndarray,
        frame: Frame,
        grid: Grid,
        reference: np.ndarray,
    ) -> None:
        k, d = centroids.shape
        self._device, self._cascade, self._x, self._weight = device, cascade, x, weight
        self._before, self._sums, self._rounded = labels, sums, rounded
        self._packed = cascade.pack(centroids, frame)
        self._lists = cascade.lists(len(x))
        self._labels = device.empty(len(x), np.int32)
        self._found = device.empty((k, d), centroids.dtype)
        self._size = 1 << max(0, (k - 1).bit_length())
        self._shifts, self._gains, self._work = (device.empty(m, np.float64) for m in (k, k, self._size))
        self._scales, self._units = device.place(grid.scales), device.place(np.ldexp(1.0, -grid.exponents))
        self._weight_scale = grid.weight_scale
        self._weight_unit = float(np.ldexp(1.0, -grid.weight_exponent))
        self._reference = device.place(np.ascontiguousarray(reference, np.float64))
        self._control, self._counters = device.zeros(4, np.int32), device.zeros(2, np.uint64)

    def run(self, tolerance: float, most: int) -> Iterator[Made]:
        """Go on until little moves, a cluster is empty, or ``most`` iterations are made."""
        device = self._device
        history = device.empty((most + 1, _LINE), np.float64)
        done, unseen = 0, 1
        again = None
        while done < most:
            begun = time.perf_counter()
            for _ in range(unseen):
                if again is None:
                    self._iterate(tolerance, history)
                else:
                    again()
            control = device.fetch(self._control)
            taken = time.perf_counter() - begun
            stop, made = int(control[0]), int(control[1])
            lines = device.fetch(history[done : max(made, done) + (stop == _EMPTY)])
            pending = (int(lines[-1, 2]), int(lines[-1, 3])) if stop == _EMPTY else None
            lines = lines[: made - done]
            if made > done or pending:
                settled = stop == _STOPPED and lines[-1, 4] == 0
                yield Made(device.fetch(self._packed.centroids), lines[:, :4], settled, pending)
            if stop:
                return
            done = made
            if again is None:
                # Once made, so that every kernel is compiled.
                again = device.record(lambda: self._iterate(tolerance, history))
            elif taken < _UNSEEN_SECONDS:
                unseen = min(2 * unseen, _MOST_UNSEEN)
            unseen = min(unseen, most - done)

    def _iterate(self, tolerance: float, history: Any) -> None:
        """Put one iteration into the stream; it does nothing once there is a reason to stop."""
        device, sums, (k, d) = self._device, self._sums, self._packed.centroids.shape
        row, n = device.dtype(self._x), len(self._x)
        cover = 16 * device.processors
        self._cascade.repack(self._packed)
        self._cascade.assign(
            self._x, self._packed, self._labels, self._rounded, self._lists, self._counters, self._control
        )
        device.launch(
            "update.accumulate", row, min(-(-n // _THREADS), cover), _THREADS, self._x, self._weight, self._labels,
            self._before, self._scales, self._weight_scale, sums.hi, sums.lo, sums.counts, sums.weight_hi,
            sums.weight_lo, self._counters[:1], n, d,
        )  # fmt: skip
        device.launch(
            "update.means", row, min(-(-k // 32), cover), _THREADS, sums.hi, sums.lo, sums.counts, sums.weight_hi,
            sums.weight_lo, self._units, self._weight_unit, self._packed.centroids, self._reference, self._found,
            self._shifts, self._gains, self._control[2:3], self._control[3:4], k, d,
        )  # fmt: skip
        device.launch(
            "loop.commit", row, 1, 1024, self._shifts, self._gains, self._work, k, self._size, self._control,
            self._counters, tolerance, history,
        )  # fmt: skip
        device.launch(
            "loop.take_over", row, min(-(-k * d // _THREADS), cover), _THREADS, self._found, self._packed.centroids,
            self._control, k * d,
        )  # fmt: skip
