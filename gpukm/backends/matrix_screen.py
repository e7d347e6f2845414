"""The screen by the matrix units in CUDA C++, for libraries of arrays that have no Triton."""

from __future__ import annotations

from typing import Any

from gpukm_kernels.screening import SHARED_KIB

from gpukm.backends.cascade import Lists, Packed, Rounded
from gpukm.backends.two_steps import Turns, TwoStepScreen

#: As ``matrix.cu`` has them: rows and centroids of a tile, threads, features of a piece, pieces that stages hold.
_TILE, _THREADS, _DEEP, _STAGES = 128, 128, 32, 3
#: A thread tells its own centroids of a tile apart.
_PLACE_BITS = 4
_HALF_NORMS, _PIECE = 2 * _TILE * 4, _TILE * _DEEP * 2
#: KiB of a processor's shared memory that each block has taken, and blocks that share it.
_TAKEN, _BLOCKS = 1, 2


class MatrixScreen(TwoStepScreen):
    """Rows and centroids rounded to a type of 16 bits; the kernels of ``matrix.cu``.

    Parameters
    ----------
    device : Device
        Of compute capability 8.0 or more.
    mode : Mode
        What the matrix units do with that type.
    """

    def tile(self, k: int, d: int) -> tuple[int, int]:
        return _TILE, _PLACE_BITS

    def find_tiles(self, x: Any, rows: Rounded, packed: Packed, turns: Turns, stop: Any) -> None:
        n, k = len(x), len(packed.centroids)
        self._launch("find_tiles", -(-n // _TILE), rows, packed, turns.tile_of, turns.rest_of, stop, n, k)

    def label(
        self, x: Any, rows: Rounded, packed: Packed, labels: Any, lists: Lists, stop: Any, two: bool,
        turns: Turns | None,
    ) -> None:  # fmt: skip
        n, k = len(x), len(packed.centroids)
        to = (packed.order, labels, lists.threshold, lists.rows, lists.n_rows)
        if turns is None:
            self._launch("label", -(-n // _TILE), rows, packed, *to, int(two), stop, n, k)
        else:
            order = (turns.in_turn, turns.tile_of, turns.rest_of)
            self._launch("label_within", -(-n // _TILE), rows, packed, *to, *order, stop, n, k)

    def pairs(self, x: Any, rows: Rounded, packed: Packed, lists: Lists) -> None:
        self._launch(
            "pairs", min(-(-len(x) // _TILE), _BLOCKS * self._device.processors), rows, packed, packed.order,
            lists.threshold, lists.rows, lists.n_rows, lists.places, lists.centroids, lists.n_pairs, lists.room,
            lists.crowded, len(packed.centroids),
        )  # fmt: skip

    def _launch(self, kernel: str, blocks: int, rows: Rounded, packed: Packed, *args: Any) -> None:
        """What all kernels are given, and what each is besides."""
        c, pitch = packed.rounded, rows.values.shape[1]
        pieces, resident = self._pieces(pitch)
        # Compiled for the type of the values: nothing in it depends on the rows' own.
        self._device.launch(
            f"matrix.{kernel}", self.mode.stored, blocks, _THREADS, rows.values, rows.norms, rows.residuals, c.values,
            packed.half_norms, packed.largest, packed.residual, *packed.errors, *args, pitch, int(resident),
            shared=_HALF_NORMS + (_STAGES + pieces) * _PIECE,
        )  # fmt: skip

    def _pieces(self, pitch: int) -> tuple[int, bool]:
        """Pieces of rows in shared memory, and whether these are all of them."""
        room = (SHARED_KIB.get(self._device.capability, 100) // _BLOCKS - _TAKEN) << 10
        pieces = -(-pitch // _DEEP)
        fits = _HALF_NORMS + (_STAGES + pieces) * _PIECE <= room
        return (pieces, True) if fits else (_STAGES, False)
