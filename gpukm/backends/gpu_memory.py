"""What a fit takes on a device, in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from gpukm_kernels.cuda.copies import LOCKED_BYTES, SLOTS
from gpukm_kernels.screening import PAD

from gpukm.backends.cascade import CHUNK_ROWS

#: Of what is free: allocators round up, and other work on the device goes on.
_SHARE = 0.9
#: Labels twice, norm and residual, and the distance to the nearest seed.
_ROW_STATE_BYTES = 24
#: Lists of a screen, a row of a chunk.
_LIST_BYTES = 72
_MOST_STREAMED_ROWS = 1 << 22


@dataclass(frozen=True)
class Shape:
    """What memory depends on; ``copies_rows`` as of :class:`gpukm.backends.cascade.Screen`."""

    n_features: int
    n_clusters: int
    itemsize: int
    copies_rows: bool

    @property
    def row_bytes(self) -> int:
        """A row, its weight, and the row as the screen takes it."""
        rounded = 2 * -(-self.n_features // PAD) * PAD if self.copies_rows else 0
        return self.n_features * self.itemsize + 8 + rounded

    @property
    def centroid_bytes(self) -> int:
        """Centroids before and after, rounded, and two limbs of each sum."""
        return self.n_clusters * (self.n_features * (3 * self.itemsize + 4 + 16) + 128)

    def resident_bytes(self, n_samples: int) -> int:
        """All rows on the device, and what a fit keeps of them."""
        lists = min(n_samples, CHUNK_ROWS) * _LIST_BYTES
        return n_samples * (self.row_bytes + _ROW_STATE_BYTES) + lists + self.centroid_bytes

    def streamed_rows(self, room_bytes: int) -> int:
        """Rows at a time that find room with all else that streaming takes; at least one."""
        return max(1, min(_MOST_STREAMED_ROWS, (room_bytes - self.centroid_bytes) // self._streamed_row_bytes))

    def streamed_bytes(self, rows: int) -> int:
        """What streaming so many rows at a time takes."""
        return rows * self._streamed_row_bytes + self.centroid_bytes

    @property
    def _streamed_row_bytes(self) -> int:
        """A row of the blocks that are kept on the device, with its lists and state."""
        return SLOTS * self.row_bytes + _ROW_STATE_BYTES + _LIST_BYTES


def locked_bytes(rows: int, row_bytes: int, held_bytes: int) -> int:
    """Page-locked memory of the host that copies of so many rows at a time go through.

    None is taken where all rows are held in one array of ``held_bytes`` that is locked itself.
    """
    return 0 if held_bytes >= LOCKED_BYTES else SLOTS * rows * (row_bytes + 8)


def room(free_bytes: int, limit_bytes: int | None) -> int:
    """What may be taken of what is free, within a limit that the user sets."""
    most = int(_SHARE * free_bytes)
    return most if limit_bytes is None else min(most, limit_bytes)
