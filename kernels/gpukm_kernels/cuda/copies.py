"""Copies to a device in a stream of their own, so that the next rows are under way while it works on those before.

Memory that the device may read directly (page-locked) is copied at the speed of the link. A large array is locked where
it lies, once for as long as it lives; what cannot be locked goes through page-locked buffers, filled by several
threads, since one does not keep up with the link.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from gpukm_kernels.cuda import driver

#: Arrays from this size on are locked where they lie: that takes time, which many passes win back.
LOCKED_BYTES = 1 << 28
#: Bytes that a thread copies at a time, and threads at most.
_PIECE_BYTES, _THREADS = 1 << 24, 8
#: Blocks that are on the device: the one that is worked on, the next, and one whose last work may not be over.
SLOTS = 3

_PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE, and CU_MEMHOSTALLOC_PORTABLE
_locked: dict[tuple[int, int], bool] = {}
# What ends the life of an array may run within, where memory is collected.
_locked_lock = threading.RLock()


class Staging:
    """Copies to one device in a stream of their own, and memory for them on both sides, kept from pass to pass.

    Parameters
    ----------
    index : int
        The device's number.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self._copies: _Copies | None = None
        self._idle: list[tuple[list[_Slot], Event]] = []  # what no pass uses, and the end of the pass before
        self._lock = threading.Lock()

    def staged(
        self,
        blocks: Iterable[tuple[np.ndarray | None, ...]],
        main: Callable[[], int],
        empty: Callable[[tuple[int, ...], np.dtype], Any],
        address: Callable[[Any], int],
    ) -> Iterator[tuple[Any, ...]]:
        """Yield blocks of arrays on the device, while the next is on its way.

        Parameters
        ----------
        blocks : iterable of tuple of (ndarray or None)
            C-contiguous; as many in each. An array may change once the block after the next is asked for.
        main : callable
            Gives the handle of the stream that works on what arrives.
        empty : callable
            Makes an array of the device from a shape and a type.
        address : callable
            Of such an array.

        Yields
        ------
        tuple
            Arrays of the device, to be used in the main stream until the next block is asked for.
        """
        copies, slots = self._begin(main)
        with (
            contextlib.ExitStack() as left,
            ThreadPoolExecutor(1) as ahead,
            ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool,
        ):
            # However this is left: memory that a copy still writes to must not be given back.
            for slot in slots:
                left.callback(slot.finish)
            coming: Future[tuple[tuple[Any, ...], Event | None]] | None = None
            for number, block in enumerate(blocks):
                slot = slots[number % SLOTS]
                # Here, since libraries allocate for the stream of the calling thread.
                slot.make_room(block, empty)
                # What works on the slot's last block, or on memory that it got, is in the main stream by now.
                after = copies.mark(main())
                next_ = ahead.submit(slot.fill, copies, block, after, pool, address)
                if coming is not None:
                    yield _arrived(copies, coming, main())
                coming = next_
            if coming is not None:
                yield _arrived(copies, coming, main())
        # Kept from passes that come to their end; one that is broken off may have asked for more than there is.
        with self._lock:
            self._idle[:] = [(slots, copies.mark(main()))]

    def _begin(self, main: Callable[[], int]) -> tuple[_Copies, list[_Slot]]:
        """The stream, and memory that no other pass uses."""
        with self._lock:
            if self._copies is None:
                self._copies = _Copies(self._index)
            copies, kept = self._copies, self._idle.pop() if self._idle else None
        if kept is None:
            return copies, [_Slot(self._index) for _ in range(SLOTS)]
        # The pass before may have been in another stream.
        copies.join(kept[1], main())
        return copies, kept[0]

    @property
    def idle_bytes(self) -> int:
        """Bytes on the device that :meth:`release` would give back."""
        with self._lock:
            return sum(slot.device_bytes for slots, _ in self._idle for slot in slots)

    def release(self) -> bool:
        """Give back what no pass uses; whether there was any."""
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is not None:
            kept[1].wait()
        return kept is not None


