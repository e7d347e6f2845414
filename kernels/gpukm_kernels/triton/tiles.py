"""Tiles of the screen, by architecture and shape."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tiles:
    """How a screen is cut.

    Attributes
    ----------
    rows, centroids, features : int
        Of a block; powers of two, at least 16. ``centroids`` is at most 256, and they share a bound.
    warps, stages : int
        Of a program, and tiles that are loaded ahead.
    """

    rows: int
    centroids: int
    features: int
    warps: int
    stages: int

    @property
    def index_bits(self) -> int:
        """Bits that tell centroids of a tile apart."""
        return self.centroids.bit_length() - 1


def tiles(capability: tuple[int, int], stored: str, d: int) -> Tiles:
    """Tiles for rows of ``d`` features stored as float16 or float32.

    *Not measured on a GPU*: what the shared memory of the architecture holds, as kernels of others are cut.
    """
    if stored == "float32":
        return Tiles(64, 64, 32 if d > 16 else 16, 4, 3 if capability >= (8, 0) else 2)
    width = max(16, min(1 << (d - 1).bit_length(), 256))
    if capability >= (9, 0):
        # 227 KiB of shared memory: rows stay there as long as all their features fit a tile.
        return {
            16: Tiles(128, 128, 16, 8, 3),
            32: Tiles(128, 128, 32, 8, 3),
            64: Tiles(128, 128, 64, 8, 3),
            128: Tiles(128, 128, 128, 8, 3),
        }.get(width, Tiles(128, 128, 64, 8, 4))
    if capability in ((8, 6), (8, 9)):
        return {16: Tiles(128, 64, 16, 4, 3), 32: Tiles(128, 64, 32, 4, 3)}.get(width, Tiles(128, 64, 64, 4, 2))
    return {16: Tiles(128, 128, 16, 4, 3), 32: Tiles(128, 128, 32, 4, 3)}.get(width, Tiles(128, 128, 64, 8, 3))
