"""Exact assignment on a GPU: a screen settles nearly all rows, and D decides among what it leaves of the others.

The screen gives every row a centroid and a bound, and lists the rows whose centroid is not proved to be the nearest; a
second sweep over those makes pairs of a row and each centroid that its bound does not exclude; D decides among pairs.
All of it stays on the device, however long the lists get.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from gpukm_kernels.screening import PAD, PLAIN, Mode, errors, exponent_of

from gpukm.backends.base import Frame
from gpukm.backends.device import SHORT, Device

#: Rows that are screened at a time, which bounds the memory of lists.
CHUNK_ROWS = 1 << 22
#: The same where every row is listed.
_LISTED_ROWS = 1 << 19
#: Pairs that there is room for, a row of a chunk; what finds none is compared with all centroids.
_PAIRS = 2
_LEAST_PAIRS = 1 << 16
_THREADS = 256
#: Bytes that are copied at once, and whose multiples rows begin at.
_ALIGNED = 16
#: Half a squared norm of what fills tiles up; nothing is known of a centroid with half of it (``round.cu``).
_NOWHERE = 3e38


@dataclass(frozen=True)
class Rounded:
    """Vectors as a screen takes them, and bounds (n,); what is not asked for is None.

    Attributes
    ----------
    values : array of shape (n, pitch) or None
        None where the screen rounds rows itself.
    norms, residuals : array of float32 of shape (n,) or None
        None where nothing is certified.
    """

    values: Any
    norms: Any
    residuals: Any

    def part(self, rows: slice) -> Rounded:
        """Some of them."""
        return Rounded(*(None if v is None else v[rows] for v in (self.values, self.norms, self.residuals)))


@dataclass(frozen=True)
class Packed:
    """Centroids in an order, of their norms unless another is given, in which those of a tile share a bound.

    Attributes
    ----------
    screen : Screen
        What they are packed for.
    centroids : array of shape (k, d)
        As they are, in the order they came in.
    order : array of int32 of shape (k,)
        Which of them stands where.
    rounded : Rounded
    half_norms : array of float32, of the centroids of whole tiles
        Where nothing is certified those of the rounded centroids, of which one is the nearest by scores then.
    largest, residual : array of float32 of shape (tiles,)
        Of the norms and residuals of a tile; zeros where nothing is certified.
    center : array of float64 of shape (d,)
    scale : float
    errors : tuple of float
    """

    screen: Screen
    centroids: Any
    order: Any
    rounded: Rounded
    half_norms: Any
    largest: Any
    residual: Any
    center: Any
    scale: float
    errors: tuple[float, float, float, float]


class Lists:
    """Where a screen puts what it cannot settle, of at most ``n`` rows at a time.

    Attributes
    ----------
    threshold : array of float32 of shape (n,)
        What the score of a row's nearest centroid, or its second nearest, does not exceed.
    rows : array of int64 of shape (n,)
        Listed rows, in any order.
    n_rows, n_pairs : array of uint64 of shape (1,)
        ``n_pairs`` may exceed the room there is for pairs.
    places, centroids : array of int32 of shape (room,)
        Pairs of a place in the list and a centroid.
    distances : array of float64 of shape (room,)
        D of each pair.
    best : array of uint64 of shape (n,)
        Bits of the smallest D of each place.
    crowded : array of uint8 of shape (n,)
        Places with pairs that found no room.
    tally : array of uint64 of shape (2,) or None
        Grows by pairs that D was evaluated for, and rows that it compared with all centroids.
    kept : object
        What a screen keeps besides from call to call.
    """

    def __init__(self, device: Device, n: int, pairs: int, tally: Any = None) -> None:
        self.tally = tally
        self.zeros: Any = None  # as errors of rows
        self.kept: Any = None
        self.room = max(_LEAST_PAIRS, pairs * n)
        self.threshold, self.rows = device.empty(n, np.float32), device.empty(n, np.int64)
        self.n_rows, self.n_pairs = device.zeros(1, np.uint64), device.zeros(1, np.uint64)
        self.places, self.centroids = device.empty(self.room, np.int32), device.empty(self.room, np.int32)
        self.distances, self.best = device.empty(self.room, np.float64), device.empty(n, np.uint64)
        self.crowded = device.empty(n, np.uint8)


class Screen(ABC):
    """A screen's two kernels, in one mode.

    Attributes
    ----------
    mode : Mode
    copies_rows : bool
        Whether it needs the values of rows in the mode's type, or rounds them as it goes.
    """

    mode: Mode
    copies_rows: bool

    def by(self, mode: Mode) -> Screen:
        """The same in another mode, of vectors of 16 bits as well."""
        found = copy(self)
        found.mode = mode
        return found

    @abstractmethod
    def tile(self, k: int, d: int) -> tuple[int, int]:
        """For k centroids of d features: those that share a bound, and lowest bits of a score that a place replaces."""

    @abstractmethod
    def screen(self, x: Any, rows: Rounded, packed: Packed, labels: Any, lists: Lists, stop: Any, two: bool) -> None:
        """Label rows x (n, d) and list those that are not settled; with ``two`` all, for their second nearest.

        Nothing is done where ``stop``, an array of int32 or None, begins with a number that is not zero.
        """

    @abstractmethod
    def pairs(self, x: Any, rows: Rounded, packed: Packed, lists: Lists) -> None:
        """Make pairs of the listed rows."""


class Cascade:
    """The whole of it, on one device.

    Parameters
    ----------
    device : Device
    screen : Screen
    certify : bool
        False gives every row the centroid of its lowest score, and proves nothing.
    as_they_lie : bool
        Whether rows of the screen's own type are taken from where they lie: about the origin, and unscaled. Nothing can
        be certified then.
    tally : array of uint64 of shape (2,) or None
        That of another cascade, to count on from there.

    Attributes
    ----------
    screen : Screen
    certify : bool
    tally : array of uint64 of shape (2,)
        As of :class:`Lists`, of all labels but those of :meth:`assign_two`.
    """

    def __init__(
        self, device: Device, screen: Screen, certify: bool = True, tally: Any = None, *, as_they_lie: bool = False
    ) -> None:
        self._device, self.screen, self.certify, self._as_they_lie = device, screen, certify, as_they_lie
        self.tally = device.zeros(2, np.uint64) if tally is None else tally

    @property
    def copies_rows(self) -> bool:
        """As of its screen."""
        return self.screen.copies_rows

    @property
    def by_matrix(self) -> bool:
        """Whether matrix units may screen."""
        return self.screen.mode.name != PLAIN.name

    def pack(self, centroids: np.ndarray, frame: Frame, order: np.ndarray | None = None) -> Packed:
        """Pack centroids (k, d), in the dtype of the rows, in an ``order`` (k,) int32 or by their norms."""
        device, screen, (k, d) = self._device, self.screen, centroids.shape
        center, exponent = frame.center, exponent_of(frame.radius)
        if self._as_they_lie:
            center, exponent = np.zeros(d), 0
        if order is None:
            centred = (centroids - center.astype(centroids.dtype)).astype(np.float64)
            order = np.argsort(np.einsum("kd,kd->k", centred, centred), kind="stable").astype(np.int32)
        tile, index_bits = screen.tile(k, d)
        tiles = -(-k // tile)
        largest, residual = (device.zeros(tiles, np.float32) for _ in range(2))
        packed = Packed(
            screen,
            device.place(np.ascontiguousarray(centroids)),
            device.place(order),
            # Whole tiles: beyond the last centroid there is nothing that a row could be near to.
            self._room(tiles * tile, d, device.zeros),
            device.place(np.full(tiles * tile, _NOWHERE, np.float32)),
            largest,
            residual,
            device.place(np.ascontiguousarray(center, np.float64)),
            float(np.ldexp(1.0, exponent)),
            errors(screen.mode, d, exponent, index_bits) if self.certify else (0.0, 0.0, 0.0, 0.0),
        )
        self.repack(packed)
        return packed

    def repack(self, packed: Packed) -> None:
        """Pack centroids again that have changed on the device, in the same order."""
        (k, d), row = packed.centroids.shape, self._device.kind(packed.centroids)
        self._round(packed.centroids, packed, packed.rounded, packed.order, packed.half_norms)
        if not self.certify:
            return
        tile, _ = self.screen.tile(k, d)
        self._device.launch(
            "round.tile_bounds", row, self._device.blocks(-(-len(packed.largest) // _THREADS)), _THREADS,
            packed.rounded.norms, packed.rounded.residuals, packed.largest, packed.residual, k, tile,
        )  # fmt: skip

    def round(self, x: Any, packed: Packed) -> Rounded:
        """What the screen takes of rows x (n, d)."""
        n, d = x.shape
        if not self.certify and (not self.copies_rows or self._lies(x)):
            return Rounded(x if self.copies_rows else None, None, None)
        rounded = self._room(n, d, self._device.empty if self.screen.copies_rows else None)
        self._round(x, packed, rounded, None, None)
        return rounded

    def _lies(self, x: Any) -> bool:
        """Whether the screen takes rows x (n, d) from where they lie."""
        device = self._device
        own = self._as_they_lie and device.kind(x) == self.screen.mode.stored
        return own and x.shape[1] % PAD == 0 and device.address(x) % _ALIGNED == 0

    def _room(self, n: int, d: int, of_values: Callable[[Any, Any], Any] | None) -> Rounded:
        """Memory for rounded vectors; None keeps no values."""
        mode, device = self.screen.mode, self._device
        # Halves go by their bits: not every library knows the type.
        stored = np.uint16 if mode.stored in SHORT else np.float32
        pitch = -(-d // PAD) * PAD
        return Rounded(
            None if of_values is None else of_values((n, pitch), stored),
            *(device.empty(n, np.float32) if self.certify else None for _ in range(2)),
        )

    def _round(self, x: Any, packed: Packed, to: Rounded, order: Any, half_norms: Any) -> None:
        """Round vectors about the centre."""
        (n, d), device = x.shape, self._device
        device.launch(
            f"round.round_{self.screen.mode.rounding}", device.kind(x), device.blocks(-(-n // (_THREADS // 32))),
            _THREADS, x, packed.center, packed.scale, order, to.values, to.norms, to.residuals, half_norms, n, d,
            -(-d // PAD) * PAD,
        )  # fmt: skip

    def pairs(self, x: Any, rows: Rounded, packed: Packed, lists: Lists) -> None:
        """Make pairs of each listed row of x (n, d) and the centroids that its threshold does not exclude."""
        self.screen.pairs(x, rows, packed, lists)

    def lists(self, n: int, *, two: bool = False) -> Lists:
        """Lists for calls on up to n rows."""
        if two:
            return Lists(self._device, max(1, min(n, _LISTED_ROWS)), 4 * _PAIRS)
        return Lists(self._device, max(1, min(n, CHUNK_ROWS)), _PAIRS, self.tally)

    def assign(
        self,
        x: Any,
        packed: Packed,
        labels: Any,
        rounded: Rounded | None = None,
        lists: Lists | None = None,
        counters: Any = None,
        stop: Any = None,
    ) -> None:
        """Write labels (n,) int32 of rows x (n, d); ``counters[1]``, uint64, grows by the rows that D decides."""
        if lists is None:
            lists = self.lists(len(x))
        for start in range(0, len(x), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            part = self.round(x[rows], packed) if rounded is None else rounded.part(rows)
            self._assign(x[rows], part, packed, labels[rows], lists, None, stop)
            counted = counters if self.certify else None
            self.clear(lists, x, counted)

    def assign_two(self, x: Any, packed: Packed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, and D to the nearest and the second nearest, on the host, which are always certified."""
        assert self.certify
        n, device = len(x), self._device
        labels, nearest, second = np.empty(n, np.int32), np.empty(n), np.empty(n)
        for start in range(0, n, _LISTED_ROWS):
            rows = slice(start, min(start + _LISTED_ROWS, n))
            m = rows.stop - start
            found, next_, lists = device.empty(m, np.int32), device.empty(m, np.uint64), self.lists(m, two=True)
            self._assign(x[rows], self.round(x[rows], packed), packed, found, lists, next_, None)
            # By places in the list, which holds every row once.
            places = start + device.fetch(lists.rows)
            labels[rows] = device.fetch(found)
            nearest[places] = device.fetch(lists.best).view(np.float64)
            second[places] = device.fetch(next_).view(np.float64)
        return labels, nearest, second

    def _assign(self, x: Any, rows: Rounded, packed: Packed, labels: Any, lists: Lists, second: Any, stop: Any) -> None:
        """One chunk; with ``second`` all rows are listed, and it becomes the bits of D to the second nearest."""
        (n, d), k = x.shape, len(packed.centroids)
        listed, pairs = (lists.rows, lists.n_rows), (lists.places, lists.centroids, lists.n_pairs, lists.room)

        def launch(kernel: str, *args: Any) -> None:
            """A kernel of ``decide.cu``."""
            self._device.launch(kernel, self._device.kind(x), self._device.blocks(-(-n // _THREADS)), _THREADS, *args)

        if not self.certify:
            self.screen.screen(x, self._unbounded(rows, n, lists), packed, labels, lists, stop, False)
            return
        self.screen.screen(x, rows, packed, labels, lists, stop, second is not None)
        launch("decide.begin", *listed, n, lists.best, second, lists.crowded, labels)
        self.screen.pairs(x, rows, packed, lists)
        launch("decide.measure", x, packed.centroids, lists.rows, *pairs, lists.distances, lists.best, d)
        launch(
            "decide.choose", x, packed.centroids, *listed, n, *pairs, lists.distances, lists.crowded, labels,
            lists.best, second, lists.tally, k, d,
        )  # fmt: skip
        if second is not None:
            launch("decide.runner_up", lists.rows, *pairs, lists.distances, lists.crowded, labels, second)

    def clear(self, lists: Lists, x: Any, counters: Any) -> None:
        """Empty lists of rows x, and count what they held, in ``counters`` unless that is None."""
        self._device.launch(
            "loop.clear", self._device.kind(x), 1, 1, lists.n_rows, lists.n_pairs, lists.room, counters, lists.tally
        )

    def _unbounded(self, rows: Rounded, n: int, lists: Lists) -> Rounded:
        """So many rows with errors of zero, which make a screen take the lowest score for the nearest centroid's."""
        if lists.zeros is None:
            # Kept with the lists, which live as long as a recorded iteration.
            lists.zeros = self._device.zeros(len(lists.threshold), np.float32)
        return Rounded(rows.values, lists.zeros[:n], lists.zeros[:n])
