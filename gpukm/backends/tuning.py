"""Finding the tiles of the Triton screen that are fastest on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gpukm_kernels.screening import SHARED_KIB

from gpukm.backends.base import Frame
from gpukm.backends.cascade import Cascade, Screen
from gpukm.backends.device import Device

if TYPE_CHECKING:
    from gpukm_kernels.triton.tiles import Tiles

_REPEATS = 5
#: KiB of shared memory of a processor where more is not known of it.
_LEAST_SHARED_KIB = 49


@dataclass(frozen=True)
class Tuned:
    """The fastest tiles for rows of so many features, and milliseconds for these and for those of the table."""

    features: int
    tiles: Tiles
    milliseconds: float
    table_milliseconds: float


def tune(
    device: Device,
    screen_of: Callable[[Tiles | None], Screen],
    features: Sequence[int],
    rows: int = 1 << 20,
    clusters: int = 4096,
    choose_from: Sequence[Tiles] | None = None,
) -> Iterator[Tuned]:
    """Time every likely cut of tiles on random rows; labels are checked to be the same with all of them.

    Parameters
    ----------
    device : Device
    screen_of : callable
        Makes a screen with given tiles.
    features : sequence of int
    rows, clusters : int
    choose_from : sequence of Tiles or None
        None takes :func:`gpukm_kernels.triton.tiles.candidates`.

    Raises
    ------
    RuntimeError
        Labels differ, which no tiles may cause.
    """
    from gpukm_kernels.triton.tiles import candidates, table
    from triton.runtime.errors import TritonError

    stored = screen_of(None).mode.stored
    for d in features:
        rng = np.random.default_rng(d)
        c = rng.normal(size=(clusters, d)).astype(np.float32)
        x = device.place((c[rng.integers(0, clusters, rows)] + rng.normal(size=(rows, d))).astype(np.float32))
        usual = table(device.capability, stored, d)
        shared = (SHARED_KIB.get(device.capability, _LEAST_SHARED_KIB) - 1) << 10
        others = candidates(stored, d, shared) if choose_from is None else choose_from
        times: dict[Tiles, float] = {}
        expected: np.ndarray | None = None
        for chosen in dict.fromkeys([usual, *others]):
            cascade = Cascade(device, screen_of(chosen))
            try:
                labels, times[chosen] = _timed(device, cascade, x, c)
            except (MemoryError, RuntimeError, TritonError):
                # What does not fit this device's registers or memory is no candidate here; the table's tiles must.
                if chosen == usual:
                    raise
                continue
            if expected is not None and not np.array_equal(labels, expected):
                raise RuntimeError(f"{chosen} labels rows otherwise than {usual}; please report this")
            expected = labels
        best = min(times, key=lambda t: times[t])
        yield Tuned(d, best, 1e3 * times[best], 1e3 * times[usual])


def _timed(device: Device, cascade: Cascade, x: object, c: np.ndarray) -> tuple[np.ndarray, float]:
    """Labels, and the median time in seconds of an assignment."""
    packed = cascade.pack(c, Frame(np.zeros(c.shape[1]), 8 * float(np.abs(c).max())))
    n = len(x)  # type: ignore[arg-type]
    rounded, lists, labels = cascade.round(x, packed), cascade.lists(n), device.zeros(n, np.int32)
    counters, times = device.zeros(2, np.uint64), []
    for _ in range(_REPEATS + 1):
        begun = time.perf_counter()
        cascade.assign(x, packed, labels, rounded, lists, counters)
        device.fetch(counters)
        times.append(time.perf_counter() - begun)
    return device.fetch(labels), statistics.median(times[1:])