class _Copies:
    """A stream of copies to one device."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._stream = driver.stream(index)
        weakref.finalize(self, driver.destroy_stream, index, self._stream)

    def mark(self, main: int) -> Event:
        """The end of what a stream was given so far."""
        return Event(self._index, main)

    def start(self, address: int, source: np.ndarray, after: Event) -> Event:
        """Copy page-locked memory to the device, once the main stream is past ``after``; the end of that."""
        driver.wait(self._index, self._stream, after.handle)
        driver.copy(self._index, address, source.ctypes.data, source.nbytes, self._stream)
        return Event(self._index, self._stream)

    def join(self, event: Event, main: int) -> None:
        """Make a stream wait."""
        driver.wait(self._index, main, event.handle)


class Event:
    """A place in a stream."""

    def __init__(self, index: int, stream: int) -> None:
        self._index = index
        self.handle = driver.event(index, stream)
        weakref.finalize(self, driver.destroy_event, index, self.handle)

    def wait(self) -> None:
        """Until the stream is past it."""
        driver.wait_on_host(self._index, self.handle)


def _arrived(copies: _Copies, coming: Future[tuple[tuple[Any, ...], Event | None]], main: int) -> tuple[Any, ...]:
    """A block that the main stream may use."""
    block, event = coming.result()
    if event is not None:
        copies.join(event, main)
    return block


class _Slot:
    """Memory for one block on both sides."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._host: dict[int, np.ndarray] = {}
        self._device: dict[int, tuple[np.dtype, tuple[int, ...], Any]] = {}
        self._last: Event | None = None

    @property
    def device_bytes(self) -> int:
        """On the device."""
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape, _ in self._device.values())

    def finish(self) -> None:
        """Wait for the last copy."""
        if self._last is not None:
            self._last.wait()

    def make_room(self, block: tuple[np.ndarray | None, ...], empty: Callable[..., Any]) -> None:
        """Memory of the device that holds a block."""
        for i, array in enumerate(block):
            if array is None:
                continue
            held = self._device.get(i)
            fits = held is not None and held[0] == array.dtype and held[1][1:] == array.shape[1:]
            if held is None or not fits or held[1][0] < len(array):
                self._device[i] = array.dtype, array.shape, empty(array.shape, array.dtype)

    def fill(
        self,
        copies: _Copies,
        block: tuple[np.ndarray | None, ...],
        after: Event,
        pool: ThreadPoolExecutor,
        address: Callable[[Any], int],
    ) -> tuple[tuple[Any, ...], Event | None]:
        """Begin to copy a block, and tell where the last copy ends."""
        self.finish()  # the buffers may still be read
        placed: list[Any] = []
        event = None
        for i, array in enumerate(block):
            if array is None:
                placed.append(None)
                continue
            to = self._device[i][2]
            placed.append(to[: len(array)])
            if array.nbytes:
                source = array if _lock(self._index, array) else self._buffered(i, array, pool)
                event = copies.start(address(to), source, after)
        self._last = event
        return tuple(placed), event

    def _buffered(self, i: int, array: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
        """The array's values in page-locked memory."""
        buffer = self._host.get(i)
        if buffer is None or len(buffer) < array.nbytes:
            buffer = self._host[i] = _page_locked(self._index, array.nbytes)
        to = buffer[: array.nbytes].view(array.dtype).reshape(array.shape)
        rows = max(1, _PIECE_BYTES * len(array) // array.nbytes)
        list(pool.map(lambda s: np.copyto(to[s : s + rows], array[s : s + rows]), range(0, len(array), rows)))
        return to


def _page_locked(index: int, n_bytes: int) -> np.ndarray:
    """Memory that the device may read directly, uint8 of shape (n_bytes,)."""
    pointer = driver.host_memory(index, n_bytes, _PORTABLE)
    memory = (ctypes.c_ubyte * n_bytes).from_address(pointer)
    weakref.finalize(memory, driver.free_host_memory, index, pointer)
    found: np.ndarray = np.ctypeslib.as_array(memory)
    return found


def _lock(index: int, array: np.ndarray) -> bool:
    """Lock the array that this one is a part of, if it is large, until it is gone; whether the device may read it."""
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    if base.nbytes < LOCKED_BYTES or base.base is not None:
        # Memory that another object owns may go at any time, or lie in a file.
        return False
    key = base.ctypes.data, base.nbytes
    with _locked_lock:
        if key not in _locked:
            _locked[key] = driver.lock(index, *key, _PORTABLE)
            weakref.finalize(base, _unlock, index, key)
        return _locked[key]


def _unlock(index: int, key: tuple[int, int]) -> None:
    """Undo :func:`_lock`, before the memory goes."""
    with _locked_lock:
        if _locked.pop(key, False):
            driver.unlock(index, key[0])
