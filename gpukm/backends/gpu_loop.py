"""Iterations on a GPU without the host, which looks after them every few."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpukm.backends.base import Effort, Frame, Made
from gpukm.backends.cascade import Cascade, Rounded
from gpukm.backends.device import Device
from gpukm.backends.gpu_follow import Follow, Gate, bytes_of, groups_of
from gpukm.backends.gpu_rungs import Rungs
from gpukm.backends.gpu_sums import Adder, Sums
from gpukm.backends.notices import say_once
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
    rungs : Rungs
    x : array of shape (n, d)
    weight : array of float64 of shape (n,) or None
    labels : array of int32 of shape (n,)
        As of the iteration before.
    sums : Sums
        Of these labels; both are kept up to date in place.
    rounded : Rounded or None
        The rows as the screen of now takes them, about the centre of ``frame``.
    centroids : ndarray of shape (k, d)
    frame : Frame
    grid : Grid
    reference : ndarray of shape (d,)
    room : int
        Bytes that may be taken for bounds.
    """

    def __init__(
        self,
        device: Device,
        rungs: Rungs,
        x: Any,
        weight: Any,
        labels: Any,
        sums: Sums,
        rounded: Rounded | None,
        centroids: np.ndarray,
        frame: Frame,
        grid: Grid,
        reference: np.ndarray,
        room: int,
    ) -> None:
        k, d = centroids.shape
        self._device, self._rungs, self._x, self._weight = device, rungs, x, weight
        self._before, self._sums, self._frame = labels, sums, frame
        self._screen_by(rungs.now, centroids, rounded)
        self._lists = rungs.now.lists(len(x))
        self._labels = device.empty(len(x), np.int32)
        self._previous = device.empty((k, d), centroids.dtype)
        self._size = 1 << max(0, (k - 1).bit_length())
        self._shifts, self._gains, self._work = (device.empty(m, np.float64) for m in (k, k, self._size))
        self._adder = Adder(device, len(x), k, device.place(grid.scales), grid.weight_scale)
        self._units = device.place(np.ldexp(1.0, -grid.exponents))
        self._weight_unit = float(np.ldexp(1.0, -grid.weight_exponent))
        self._reference = device.place(np.ascontiguousarray(reference, np.float64))
        # Nothing is known of what moves at first: it may be all.
        self._control, self._counters = device.zeros(4, np.int32), device.place(np.array([0, 0, len(x)], np.uint64))
        # When to follow is decided at looks, which come as time passes: labels must not depend on it.
        self._has_room = rungs.now.certify and bytes_of(len(x), k, d) <= room
        self._follow: Follow | None = None
        self._scored = 0  # as of the last look

    def run(self, tolerance: float, most: int) -> Iterator[Made]:
        """Go on until little moves, a cluster is empty, or ``most`` iterations are made."""
        try:
            yield from self._run(tolerance, most)
        finally:
            # What is labelled next is judged by itself.
            self._rungs.look(0)

    def _run(self, tolerance: float, most: int) -> Iterator[Made]:
        """Iterate, and look every few."""
        device = self._device
        history = device.empty((most + 1, _LINE), np.float64)
        done, unseen = 0, 1
        again: Callable[[], None] | None = None
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
            effort = self._effort(made - done + (stop == _EMPTY))
            if made > done or pending:
                settled = stop == _STOPPED and lines[-1, 4] == 0
                # An empty cluster is given a row by distances from the centroids that rows were labelled by.
                centroids = self._previous if pending else self._packed.centroids
                yield Made(device.fetch(centroids), lines[:, :4], settled, pending, effort)
            if stop:
                return
            labelled = (made - done) * len(self._x)
            done = made
            if self._climb(labelled) or self._switch(float(lines[-1, 2]) / len(self._x), effort):
                again, unseen = None, 1
            elif again is None:
                again = self._recorded(lambda: self._iterate(tolerance, history))
            elif taken < _UNSEEN_SECONDS:
                unseen = min(2 * unseen, _MOST_UNSEEN)
            unseen = min(unseen, most - done)

    def _recorded(self, iterate: Callable[[], None]) -> Callable[[], None]:
        """An iteration that was made once, so that every kernel is compiled, as the device repeats it fastest."""
        try:
            return self._device.record(iterate)
        except RuntimeError as error:
            say_once("graph", f"iterations are not recorded as a CUDA graph, and take longer to launch ({error})")
            return iterate

    def _effort(self, iterations: int) -> Effort | None:
        """What bounds saved in the iterations since the last look."""
        if self._follow is None:
            return None
        before, self._scored = self._scored, self._follow.scored()
        pairs = iterations * len(self._x) * groups_of(len(self._gains))
        return Effort(frozenset(["follow" if before else "fill"]), self._scored - before, pairs)

    def _climb(self, labelled: int) -> bool:
        """Go on by another screen, if that is due after so many rows were labelled."""
        if not self._rungs.look(labelled if self._follow is None else 0):
            return False
        self._rounded = None  # before there is memory for others
        self._screen_by(self._rungs.now, self._device.fetch(self._packed.centroids), None)
        return True

    def _screen_by(self, cascade: Cascade, centroids: np.ndarray, rounded: Rounded | None) -> None:
        """Take a cascade from now on; rows are rounded for it here, since an iteration is recorded with its memory."""
        self._packed = cascade.pack(centroids, self._frame)
        self._rounded = cascade.round(self._x, self._packed) if rounded is None else rounded
        self._gate = Gate(len(centroids), cascade.by_matrix)

    def _switch(self, moved: float, effort: Effort | None) -> bool:
        """Begin to follow bounds or end it, if that is due where the last iteration ``moved`` so much of the rows."""
        if self._follow is None:
            if not self._has_room or not self._gate.begin(moved):
                return False
            centroids = self._device.fetch(self._packed.centroids)
            try:
                self._follow = Follow(self._device, self._x, self._packed, centroids, self._frame)
            except MemoryError:
                # What was free may be taken by now, or lie in pieces.
                self._has_room = False
            return self._has_room
        assert effort is not None
        if "fill" in effort.plans or not self._gate.end(effort.n_scored / effort.n_pairs, moved):
            return False
        self._follow, self._scored = None, 0
        return True

    def _iterate(self, tolerance: float, history: Any) -> None:
        """Put one iteration into the stream; it does nothing once there is a reason to stop."""
        device, sums, (k, d) = self._device, self._sums, self._packed.centroids.shape
        row = device.kind(self._x)
        if self._follow is None:
            cascade = self._rungs.of(self._packed)
            cascade.repack(self._packed)
            cascade.assign(
                self._x, self._packed, self._labels, self._rounded, self._lists, self._counters, self._control
            )
        else:
            self._follow.assign(
                self._x, self._before, self._labels, self._shifts, self._lists, self._counters, self._control
            )
        moved, before = self._counters[:1], self._counters[2:]
        self._adder.add(sums, self._x, self._weight, self._labels, self._before, moved, before)
        centroids, stop = self._packed.centroids, self._control[:1]
        device.launch(
            "update.means", row, device.blocks(-(-k // 32)), _THREADS, sums.hi, sums.lo, sums.counts, sums.weight_hi,
            sums.weight_lo, self._units, self._weight_unit, centroids, self._reference, centroids, self._previous,
            self._shifts, self._gains, self._control[2:3], self._control[3:4], stop, k, d,
        )  # fmt: skip
        device.launch(
            "loop.commit", row, 1, 1024, self._shifts, self._gains, self._work, k, self._size, self._control,
            self._counters, tolerance, history,
        )  # fmt: skip
