"""The screen that any device can run: CUDA kernels in float32."""

from __future__ import annotations

from typing import Any

from gpukm_kernels.screening import Mode

from gpukm.backends.cascade import Lists, Packed, Rounded, Screen
from gpukm.backends.device import Device


class PlainScreen(Screen):
    """Float32 by plain multiply-adds; the kernels of ``screen.cu``."""

    copies_rows = False

    def __init__(self, device: Device, mode: Mode) -> None:
        self.mode, self._device = mode, device

    def tile(self, k: int, d: int) -> tuple[int, int]:
        return 64, 0

    def screen(self, x: Any, rows: Rounded, packed: Packed, labels: Any, lists: Lists, stop: Any, two: bool) -> None:
        n, d = x.shape
        self._launch(
            "screen.screen", x, rows, packed, labels, lists.threshold, lists.rows, lists.n_rows, stop, int(two), n,
            len(packed.centroids), d,
        )  # fmt: skip

    def pairs(self, x: Any, rows: Rounded, packed: Packed, lists: Lists) -> None:
        self._launch(
            "screen.pairs", x, rows, packed, lists.threshold, lists.rows, lists.n_rows, lists.places, lists.centroids,
            lists.n_pairs, lists.room, lists.crowded, len(packed.centroids), x.shape[1],
        )  # fmt: skip

    def _launch(self, kernel: str, x: Any, rows: Rounded, packed: Packed, *args: Any) -> None:
        """What both kernels are given, and what each is besides."""
        blocks = min(-(-len(x) // 64), 8 * self._device.processors)
        self._device.launch(
            kernel, self._device.kind(x), blocks, 256, x, packed.center, packed.scale, rows.norms, rows.residuals,
            packed.rounded.values, packed.half_norms, packed.largest, packed.residual, packed.order, *packed.errors,
            *args,
        )  # fmt: skip
