"""A CUDA device through CuPy: its current allocator, its current stream, its arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
from gpukm_kernels import cuda_status
from gpukm_kernels.cuda import driver
from gpukm_kernels.cuda.copies import Staging

from gpukm.backends.device import Device
from gpukm.errors import BackendUnavailableError


def probe() -> tuple[bool, str]:
    """Whether CuPy can be used on a device here, and a line that describes both or says what is missing."""
    try:
        usable, found = cuda_status()
        if not usable:
            return False, found
        if find_spec("cupy") is None:
            return False, f"cupy is not installed; run 'pip install gpukm[cuda{min(driver.driver_version()[0], 13)}]'"
        import cupy  # type: ignore[import-not-found, import-untyped, unused-ignore]

        cupy.cuda.runtime.getDeviceCount()  # fails where this CuPy and the driver do not fit
        driver.compiler_version()
        return True, f"cupy {cupy.__version__}, {found}"
    except Exception as error:  # a broken installation can raise anything
        return False, f"cupy cannot be used: {error}"


class CupyDevice(Device):
    """A CUDA device that holds CuPy arrays, with all work in the caller's current stream.

    Memory is taken from the allocator that is set in CuPy, so RMM's where RMM was set.

    Parameters
    ----------
    index : int or None
        The device's number; None takes CuPy's current one.

    Raises
    ------
    BackendUnavailableError
        When there is no such device, or the kernels do not run on it.
    """

    library = "cupy"

    def __init__(self, index: int | None = None) -> None:
        import cupy

        self._cupy = cupy
        self._index: int = cupy.cuda.runtime.getDevice() if index is None else index
        try:
            found = driver.device(self._index)
        except (ImportError, RuntimeError) as error:
            raise BackendUnavailableError(str(error)) from error
        self.name = f"cuda:{self._index}"
        self.model, self.capability = found.name, found.capability
        self.processors = found.processors
        self._staging = Staging(self._index)

    def owns(self, array: Any) -> bool:
        return isinstance(array, self._cupy.ndarray) and array.device.id == self._index

    def dtype(self, array: Any) -> np.dtype:
        return np.dtype(array.dtype)

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        return self._made(self._cupy.empty, shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        return self._made(self._cupy.zeros, shape, dtype)

    def place(self, array: np.ndarray, out: Any = None) -> Any:
        if out is None:
            out = self.empty(array.shape, array.dtype)
        with self.here():
            out.set(array)
            # Pinned memory is still being read when set() returns.
            self._cupy.cuda.get_current_stream().synchronize()
        return out

    def fetch(self, array: Any, out: np.ndarray | None = None) -> np.ndarray:
        with self.here():
            if out is None or out.flags.c_contiguous:
                return array.get(out=out)
            out[...] = array.get()
            return out

    def launch(self, kernel: str, row: str, blocks: int, threads: int, *args: Any, shared: int = 0) -> None:
        driver.launch(kernel, row, self._index, self._stream(), blocks, threads, args, self._memory, shared=shared)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        with self.here():
            # The default stream cannot be recorded; what it was given before is to be done first.
            stream = self._cupy.cuda.Stream(non_blocking=True)
            self._cupy.cuda.get_current_stream().synchronize()
            with stream:
                stream.begin_capture()
                try:
                    work()
                finally:
                    graph = stream.end_capture()

        def replay() -> None:
            """In the stream that is current then."""
            with self.here():
                graph.launch(self._cupy.cuda.get_current_stream())

        return replay

    def stage(self, blocks: Iterable[tuple[np.ndarray | None, ...]]) -> Iterator[tuple[Any, ...]]:
        return self._staging.staged(blocks, self._stream, self.empty, self.address)

    def release(self) -> bool:
        return self._staging.release()

    def free_bytes(self) -> int:
        """Memory that can still be taken; what an allocator other than CuPy's own holds back is not known here."""
        with self.here():
            free, _ = self._cupy.cuda.runtime.memGetInfo()
            pool = getattr(self._cupy.cuda.get_allocator(), "__self__", None)
            if isinstance(pool, self._cupy.cuda.MemoryPool):
                if limit := pool.get_limit():
                    free = min(free, max(0, limit - pool.total_bytes()))
                free += pool.free_bytes()
        return int(free) + self._staging.idle_bytes

    def adopt(self, array: Any) -> Any:
        """Another library's array on this device as a CuPy array over the same memory.

        Parameters
        ----------
        array : (N,) or (N, D) array with ``__dlpack__`` or ``__cuda_array_interface__``
            C-contiguous. Work that its library says is under way on it is waited for.

        Raises
        ------
        TypeError
            For an array on the host or on another device, or something else.
        ValueError
            For another shape, or an array that is not C-contiguous.
        """
        cupy, where = self._cupy, driver.location(array)
        if where != self.name:
            raise TypeError(f"the array is on {where}, expected {self.name}")
        with self.here():
            if isinstance(array, cupy.ndarray):
                found = array
            elif hasattr(array, "__dlpack__"):
                # A tensor that tracks gradients is not exported.
                found = cupy.from_dlpack(array.detach() if hasattr(array, "detach") else array)
            else:
                found = cupy.asarray(array)
        if found.ndim not in (1, 2):
            raise ValueError(f"the array has {found.ndim} dimensions, expected 1 or 2")
        if not found.flags.c_contiguous:
            raise ValueError("the array is not C-contiguous; give a contiguous copy, cupy.ascontiguousarray(x)")
        return found

    def _stream(self) -> int:
        """The caller's current stream."""
        with self.here():
            return int(self._cupy.cuda.get_current_stream().ptr)

    def here(self) -> Any:
        """Make this the current device."""
        return self._cupy.cuda.Device(self._index)

    def _made(self, make: Any, shape: int | tuple[int, ...], dtype: Any) -> Any:
        """Memory of CuPy's allocator; that there is too little of it is said in bytes."""
        dtype = np.dtype(dtype)
        # CuPy's own OutOfMemoryError is a MemoryError, and so is RMM's.
        return self._within_memory(lambda: make(shape, dtype=dtype), MemoryError, shape, dtype)

    def _memory(self, array: Any) -> tuple[int, str]:
        """Address and type of an array that is passed to a kernel."""
        if not self.owns(array):
            where = f"an array on {array.device}" if isinstance(array, self._cupy.ndarray) else type(array).__name__
            raise TypeError(f"a kernel was given {where}, expected a CuPy array on {self.name}")
        if not array.flags.c_contiguous:
            raise ValueError("a kernel was given an array that is not contiguous, expected rows one after another")
        return self.address(array), array.dtype.str[1:]
