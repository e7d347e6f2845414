"""The screen by the matrix units, in Triton, on torch tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
from gpukm_kernels.screening import Mode
from gpukm_kernels.triton import screen as kernels
from gpukm_kernels.triton.tiles import Tiles, tiles

from gpukm.backends.cascade import Lists, Packed, Rounded, Screen
from gpukm.backends.device import Device

_THREADS = 256
#: Tiles of centroids that a program makes pairs for at a time: the few rows that are listed shall occupy the device.
_PAIRED_TILES = 4


@dataclass
class _Turns:
    """What is known of rows when their tiles are, and the order in which these have their turn.

    ``tile_of``, ``rest_of`` and ``in_turn`` are of the rows, the others of the tiles but ``always`` (1,).
    """

    tile_of: Any
    rest_of: Any
    in_turn: Any
    sizes: Any
    cursors: Any
    counts: Any
    always: Any


class TritonScreen(Screen):
    """Rows and centroids rounded to the mode's type, multiplied by ``tl.dot``.

    Where there are many tiles of centroids, a first sweep finds which of them has a row's least score, by minima alone;
    rows are sorted by it, and look for their centroid, and what comes next, in that one tile.

    Parameters
    ----------
    device : Device
        Whose arrays are tensors.
    mode : Mode
    chosen : Tiles or None
        For rows of any number of features; None takes them from the table.

    Attributes
    ----------
    least_tiles, least_rows : int
        From how many on there are two steps. *Not measured on a GPU*: sorting and reading the rows once more should
        take as long as labelling them in a tile or two, and eight more launches.
    """

    copies_rows = True
    least_tiles = 6
    least_rows = 1 << 15

    def __init__(self, device: Device, mode: Mode, chosen: Tiles | None = None) -> None:
        self.mode, self._device, self._chosen = mode, device, chosen
        self._go_on = device.zeros(1, "int32")

    def tile(self, k: int, d: int) -> tuple[int, int]:
        found = self._tiles(k, d)
        return found.centroids, found.index_bits

    def _tiles(self, k: int, d: int) -> Tiles:
        """How tiles are cut for k centroids of d features."""
        found = self._chosen or tiles(self._device.model, self._device.capability, self.mode.stored, d)
        return found.for_clusters(k)

    def screen(self, x: Any, rows: Rounded, packed: Packed, labels: Any, lists: Lists, stop: Any, two: bool) -> None:
        (n, d), k = x.shape, len(packed.centroids)
        cut, going_on = self._tiles(k, d), self._go_on if stop is None else stop
        turns = None
        if not two and len(packed.largest) >= self.least_tiles and n >= self.least_rows:
            turns = self._turns(lists, len(packed.largest))
            self._launch(
                kernels.sweep, triton.cdiv(n, cut.rows), cut, rows, packed,
                [*self._vectors(rows, packed)[:-1], turns.tile_of, turns.rest_of, going_on], (n, k),
            )  # fmt: skip
            self._sort(x, turns)
        order = (labels, labels, lists.threshold) if turns is None else (turns.in_turn, turns.tile_of, turns.rest_of)
        self._launch(
            kernels.screen, triton.cdiv(n, cut.rows), cut, rows, packed,
            [*self._vectors(rows, packed), labels, lists.threshold, lists.rows, lists.n_rows, going_on, *order],
            (int(two), n, k), WITHIN=turns is not None,
        )  # fmt: skip

    def pairs(self, x: Any, rows: Rounded, packed: Packed, lists: Lists) -> None:
        (n, d), k = x.shape, len(packed.centroids)
        cut = self._tiles(k, d)
        items = triton.cdiv(n, cut.rows) * triton.cdiv(len(packed.largest), _PAIRED_TILES)
        found = [lists.threshold, lists.rows, lists.n_rows, lists.places, lists.centroids, lists.n_pairs, lists.crowded]
        self._launch(
            kernels.pairs, min(items, 4 * self._device.processors), cut, rows, packed,
            [*self._vectors(rows, packed), *found], (lists.room, k), TILES=_PAIRED_TILES,
        )  # fmt: skip

    def _turns(self, lists: Lists, n_tiles: int) -> _Turns:
        """Those that are kept with the lists."""
        kept, device, n = lists.kept, self._device, len(lists.threshold)
        if kept is None or len(kept.sizes) != n_tiles:
            zeros, empty = device.zeros, device.empty
            lists.kept = _Turns(
                zeros(n, np.int32), empty(n, np.float32), empty(n, np.int32), zeros(n_tiles, np.int32),
                empty(n_tiles, np.int32), zeros(n_tiles, np.int64), device.place(np.ones(1, np.uint64)),
            )  # fmt: skip
        return lists.kept  # type: ignore[no-any-return]

    def _sort(self, x: Any, turns: _Turns) -> None:
        """Line rows up tile by tile, by the kernels that line them up by cluster."""
        n, n_tiles, row, device = len(x), len(turns.sizes), self._device.kind(x), self._device
        blocks, when = device.blocks(-(-n // (16 * _THREADS))), (turns.always, 0)
        device.launch("sort.sizes_of", row, blocks, _THREADS, turns.tile_of, None, turns.sizes, *when, n, n_tiles)
        device.launch("sort.line_up", row, 1, 1024, turns.sizes, turns.cursors, turns.counts, *when, n_tiles)
        device.launch(
            "sort.scatter", row, blocks, _THREADS, turns.tile_of, turns.cursors, turns.in_turn, *when, n, n_tiles
        )

    def _vectors(self, rows: Rounded, packed: Packed) -> list[Any]:
        """What the kernels know of rows and centroids; all but the last is what each of them needs."""
        c = packed.rounded
        return [
            rows.values, rows.norms, rows.residuals, c.values, packed.half_norms, packed.largest, packed.residual,
            packed.order,
        ]  # fmt: skip

    def _launch(
        self, kernel: Any, programs: int, cut: Tiles, rows: Rounded, packed: Packed, arrays: list[Any],
        counts: tuple[int, ...], **constants: Any,
    ) -> None:  # fmt: skip
        """Launch a kernel where the arrays are."""
        pitch = rows.values.shape[1]
        with self._device.here():
            kernel[(programs,)](
                *(self._tensor(array) for array in arrays), *packed.errors, *counts, pitch,
                BLOCK_N=cut.rows, BLOCK_K=cut.centroids, BLOCK_D=cut.features, PRECISION=self.mode.precision,
                WHOLE=pitch <= cut.features, EVEN=pitch % cut.features == 0, num_warps=cut.warps,
                num_stages=cut.stages, enable_fp_fusion=True, **constants,  # bounds hold with fusion and without
            )  # fmt: skip

    def _tensor(self, array: Any) -> torch.Tensor:
        """Halves and counts go by types of the same bits, which Triton reads as what they are."""
        kind = {torch.uint16: torch.float16, torch.uint64: torch.int64}.get(array.dtype)
        return array if kind is None else array.view(kind)  # type: ignore[no-any-return]
