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
        self.rows = device.empty(n, np.int32)

    def sort(self, row: str, numbers: Any, before: Any, counts: Any, when: tuple[Any, int]) -> None:
        """Sort rows of the type ``row`` by ``numbers`` (m,) int32.

        ``before``, if any, becomes the numbers, and ``counts`` (k,) int64 grow by the rows of each. Nothing is done
        unless ``when[0]``, on the device, exceeds ``when[1]``.
        """
        device, m, k = self._device, len(numbers), self.k
        blocks = device.blocks(-(-m // (16 * _THREADS)))
        device.launch("sort.sizes_of", row, blocks, _THREADS, numbers, before, self._sizes, *when, m, k)
        device.launch("sort.line_up", row, 1, 1024, self._sizes, self._cursors, counts, *when, k)
        device.launch("sort.scatter", row, blocks, _THREADS, numbers, self._cursors, self.rows, *when, m, k)
