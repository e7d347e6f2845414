"""Tiles of the screen: a table by architecture and shape, and what was found to be faster on this machine.

What `gpukm tune` finds is kept in ``tiles.json`` beside the compiled CUDA kernels: an object of device, type and
features to five numbers. Nothing in it is executed, and what is no tile is passed over.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import astuple, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from gpukm_kernels.cuda.driver import cache_folder


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

    def for_clusters(self, k: int) -> Tiles:
        """The same, with no more centroids in a tile than there are."""
        return replace(self, centroids=min(self.centroids, max(16, 1 << (k - 1).bit_length())))

    @property
    def with_places(self) -> Tiles:
        """The same where second scores and places are asked for, for which sixteen warps have no registers."""
        return replace(self, rows=max(16, self.rows // 2), warps=8) if self.warps == 16 else self

    @property
    def sound(self) -> bool:
        """Whether the kernels take them."""
        powers = (self.rows, self.centroids, self.features)
        return (
            all(isinstance(n, int) for n in astuple(self))
            and all(16 <= n <= 256 and n & (n - 1) == 0 for n in powers)
            and self.warps in (1, 2, 4, 8, 16)
            and 1 <= self.stages <= 8
        )


def tiles(device: str, capability: tuple[int, int], stored: str, d: int) -> Tiles:
    """Tiles for rows of ``d`` features stored as float16 or float32: those found on this device, else of the table."""
    return _found().get(key(device, stored, d)) or table(capability, stored, d)


def table(capability: tuple[int, int], stored: str, d: int) -> Tiles:
    """Tiles by architecture and shape.

    *Not measured on a GPU*: what the shared memory of the architecture holds, as kernels of others are cut.
    """
    if stored == "float32":
        return Tiles(64, 64, 32 if d > 16 else 16, 4, 3 if capability >= (8, 0) else 2)
    width = _width(d)
    if capability >= (9, 0):
        # Up to 128 features two blocks share a processor, and one multiplies while the other compares; above, groups of
        # four warps take turns within one. Rows stay in shared memory while all their features have room; else many
        # rows make up for what is read again and again.
        again = Tiles(256, 128, 64, 16, 4) if capability < (10, 0) else Tiles(128, 128, 64, 8, 3)
        # Of 129 to 192 features a quarter of a whole tile would be zeros.
        return {
            16: Tiles(128, 128, 16, 8, 3),
            32: Tiles(128, 128, 32, 8, 3),
            64: Tiles(128, 128, 64, 8, 3),
            128: Tiles(128, 128, 128, 8, 2),
            256: Tiles(128, 128, 256, 8, 2),
        }.get(width if d <= 128 or 192 < d <= 256 else 0, again)
    if capability in ((8, 6), (8, 9)):
        return {
            16: Tiles(128, 64, 16, 4, 3),
            32: Tiles(128, 64, 32, 4, 3),
            64: Tiles(128, 64, 64, 4, 2),
        }.get(width, Tiles(128, 128, 64, 8, 2))
    return {16: Tiles(128, 128, 16, 4, 3), 32: Tiles(128, 128, 32, 4, 3)}.get(width, Tiles(128, 128, 64, 8, 3))


def candidates(stored: str, d: int, shared_bytes: int) -> list[Tiles]:
    """Tiles that registers and ``shared_bytes`` of shared memory hold, likely ones first."""
    width, size, made = _width(d), 2 if stored == "float16" else 4, []
    shapes = ((128, 128), (256, 128), (128, 256), (256, 64), (64, 256), (64, 128), (128, 64), (64, 64))
    for rows, centroids in shapes:
        for features in sorted({width, min(width, 64), min(width, 128)}, reverse=True):
            for warps in (8, 16, 4):
                # Sixteen warps have half the registers a thread; few threads with many sums have too little to do.
                if not 16 <= rows * centroids // (32 * warps) <= {4: 64, 8: 128, 16: 64}[warps]:
                    continue
                whole = features >= d
                for stages in (2, 3) if whole else (3, 4):
                    shared = size * features * (rows * (1 if whole else stages) + centroids * stages)
                    if shared <= shared_bytes:
                        made.append(Tiles(rows, centroids, features, warps, stages))
    return made


def key(device: str, stored: str, d: int) -> str:
    """What tiles are kept by: features count in powers of two, up to 512."""
    return f"{device} {stored} {min(1 << (d - 1).bit_length(), 512)}"


def keep(found: dict[str, Tiles]) -> Path | None:
    """Add tiles to those that were found before; None where there is no folder to keep them in."""
    folder = cache_folder()
    if folder is None:
        return None
    path = folder.parent / "tiles.json"
    merged = {**_found(), **found}
    handle, aside = tempfile.mkstemp(dir=folder.parent)
    with os.fdopen(handle, "w") as file:
        json.dump({name: astuple(t) for name, t in sorted(merged.items())}, file, indent=1)
    Path(aside).replace(path)
    _found.cache_clear()
    return path


@cache
def _found() -> dict[str, Tiles]:
    """Tiles that were found on this machine."""
    folder = cache_folder()
    try:
        held: Any = json.loads((folder.parent / "tiles.json").read_text()) if folder else {}
        made = {str(name): Tiles(*numbers) for name, numbers in held.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return {name: t for name, t in made.items() if t.sound}


def _width(d: int) -> int:
    """Features of a tile that holds all of a row, 256 at most."""
    return max(16, min(1 << (d - 1).bit_length(), 256))
