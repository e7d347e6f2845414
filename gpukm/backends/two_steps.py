"""Screens by matrix units in two steps: which tile of centroids a row belongs to, and which centroid of that tile."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from gpukm_kernels.screening import Mode

from gpukm.backends.cascade import Lists, Packed, Rounded, Screen
from gpukm.backends.device import Device
from gpukm.backends.gpu_sort import Sorter


@dataclass
class Turns:
    """What is known of rows when their tiles are, and the order in which these have their turn.

    Attributes
    ----------
    tile_of : array of int32 of shape (n,)
        The tile of a row's lowest upper bound.
    rest_of : array of float32 of shape (n,)
        What the scores of centroids elsewhere do not fall below.
    sorter : Sorter
        Rows tile by tile.
    """

    tile_of: Any
    rest_of: Any
    sorter: Sorter

    @property
    def in_turn(self) -> Any:
        """Rows tile by tile, int32 of shape (n,)."""
        return self.sorter.rows


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
        take as long as labelling them in a tile or two, and there are three more launches.
    """

    copies_rows = True
    least_tiles = 6
    least_rows = 1 << 15

    def __init__(self, device: Device, mode: Mode) -> None:
        self.mode, self._device = mode, device

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
            # By the kernels that line rows up by cluster.
            turns.sorter.sort(self._device.kind(x), turns.tile_of[: len(x)])
        self.label(x, rows, packed, labels, lists, stop, two, turns)

    def _turns(self, lists: Lists, n_tiles: int) -> Turns:
        """Those that are kept with the lists."""
        kept, device, n = lists.kept, self._device, len(lists.threshold)
        if kept is None or kept.sorter.k != n_tiles:
            lists.kept = Turns(
                device.zeros(n, np.int32),
                device.empty(n, np.float32),
                Sorter(device, n, n_tiles),
            )
        return lists.kept  # type: ignore[no-any-return]
