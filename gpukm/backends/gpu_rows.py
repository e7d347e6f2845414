"""Rows on a device made from rows on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpukm.backends.device import Device

_THREADS = 256


def gather(device: Device, x: Any, rows: Any) -> Any:
    """Rows (m,) int64, on the device, of x (n, d): an array of shape (m, d)."""
    m, d = len(rows), x.shape[1]
    out = device.empty((m, d), device.dtype(x))
    if m:
        _launch(device, "gather", x, m * d, x, rows, out, m, d)
    return out


def normalise(device: Device, x: Any) -> tuple[Any, int, int]:
    """Rows x (n, d) at length one, with the bits of :class:`gpukm.sources.normalized.NormalizedSource`.

    Returns
    -------
    (array of shape (n, d), int, int)
        The rows, how many have the length zero, and the first of these.
    """
    n, d = x.shape
    out, squares = device.empty((n, d), device.dtype(x)), device.empty(n, np.float64)
    zeros = device.place(np.array([0, ~np.uint64(0)], np.uint64))
    if n:
        origin = device.zeros((1, d), device.dtype(x))
        row, blocks = device.dtype(x), device.blocks(-(-n // 32))
        device.launch("exact.distances", row, blocks, _THREADS, x, origin, None, None, squares, None, n, d)
        _launch(device, "normalise", x, n * d, x, squares, out, zeros, n, d)
    found = device.fetch(zeros)
    return out, int(found[0]), int(found[1])


def joined(device: Device, parts: Sequence[Any]) -> Any:
    """Rows of several arrays, of the same features and type, one after another."""
    n, d = sum(len(part) for part in parts), parts[0].shape[1]
    out, done = device.empty((n, d), device.dtype(parts[0])), 0
    with device.here():
        for part in parts:
            out[done : done + len(part)] = part
            done += len(part)
    return out


def _launch(device: Device, kernel: str, x: Any, values: int, *args: Any) -> None:
    """A kernel of ``rows.cu``, a thread a value."""
    device.launch(f"rows.{kernel}", device.dtype(x), device.blocks(-(-values // _THREADS)), _THREADS, *args)
