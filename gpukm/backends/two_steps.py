"""Screens by matrix units in two steps: which tile of centroids a row belongs to, and which centroid of that tile."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from gpukm_kernels.screening import Mode

from gpukm.backends.cascade import Lists, Packed, Rounded, Screen
from gpukm.backends.device import Device

_THREADS = 256


@dataclass
class Turns:
    """What is known of rows when their tiles are, and the order in which these have their turn.

    Attributes
    ----------
    tile_of : array of int32 of shape (n,)
        The tile of a row's lowest upper bound.
    rest_of : array of float32 of shape (n,)
        What the scores of centroids elsewhere do not fall below.
    in_turn : array of int32 of shape (n,)
        Rows tile by tile, in any order within one.
    sizes, cursors, counts : array of shape (tiles,)
        For sorting; ``sizes`` are zero in between.
    """

    tile_of: Any
    rest_of: Any
    in_turn: Any
    sizes: Any
    cursors: Any
    counts: Any


class TwoStepScreen(Screen):
    """Where there are many tiles of centroids, a first sweep finds by minima alone to which of them a row belongs.

    Rows are sorted by it, and look for their centroid, and for what comes next, in that one tile.

    Parameters
    ----------
    device : Device
    mode : Mode

    Attributes
    ----------
    least_tiles, least_rows : int
        From how many on there are two steps. *Not measured on a GPU*: sorting and reading the rows once more should
        take as long as labelling them in a tile or two, and there are four more launches.
    """

    copies_rows = True
    least_tiles = 6
    least_rows = 1 << 15

    def __init__(self, device: Device, mode: Mode) -> None:
        self.mode, self._device = mode, device
        self._always = device.place(np.ones(1, np.uint64))

    @abstractmethod
    def find_tiles(self, x: Any, rows: Rounded, packed: Packed, turns: Turns, stop: Any) -> None:
        """Write ``tile_of`` and ``rest_of`` of rows x (n, d)."""

    @abstractmethod
    def label(
        self, x: Any, rows: Rounded, packed: Packed, labels: Any, lists: Lists, stop: Any, two: bool,
        turns: Turns | None,
    ) -> None:  # fmt: skip
        """As :meth:`screen`; with ``turns`` each row in its tile alone."""

    def screen(self, x: Any, rows: Rounded, packed: Packed, labels: Any, lists: Lists, stop: Any, two: bool) -> None:
        n_tiles, turns = len(packed.largest), None
        # Labels without errors may depend on the steps, hence not on how many rows come at once.
        enough = len(x) >= self.least_rows or not any(packed.errors)
        if not two and n_tiles >= self.least_tiles and enough:
            turns = self._turns(lists, n_tiles)
            self.find_tiles(x, rows, packed, turns, stop)
            self._sort(x, turns)
        self.label(x, rows, packed, labels, lists, stop, two, turns)

    def _turns(self, lists: Lists, n_tiles: int) -> Turns:
        """Those that are kept with the lists."""
        kept, device, n = lists.kept, self._device, len(lists.threshold)
        if kept is None or len(kept.sizes) != n_tiles:
            zeros, empty = device.zeros, device.empty
            lists.kept = Turns(
                zeros(n, np.int32), empty(n, np.float32), empty(n, np.int32), zeros(n_tiles, np.int32),
                empty(n_tiles, np.int32), zeros(n_tiles, np.int64),
            )  # fmt: skip
        return lists.kept  # type: ignore[no-any-return]

    def _sort(self, x: Any, turns: Turns) -> None:
        """Line rows up tile by tile, by the kernels that line them up by cluster."""
        n, n_tiles, row, device = len(x), len(turns.sizes), self._device.kind(x), self._device
        blocks, when = device.blocks(-(-n // (16 * _THREADS))), (self._always, 0)
        device.launch("sort.sizes_of", row, blocks, _THREADS, turns.tile_of, None, turns.sizes, *when, n, n_tiles)
        device.launch("sort.line_up", row, 1, 1024, turns.sizes, turns.cursors, turns.counts, *when, n_tiles)
        device.launch(
            "sort.scatter", row, blocks, _THREADS, turns.tile_of, turns.cursors, turns.in_turn, *when, n, n_tiles
        )
