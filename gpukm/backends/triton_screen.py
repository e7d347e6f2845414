"""The screen by the matrix units, in Triton, on torch tensors."""

from __future__ import annotations

from typing import Any

import torch
import triton
from gpukm_kernels.screening import Mode
from gpukm_kernels.triton import screen as kernels
from gpukm_kernels.triton.tiles import Tiles, tiles

from gpukm.backends.cascade import Lists, Packed, Rounded
from gpukm.backends.device import SHORT, Device
from gpukm.backends.two_steps import Turns, TwoStepScreen

#: Tiles of centroids that a program makes pairs for at a time: the few rows that are listed shall occupy the device.
_PAIRED_TILES = 4


class TritonScreen(TwoStepScreen):
    """Rows and centroids rounded to the mode's type, multiplied by ``tl.dot``.

    Parameters
    ----------
    device : Device
        Whose arrays are tensors.
    mode : Mode
    chosen : Tiles or None
        For rows of any number of features; None takes them from the table.
    """

    def __init__(self, device: Device, mode: Mode, chosen: Tiles | None = None) -> None:
        super().__init__(device, mode)
        self._chosen = chosen
        self._go_on = device.zeros(1, "int32")

    def tile(self, k: int, d: int) -> tuple[int, int]:
        found = self._tiles(k, d)
        return found.centroids, found.index_bits

    def _tiles(self, k: int, d: int) -> Tiles:
        """How tiles are cut for k centroids of d features."""
        # Of 16 bits one type is as the other.
        stored = "float16" if self.mode.stored in SHORT else self.mode.stored
        found = self._chosen or tiles(self._device.model, self._device.capability, stored, d)
        return found.for_clusters(k)

    def find_tiles(self, x: Any, rows: Rounded, packed: Packed, turns: Turns, stop: Any) -> None:
        (n, d), k = x.shape, len(packed.centroids)
        cut, going_on = self._tiles(k, d), self._go_on if stop is None else stop
        self._launch(
            kernels.sweep, triton.cdiv(n, cut.rows), cut, rows, packed,
            [turns.tile_of, turns.rest_of, going_on], (n, k),
        )  # fmt: skip

    def label(
        self, x: Any, rows: Rounded, packed: Packed, labels: Any, lists: Lists, stop: Any, two: bool,
        turns: Turns | None,
    ) -> None:  # fmt: skip
        (n, d), k = x.shape, len(packed.centroids)
        cut, going_on = self._tiles(k, d).with_places, self._go_on if stop is None else stop
        # Something of the type, where there are no turns.
        order = (labels, labels, lists.threshold) if turns is None else (turns.in_turn, turns.tile_of, turns.rest_of)
        self._launch(
            kernels.screen, triton.cdiv(n, cut.rows), cut, rows, packed,
            [packed.order, labels, lists.threshold, lists.rows, lists.n_rows, going_on, *order],
            (int(two), n, k), WITHIN=turns is not None,
        )  # fmt: skip

    def pairs(self, x: Any, rows: Rounded, packed: Packed, lists: Lists) -> None:
        (n, d), k = x.shape, len(packed.centroids)
        cut = self._tiles(k, d).with_places
        items = triton.cdiv(n, cut.rows) * triton.cdiv(len(packed.largest), _PAIRED_TILES)
        self._launch(
            kernels.pairs, min(items, 4 * self._device.processors), cut, rows, packed,
            [packed.order, lists.threshold, lists.rows, lists.n_rows, lists.places, lists.centroids, lists.n_pairs,
             lists.crowded], (lists.room, k), TILES=_PAIRED_TILES,
        )  # fmt: skip

    def _launch(
        self, kernel: Any, programs: int, cut: Tiles, rows: Rounded, packed: Packed, arrays: list[Any],
        counts: tuple[int, ...], **constants: Any,
    ) -> None:  # fmt: skip
        """What all kernels are given, and what each is besides."""
        c, pitch = packed.rounded, rows.values.shape[1]
        vectors = (rows.values, rows.norms, rows.residuals, c.values)
        bounds = (packed.half_norms, packed.largest, packed.residual)
        with self._device.here():
            kernel[(programs,)](
                *(self._tensor(array) for array in (*vectors, *bounds, *arrays)), *packed.errors, *counts, pitch,
                BLOCK_N=cut.rows, BLOCK_K=cut.centroids, BLOCK_D=cut.features, PRECISION=self.mode.precision,
                WHOLE=pitch <= cut.features, EVEN=pitch % cut.features == 0, num_warps=cut.warps,
                num_stages=cut.stages, enable_fp_fusion=True, **constants,  # bounds hold with fusion and without
            )  # fmt: skip

    def _tensor(self, array: Any) -> torch.Tensor:
        """Numbers of 16 bits and counts go by types of the same bits, which Triton reads as what they are."""
        kind = {torch.uint16: self.mode.stored, torch.uint64: "int64"}.get(array.dtype)
        return array if kind is None else array.view(getattr(torch, kind))  # type: ignore[no-any-return]
