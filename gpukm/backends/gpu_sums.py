"""Order-free sums of clusters on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    """Adds rows to sums: those that moved, or all of them sorted by cluster where many did.

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
        self._sorter = Sorter(device, max(1, min(n, _SORTED_ROWS)), k)

    def add(
        self, sums: Sums, x: Any, weight: Any, labels: Any, before: Any, moved: Any, *, alone: bool = False
    ) -> None:
        """Add rows x (n, d), or with ``before`` follow those whose label changed.

        ``before`` becomes the labels, and ``moved``, uint64 (1,), grows by the rows that changed. Sums that hold these
        rows ``alone`` may be made anew.
        """
        device, (n, d), k = self._device, x.shape, self._k
        row = device.kind(x)

        def launch(kernel: str, pieces: int, *args: Any) -> None:
            """A kernel, with as many blocks as fill the device at most."""
            device.launch(kernel, row, device.blocks(pieces), _THREADS, *args)

        few = n // _MANY if alone or before is None else n
        launch("sort.count_moved", -(-n // _THREADS), labels, before, moved, n)
        launch(
            "update.accumulate", -(-n // _THREADS), x, weight, labels, before, self._scales, self._weight_scale,
            sums.hi, sums.lo, sums.counts, sums.weight_hi, sums.weight_lo, moved, few, n, d,
        )  # fmt: skip
        if before is not None and alone:
            launch(
                "sort.forget", -(-k * (d + 1) // _THREADS), sums.hi, sums.lo, sums.counts, sums.weight_hi,
                sums.weight_lo, moved, few, k, d,
            )  # fmt: skip
        for start in range(0, n if few < n else 0, _SORTED_ROWS):
            part = slice(start, min(start + _SORTED_ROWS, n))
            m, own, when = part.stop - start, labels[part], (moved, few)
            w, old = (None if v is None else v[part] for v in (weight, before))
            self._sorter.sort(row, own, old, sums.counts, when)
            launch(
                "sort.add_runs", -(-m // (8 * 64)), x[part], w, own, self._sorter.rows, self._scales,
                self._weight_scale, sums.hi, sums.lo, sums.weight_hi, sums.weight_lo, *when, m, d,
            )  # fmt: skip
