"""A CUDA device through PyTorch: its caching allocator, its current stream, its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
from gpukm_kernels import cuda_status
from gpukm_kernels.cuda import driver
from gpukm_kernels.cuda.copies import Staging

from gpukm.backends.device import Device
from gpukm.errors import BackendUnavailableError

# torch knows these types, but few operations on them; their bits are copied and zeroed as signed numbers.
_SIGNED = {"uint16": "int16", "uint32": "int32", "uint64": "int64"}


def probe() -> tuple[bool, str]:
    """Whether torch can be used on a device here, and a line that describes both or says what is missing."""
    try:
        usable, found = cuda_status()
        if not usable:
            return False, found
        if find_spec("torch") is None:
            return False, f"torch is not installed; run 'pip install gpukm[cuda{min(driver.driver_version()[0], 13)}]'"
        import torch

        if torch.version.cuda is None:
            return False, f"torch {torch.__version__} was built without CUDA; install one that was built with it"
        if not torch.cuda.is_available():
            return False, (
                f"torch {torch.__version__} of CUDA {torch.version.cuda} sees no device; the driver supports CUDA "
                "{}.{}, install a torch of that version".format(*driver.driver_version())
            )
        driver.compiler_version()
        return True, f"torch {torch.__version__}, {_triton()}{found}"
    except Exception as error:  # a broken installation can raise anything
        return False, f"torch cannot be used: {error}"


def _triton() -> str:
    """Its version, where it is installed."""
    try:
        return f"triton {version('triton')}, "
    except PackageNotFoundError:
        return ""


class TorchDevice(Device):
    """A CUDA device that holds tensors, with all work in the caller's current stream.

    Parameters
    ----------
    index : int or None
        The device's number; None takes torch's current one.

    Raises
    ------
    BackendUnavailableError
        When there is no such device, or the kernels do not run on it.
    """

    library = "torch"

    def __init__(self, index: int | None = None) -> None:
        import torch

        self._torch = torch
        self._index: int = torch.cuda.current_device() if index is None else index
        try:
            found = driver.device(self._index)
        except (ImportError, RuntimeError) as error:
            raise BackendUnavailableError(str(error)) from error
        self.name = f"cuda:{self._index}"
        self.model, self.capability = found.name, found.capability
        self.processors = found.processors
        self._staging = Staging(self._index)

    def owns(self, array: Any) -> bool:
        return isinstance(array, self._torch.Tensor) and str(array.device) == self.name

    def kind(self, array: Any) -> str:
        return str(array.dtype).removeprefix("torch.")

    def dtype(self, array: Any) -> np.dtype:
        name = self.kind(array)
        try:
            return np.dtype(name)
        except TypeError:
            raise TypeError(f"NumPy has no type for tensors of {name}; convert them, x.float()") from None

    def address(self, array: Any) -> int:
        return int(array.data_ptr())

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        return self._made(self._torch.empty, shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        return self._made(self._torch.zeros, shape, dtype)

    def place(self, array: np.ndarray, out: Any = None) -> Any:
        if out is None:
            out = self.empty(array.shape, array.dtype)
        self._same(out, array)
        with self.here():
            self._signed(out).copy_(self._host(np.ascontiguousarray(array)).reshape(out.shape))
        return out

    def fetch(self, array: Any, out: np.ndarray | None = None) -> np.ndarray:
        if out is None:
            out = np.empty(tuple(array.shape), self.dtype(array))
        self._same(array, out)
        if not out.flags.writeable:
            raise ValueError("the array to copy into is read-only, expected one that can be written to")
        with self.here():
            self._host(out).copy_(self._signed(array.detach()))
        return out

    def launch(self, kernel: str, row: str, blocks: int, threads: int, *args: Any, shared: int = 0) -> None:
        driver.launch(kernel, row, self._index, self._stream(), blocks, threads, args, self._memory, shared=shared)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        cuda = self._torch.cuda
        with self.here():
            graph, stream, current = cuda.CUDAGraph(), cuda.Stream(), cuda.current_stream()
            stream.wait_stream(current)
            with cuda.stream(stream):
                # Other threads may go on allocating meanwhile.
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    work()
                finally:
                    graph.capture_end()
            current.wait_stream(stream)

        def replay() -> None:
            """In the stream that is current then."""
            with self.here():
                graph.replay()

        return replay

    def stage(self, blocks: Iterable[tuple[np.ndarray | None, ...]]) -> Iterator[tuple[Any, ...]]:
        return self._staging.staged(blocks, self._stream, self.empty, self.address)

    def release(self) -> bool:
        return self._staging.release()

    def free_bytes(self) -> int:
        cuda = self._torch.cuda
        free, total = cuda.mem_get_info(self._index)
        reserved = cuda.memory_reserved(self._index)
        if hasattr(cuda, "get_per_process_memory_fraction"):  # a cap can be set before torch 2.7, but not read
            free = min(free, max(0, int(total * cuda.get_per_process_memory_fraction(self._index)) - reserved))
        return int(free + reserved - cuda.memory_allocated(self._index)) + self._staging.idle_bytes

    def adopt(self, array: Any) -> Any:
        """Another library's array on this device as a tensor over the same memory.

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
        torch, where = self._torch, driver.location(array)
        if where != self.name:
            raise TypeError(f"the array is on {where}, expected {self.name}")
        with self.here():
            if isinstance(array, torch.Tensor):
                found = array.detach()
            elif hasattr(array, "__dlpack__"):
                found = torch.from_dlpack(array)
            else:
                if array.__cuda_array_interface__.get("stream") is not None:  # which torch does not look at
                    torch.cuda.synchronize(self._index)
                found = torch.as_tensor(array, device=self.name)
        if found.ndim not in (1, 2):
            raise ValueError(f"the array has {found.ndim} dimensions, expected 1 or 2")
        if not found.is_contiguous():
            raise ValueError("the array is not C-contiguous; give a contiguous copy, x.contiguous()")
        return found

    def _stream(self) -> int:
        """The caller's current stream."""
        return int(self._torch.cuda.current_stream(self._index).cuda_stream)

    def here(self) -> Any:
        """Make this the current device."""
        return self._torch.cuda.device(self._index)

    def _type(self, dtype: np.dtype) -> Any:
        """The type as torch names it."""
        found = getattr(self._torch, dtype.name, None)
        if not isinstance(found, self._torch.dtype):
            raise TypeError(f"torch has no type for arrays of {dtype}")
        return found

    def _made(self, make: Any, shape: int | tuple[int, ...], dtype: Any) -> Any:
        """Memory of torch's allocator; that there is too little of it is said in bytes."""
        dtype = np.dtype(dtype)
        kind = self._type(dtype)
        signed = self._type(np.dtype(_SIGNED.get(dtype.name, dtype)))
        asked = lambda: make(shape, dtype=signed, device=self.name).view(kind)  # noqa: E731
        return self._within_memory(asked, self._torch.cuda.OutOfMemoryError, shape, dtype)

    def _signed(self, tensor: Any) -> Any:
        """The tensor's memory under a type that torch can copy."""
        name = _SIGNED.get(self.dtype(tensor).name)
        return tensor if name is None else tensor.view(getattr(self._torch, name))

    def _host(self, array: np.ndarray) -> Any:
        """A tensor over an array's memory, which is only read where the array is read-only."""
        array = array.view(_SIGNED.get(array.dtype.name, array.dtype))
        if not array.flags.writeable:  # torch would warn
            interface = array.__array_interface__
            interface["data"] = (interface["data"][0], False)
            array = np.asarray(SimpleNamespace(__array_interface__=interface, keeps=array))
        return self._torch.from_numpy(array)

    def _same(self, tensor: Any, array: np.ndarray) -> None:
        """Refuse to copy between arrays that differ in more than their values; torch would convert or broadcast."""
        ours, theirs = (tuple(tensor.shape), self.dtype(tensor)), (array.shape, array.dtype)
        if ours != theirs:
            raise ValueError(
                f"the device's array has shape {ours[0]} of {ours[1]}, the host's {theirs[0]} of {theirs[1]}; "
                "expected the same"
            )

    def _memory(self, array: Any) -> tuple[int, str]:
        """Address and type of an array that is passed to a kernel."""
        if not self.owns(array):
            where = f"a tensor on {array.device}" if isinstance(array, self._torch.Tensor) else type(array).__name__
            raise TypeError(f"a kernel was given {where}, expected a tensor on {self.name}")
        if not array.is_contiguous():
            raise ValueError("a kernel was given a tensor that is not contiguous, expected rows one after another")
        return self.address(array), "bf2" if self.kind(array) == "bfloat16" else self.dtype(array).str[1:]
