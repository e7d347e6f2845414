"""Rows lined up by a number that each of them has: its cluster, or the tile of centroids it belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpukm.backends.device import Device

_THREADS = 256


class Sorter:
    """Lines up to n rows up by numbers below k.

    Attributes
    ----------
    rows : array of int32 of shape (n,)
        Rows number by number, in any order within one.
    """

    def __init__(self, device: Device, n: int, k: int) -> None:
        self._device, self.k = device, k
        self._sizes, self._cursors = device.zeros(k, np.int32), device.empty(k, np.int32)
        self._done = device.zeros(1, np.int32)
        self.rows = device.empty(n, np.int32)

    def sort(
        self, row: str, numbers: Any, before: Any = None, counts: Any = None, moved: Any = None,
        when: tuple[Any, int] = (None, 0),
    ) -> None:  # fmt: skip
        """Sort rows of the type ``row`` by ``numbers`` (m,) int32.

        ``before``, if any, becomes the numbers, ``counts`` (k,) int64 grow by the rows of each, and ``moved``, uint64
        (1,), by the rows that had another number. Nothing is done unless ``when[0]``, if any, on the device, exceeds
        ``when[1]``.
        """
        device, m, k = self._device, len(numbers), self.k
        blocks = device.blocks(-(-m // (16 * _THREADS)))
        # Blocks of many threads: the last of them goes through all clusters.
        device.launch(
            "sort.line_up", row, device.blocks(-(-m // (4 * 1024))), 1024, numbers, before, self._sizes, self._done,
            self._cursors, counts, moved, *when, m, k,
        )  # fmt: skip
        device.launch("sort.scatter", row, blocks, _THREADS, numbers, self._cursors, self.rows, *when, m, k)
