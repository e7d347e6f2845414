"""Order-free sums of clusters on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpukm.backends.device import Device
from gpukm.backends.gpu_sort import Sorter

_THREADS = 256
#: Rows that are sorted at a time, which bounds the memory of their order.
_SORTED_ROWS = 1 << 24
#: The part of the rows from which on it is faster to add up all than to move those that moved; not measured on a GPU.
_MANY = 8


@dataclass
class Sums:
    """Sums of clusters on a device; arrays as of :class:`gpukm.core.stats.ClusterStats`."""

    hi: Any
    lo: Any
    counts: Any
    weight_hi: Any = None
    weight_lo: Any = None


class Adder:
    """Adds rows to sums: those that moved, or all of them sorted by cluster where many did the last time.

    Parameters
    ----------
    device : Device
    n, k : int
        Rows and clusters.
    scales : array of float64 of shape (d,)
        On the device.
    weight_scale : float
    """

    def __init__(self, device: Device, n: int, k: int, scales: Any, weight_scale: float) -> None:
        self._device, self._scales, self._weight_scale, self._k = device, scales, weight_scale, k
        # Beneath which grid's power of two a row of weight one stays.
        self._top = int(np.frexp(weight_scale)[1])
        self._sorted_rows = max(1, min(n, _SORTED_ROWS))
        self._sorter: Sorter | None = None

    def add(
        self, sums: Sums, x: Any, weight: Any, labels: Any, before: Any, moved: Any, moved_before: Any = None
    ) -> None:
        """Add rows x (n, d), or with ``before`` follow those whose label changed.

        ``before`` becomes the labels, and ``moved``, uint64 (1,), grows by the rows that changed. With
        ``moved_before``, uint64 (1,), the same of the last time, sums hold these rows alone, and are made anew where
        that was many: how many it is this time is only known when all are seen.
        """
        device, (n, d), k = self._device, x.shape, self._k
        row, when = device.kind(x), (None if before is None else moved_before, n // _MANY)

        def launch(kernel: str, pieces: int, *args: Any) -> None:
            """A kernel, with as many blocks as fill the device at most."""
            device.launch(kernel, row, device.blocks(pieces), _THREADS, *args)

        if before is not None:
            launch(
                "update.accumulate", -(-n // _THREADS), x, weight, labels, before, self._scales, self._weight_scale,
                sums.hi, sums.lo, sums.counts, sums.weight_hi, sums.weight_lo, moved, *when, n, k, d,
            )  # fmt: skip
            if moved_before is None:
                return
        for start in range(0, n, _SORTED_ROWS):
            part = slice(start, min(start + _SORTED_ROWS, n))
            m, own = part.stop - start, labels[part]
            w, old = (None if v is None else v[part] for v in (weight, before))
            if self._sorter is None:
                self._sorter = Sorter(device, self._sorted_rows, k)
            self._sorter.sort(row, own, old, sums.counts, moved, when)
            launch(
                "sort.add_runs", -(-m // (8 * 64)), x[part], w, own, self._sorter.rows, self._scales,
                self._weight_scale, self._top, sums.hi, sums.lo, sums.weight_hi, sums.weight_lo, *when, m, d,
            )  # fmt: skip
