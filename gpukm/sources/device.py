"""Rows that already lie on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gpukm.backends.device import KINDS
from gpukm.errors import DataError
from gpukm.sources.array import check_weights
from gpukm.sources.base import Batch, Source
from gpukm.sources.faults import Refused
from gpukm.sources.normalized import no_direction

if TYPE_CHECKING:
    from gpukm.backends.device import Device


class DeviceSource(Source):
    """A matrix on the device that the fit runs on, shared and never copied.

    Parameters
    ----------
    x : array of shape (n_samples, n_features)
        Of the device's library, C-contiguous: float32, float64, or float16 or bfloat16, which kernels read as float32.
    device : Device
    weight : array of shape (n_samples,) or None
        Sample weights, on the host.
    """

    def __init__(self, x: Any, device: Device, weight: Any = None) -> None:
        if len(x.shape) != 2 or not x.shape[1]:
            raise DataError(f"the data has shape {tuple(x.shape)}, expected a matrix (rows, features)")
        if device.kind(x) not in KINDS:
            raise DataError(
                f"the data on {device.name} has dtype {device.kind(x)}, expected one of {', '.join(KINDS)}; "
                "convert it there"
            )
        self.x, self.device = x, device
        self.dtype, self.names, self.stored = device.wide(x), None, device.kind(x)
        self.n_rows: int = int(x.shape[0])
        self.n_features = int(x.shape[1])
        self.weight = None if weight is None else check_weights(weight, self.n_rows)

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Copies of consecutive rows on the host."""
        from gpukm.backends.gpu_rows import fetch

        end = len(self.x) if stop is None else min(stop, len(self.x))
        for first in range(start, end, rows):
            part = slice(first, min(first + rows, end))
            weight = None if self.weight is None else self.weight[part]
            yield Batch(fetch(self.device, self.x[part]), first, part.stop - first, weight=weight)

    def normalised(self) -> DeviceSource:
        """Rows at length one, a copy on the device.

        Raises
        ------
        DataError
            A row is zero.
        MemoryError
            The copy finds no room.
        """
        from gpukm.backends.gpu_rows import normalise

        found, n_zero, first = normalise(self.device, self.x)
        if n_zero:
            raise Refused({0: no_direction(n_zero, first)})
        return DeviceSource(found, self.device, self.weight)

    def pick(self, rows: np.ndarray) -> DeviceSource:
        """Copies of rows (m,) int64, on the device."""
        from gpukm.backends.gpu_rows import gather

        found = gather(self.device, self.x, self.device.place(rows))
        return DeviceSource(found, self.device, None if self.weight is None else self.weight[rows])

    def placed(self) -> Any:
        """The matrix."""
        return self.x

    def weights(self) -> np.ndarray | None:
        """The weights."""
        return self.weight
