"""Rows on a device made from rows on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpukm.backends.device import SHORT, Device

_THREADS = 256


def gather(device: Device, x: Any, rows: Any = None) -> Any:
    """Rows (m,) int64, on the device, of x (n, d), or all of them: an array of shape (m, d), of 32 bits at least."""
    m, d = len(x if rows is None else rows), x.shape[1]
    out = device.empty((m, d), device.wide(x))
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
    out, squares = device.empty((n, d), device.wide(x)), device.empty(n, np.float64)
    zeros = device.place(np.array([0, ~np.uint64(0)], np.uint64))
    if n:
        origin = device.zeros((1, d), device.wide(x))
        row, blocks = device.kind(x), device.blocks(-(-n // 32))
        device.launch("exact.distances", row, blocks, _THREADS, x, origin, None, None, squares, None, n, d)
        _launch(device, "normalise", x, n * d, x, squares, out, zeros, n, d)
    found = device.fetch(zeros)
    return out, int(found[0]), int(found[1])


def fetch(device: Device, x: Any) -> np.ndarray:
    """Rows x (n, d) on the host, of 32 bits at least."""
    return device.fetch(gather(device, x) if device.kind(x) in SHORT else x)


def joined(device: Device, parts: Sequence[Any]) -> Any:
    """Rows of several arrays, of the same features and type, one after another, of 32 bits at least."""
    n, d = sum(len(part) for part in parts), parts[0].shape[1]
    out, done = device.empty((n, d), device.wide(parts[0])), 0
    with device.here():
        for part in parts:
            out[done : done + len(part)] = gather(device, part) if device.kind(part) in SHORT else part
            done += len(part)
    return out


def _launch(device: Device, kernel: str, x: Any, values: int, *args: Any) -> None:
    """A kernel of ``rows.cu``, a thread a value."""
    device.launch(f"rows.{kernel}", device.kind(x), device.blocks(-(-values // _THREADS)), _THREADS, *args)
