"""The screen by the matrix units, in Triton, on torch tensors."""

from __future__ import annotations

from typing import Any

import torch
import triton
from gpukm_kernels.screening import Mode
from gpukm_kernels.triton import screen as kernels
from gpukm_kernels.triton.tiles import Tiles, tiles

from gpukm.backends.cascade import Lists, Packed, Rounded, Screen
from gpukm.backends.device import Device


class TritonScreen(Screen):
    """Rows and centroids rounded to the mode's type, multiplied by ``tl.dot``.

    Parameters
    ----------
    device : Device
        Whose arrays are tensors.
    mode : Mode
    chosen : Tiles or None
        For rows of any number of features; None takes them from the table.
    """

    copies_rows = True

    def __init__(self, device: Device, mode: Mode, chosen: Tiles | None = None) -> None:
        self.mode, self._device, self._chosen = mode, device, chosen
        self._go_on = device.zeros(1, "int32")

    def tile(self, d: int) -> tuple[int, int]:
        found = self._tiles(d)
        return found.centroids, found.index_bits

    def _tiles(self, d: int) -> Tiles:
        """How tiles are cut for rows of d features."""
        return self._chosen or tiles(self._device.model, self._device.capability, self.mode.stored, d)

    def screen(self, x: Any, rows: Rounded, packed: Packed, labels: Any, lists: Lists, stop: Any, two: bool) -> None:
        n, d = x.shape
        with self._device.here():
            self._screen(n, d, rows, packed, labels, lists, stop, two)

    def _screen(
        self, n: int, d: int, rows: Rounded, packed: Packed, labels: Any, lists: Lists, stop: Any, two: bool
    ) -> None:
        """Launch where the arrays are."""
        kernels.screen[(triton.cdiv(n, self._tiles(d).rows),)](
            *self._vectors(rows, packed), *self._tensors(labels, lists.threshold, lists.rows, lists.n_rows),
            self._tensor(self._go_on if stop is None else stop), *packed.errors, int(two), n, len(packed.centroids),
            rows.values.shape[1], **self._constants(d, rows),
        )  # fmt: skip

    def pairs(self, x: Any, rows: Rounded, packed: Packed, lists: Lists) -> None:
        n, d = x.shape
        programs = min(triton.cdiv(n, self._tiles(d).rows), 4 * self._device.processors)
        found = self._tensors(
            lists.threshold, lists.rows, lists.n_rows, lists.places, lists.centroids, lists.n_pairs, lists.crowded
        )
        with self._device.here():
            kernels.pairs[(programs,)](
                *self._vectors(rows, packed), *found, *packed.errors, lists.room, len(packed.centroids),
                rows.values.shape[1], **self._constants(d, rows),
            )  # fmt: skip

    def _vectors(self, rows: Rounded, packed: Packed) -> list[Any]:
        """What both kernels know of rows and centroids."""
        c = packed.rounded
        return [
            *self._tensors(rows.values, rows.norms, rows.residuals, c.values, packed.half_norms, packed.largest),
            *self._tensors(packed.residual, packed.order),
        ]

    def _constants(self, d: int, rows: Rounded) -> dict[str, Any]:
        """How tiles are cut."""
        t = self._tiles(d)
        return {
            "BLOCK_N": t.rows,
            "BLOCK_K": t.centroids,
            "BLOCK_D": t.features,
            "PRECISION": self.mode.precision,
            "WHOLE": rows.values.shape[1] <= t.features,
            "num_warps": t.warps,
            "num_stages": t.stages,
            "enable_fp_fusion": True,  # bounds hold either way
        }

    def _tensors(self, *arrays: Any) -> list[torch.Tensor]:
        """Each as Triton takes it."""
        return [self._tensor(array) for array in arrays]

    def _tensor(self, array: Any) -> torch.Tensor:
        """Halves and counts go by types of the same bits, which Triton reads as what they are."""
        kind = {torch.uint16: torch.float16, torch.uint64: torch.int64}.get(array.dtype)
        return array if kind is None else array.view(kind)  # type: ignore[no-any-return]
