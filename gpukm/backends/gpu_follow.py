"""Labels on a GPU by bounds that are followed from iteration to iteration; the kernels of ``follow.cu``.

A group is a tile of neighbouring centroids. Every row keeps, for each group, what its distance to the group's centroids
other than its own is at least. What centroids move lowers the bounds; only where one does not lie above the distance to
the own centroid is the row compared with the group's centroids again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from gpukm_kernels.screening import PAD, PLAIN, exponent_of

from gpukm.backends.base import Frame
from gpukm.backends.cascade import CHUNK_ROWS, Cascade, Lists, Packed
from gpukm.backends.device import Device
from gpukm.backends.plain_screen import PlainScreen

#: Centroids of a group, as ``tile.cuh`` has them, and groups that a block can count.
GROUP = 64
_MOST_GROUPS = 8192
#: When bounds pay, not measured on a GPU: groups at least; the share of rows that move below which bounds are kept; the
#: share of pairs of a row and a group that may survive where the alternative are plain multiply-adds, or matrix units;
#: and at how many looks in a row more survive before bounds are given up.
LEAST_GROUPS = 4
BEGIN_MOVED = 1 / 16
PLAIN_SHARE, MATRIX_SHARE = 1 / 2, 1 / 12
PATIENCE = 2
#: Survivors that there is room for, a row of a chunk; where they are more all listed rows are compared with all groups.
_SURVIVORS = 4
_THREADS = 256
_TURNS = 4


def groups_of(k: int) -> int:
    """Groups of k centroids."""
    return -(-k // GROUP)


def bytes_of(n: int, k: int, d: int) -> int:
    """Memory that following takes."""
    chunk, groups = min(n, CHUNK_ROWS), groups_of(k)
    bounds, lists = n * (4 * groups + 8), chunk * (13 + 4 * _SURVIVORS)
    return bounds + lists + groups * (4 * GROUP + 32) + k * (4 * (d + PAD) + 24)


class Follow:
    """Bounds of the rows of one loop; at first they are zero, and the first call leaves them.

    Parameters
    ----------
    device : Device
    x : array of shape (n, d)
    packed : Packed
        Its ``centroids`` are those that labels are of, and change in place.
    centroids : ndarray of shape (k, d)
        The same on the host.
    frame : Frame
    """

    def __init__(self, device: Device, x: Any, packed: Packed, centroids: np.ndarray, frame: Frame) -> None:
        (n, d), k = x.shape, len(centroids)
        chunk, self._groups = max(1, min(n, CHUNK_ROWS)), groups_of(k)
        self._device = device
        self._cascade = Cascade(device, PlainScreen(device, PLAIN))
        order = neighbours(centroids, frame)
        own = self._cascade.pack(centroids, frame, order)
        self._packed = replace(own, centroids=packed.centroids)
        self._rounded = self._cascade.round(x, self._packed)
        group_of = np.empty(k, np.int32)
        group_of[order] = np.arange(k) // GROUP
        self._group_of = device.place(group_of)
        self._lower = device.zeros((n, self._groups), np.float32)
        self._steps = device.empty(self._groups, np.float32)
        self._limits, self._own = device.empty(chunk, np.uint32), device.empty(chunk, np.uint64)
        self._asked = device.empty(chunk, np.uint8)
        self._counts = device.zeros(self._groups, np.int32)
        self._sizes, self._cursors = (device.empty(self._groups, np.int32) for _ in range(2))
        self._firsts = device.empty(self._groups + 2, np.int32)
        self._room = -(-_SURVIVORS * chunk // GROUP) + self._groups
        self._survivors = device.empty(self._room * GROUP, np.int32)
        self._scored = device.zeros(1, np.uint64)
        exact = (d / 8 + 8) * 2.0**-53
        self._unit = packed.scale, (d + 8) * 2.0**-1074, exact

    def scored(self) -> int:
        """Pairs of a row and a group that were scored so far."""
        return int(self._device.fetch(self._scored)[0])

    def assign(self, x: Any, before: Any, labels: Any, shifts: Any, lists: Lists, counters: Any, stop: Any) -> None:
        """Write exact labels (n,) of rows x (n, d), or nothing where ``stop``, of int32, begins with another than zero.

        ``before`` are the labels of the call before, ``shifts`` (k,) float64 D of what centroids have moved since, and
        ``counters[1]``, uint64, grows by the rows that D decided.
        """
        row, k = self._device.kind(x), len(self._packed.centroids)
        self._cascade.repack(self._packed)
        blocks = self._device.blocks(-(-self._groups // (_THREADS // 32)))
        self._device.launch(
            "follow.steps", row, blocks, _THREADS, shifts, self._packed.order, *self._unit, self._steps, k, self._groups
        )
        for start in range(0, len(x), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            self._assign(rows, x[rows], before[rows], labels[rows], lists, counters, stop)

    def _assign(self, rows: slice, x: Any, before: Any, labels: Any, lists: Lists, counters: Any, stop: Any) -> None:
        """One chunk."""
        device, (n, d), packed, groups = self._device, x.shape, self._packed, self._groups
        row, k = device.kind(x), len(packed.centroids)
        rounded, lower = self._rounded.part(rows), self._lower[rows]
        listed, own = (lists.rows, lists.n_rows), self._own
        pairs = lists.places, lists.centroids, lists.n_pairs, lists.room

        def launch(kernel: str, pieces: int, *args: Any, shared: int = 0) -> None:
            """A kernel, with as many blocks as fill the device at most."""
            device.launch(kernel, row, device.blocks(pieces), _THREADS, *args, shared=shared)

        each = -(-n // _THREADS)
        launch(
            "follow.look", -(-n // 32), x, packed.centroids, before, labels, self._steps, lower, rounded.norms,
            *self._unit, *listed, self._limits, own, lists.best, lists.crowded, self._asked, self._counts, stop, n,
            groups, d, shared=4 * groups,
        )  # fmt: skip
        device.launch(
            "follow.line_up", row, 1, 32, lists.n_rows, self._counts, self._sizes, self._cursors, self._firsts,
            self._room, self._scored, groups,
        )  # fmt: skip
        launch(
            "follow.fill", each, *listed, own, lower, *self._unit, self._firsts, self._cursors, self._survivors, groups
        )
        launch(
            "follow.score", -(-n // GROUP) * groups, x, packed.center, packed.scale, rounded.norms, rounded.residuals,
            packed.rounded.values, packed.half_norms, packed.largest, packed.residual, packed.order, *packed.errors,
            before, *listed, self._firsts, self._sizes, self._survivors, self._limits, lower, self._asked, *pairs,
            lists.crowded, groups, k, d,
        )  # fmt: skip
        launch("decide.measure", -(-n // 32), x, packed.centroids, lists.rows, *pairs, lists.distances, lists.best, d)
        launch("follow.claim", each, *listed, own, lists.best, self._asked, before, labels, counters)
        launch(
            "decide.choose", n, x, packed.centroids, *listed, n, *pairs, lists.distances, lists.crowded, labels,
            lists.best, None, lists.tally, k, d,
        )  # fmt: skip
        launch("follow.leave", each, *listed, own, before, labels, self._group_of, *self._unit, lower, groups)
        # What D decided is counted by then.
        self._cascade.clear(lists, x, None)


class Gate:
    """When to follow and when to stop it, from what was counted.

    Parameters
    ----------
    k : int
        Centroids.
    by_matrix : bool
        Labels without bounds are made by matrix units.
    """

    def __init__(self, k: int, by_matrix: bool) -> None:
        self._possible = LEAST_GROUPS <= groups_of(k) <= _MOST_GROUPS
        self._share = MATRIX_SHARE if by_matrix else PLAIN_SHARE
        self._moved, self._above = BEGIN_MOVED, 0

    def begin(self, moved: float) -> bool:
        """Whether to follow where this share of the rows moved."""
        return self._possible and moved < self._moved

    def end(self, share: float, moved: float) -> bool:
        """Whether to stop where this share of the pairs was scored; next time fewer rows have to move."""
        self._above = self._above + 1 if share > self._share else 0
        if self._above < PATIENCE:
            return False
        self._moved, self._above = moved / 2, 0
        return True


def neighbours(centroids: np.ndarray, frame: Frame) -> np.ndarray:
    """Order of centroids (k, d), int32, in which each :data:`GROUP` that follow one another lie close together.

    Halves them across their longest direction, over and over.
    """
    scale = np.ldexp(1.0, exponent_of(frame.radius))
    with np.errstate(over="ignore"):
        points = ((centroids - frame.center) * scale).clip(-(2.0**40), 2.0**40).astype(np.float32)
    order, todo = np.arange(len(points)), [(0, len(points))]
    while todo:
        first, last = todo.pop()
        groups = groups_of(last - first)
        if groups < 2:
            continue
        here = order[first:last]
        part = points[here]
        part = part - part.mean(axis=0)
        order[first:last] = here[np.argsort(part @ _direction(part), kind="stable")]
        middle = first + (groups + 1) // 2 * GROUP
        todo += [(first, middle), (middle, last)]
    return order.astype(np.int32)


def _direction(points: np.ndarray) -> np.ndarray:
    """About the longest, of centred points (m, d)."""
    v = np.zeros(points.shape[1], np.float32)
    v[np.einsum("ij,ij->j", points, points).argmax()] = 1
    for _ in range(_TURNS):
        w = points.T @ (points @ v)
        length = np.abs(w).max()
        if not 0 < length < np.inf:
            break
        v = w / length
    return v
