"""What the GPU engine asks of a library of arrays: memory, copies and launches, in a device's current stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
from gpukm_kernels.cuda import ROWS

#: Types of rows that kernels take, and those of them that become float32 where they are read.
KINDS = tuple(ROWS)
SHORT = ("float16", "bfloat16")


class Device(ABC):
    """A device as one library sees it. Arrays are that library's own, C-contiguous, and can be sliced by rows.

    Attributes
    ----------
    name : str
        As users name it, ``cuda:0``.
    model : str
        What the maker calls it.
    capability : tuple of (int, int)
        Compute capability.
    processors : int
        Streaming multiprocessors.
    """

    library: ClassVar[str]
    name: str
    model: str
    capability: tuple[int, int]
    processors: int

    @abstractmethod
    def owns(self, array: Any) -> bool:
        """Whether it is an array of this library on this device."""

    @abstractmethod
    def dtype(self, array: Any) -> np.dtype:
        """Its type of numbers.

        Raises
        ------
        TypeError
            NumPy has none such, as for bfloat16.
        """

    def kind(self, array: Any) -> str:
        """The name of its type of numbers, which NumPy need not have."""
        return self.dtype(array).name

    def wide(self, array: Any) -> np.dtype:
        """The type of what is made of such rows: float32 for those of 16 bits."""
        return np.dtype(np.float32) if self.kind(array) in SHORT else self.dtype(array)

    def adopt(self, array: Any) -> Any:
        """Another library's array on this device as one of this library, over the same memory.

        Raises
        ------
        TypeError, ValueError
            It lies elsewhere, or is not C-contiguous.
        """
        if not self.owns(array):
            raise TypeError(f"the array is not on {self.name}")
        return array

    @abstractmethod
    def address(self, array: Any) -> int:
        """Where its first number lies on the device."""

    @abstractmethod
    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        """Memory with no particular values."""

    @abstractmethod
    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        """Zeroed memory."""

    @abstractmethod
    def place(self, array: np.ndarray, out: Any = None) -> Any:
        """Copy to the device, into ``out`` where it is given; the array may change once this returns."""

    @abstractmethod
    def fetch(self, array: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Copy to the host, once all work before is done."""

    @abstractmethod
    def launch(self, kernel: str, row: str, blocks: int, threads: int, *args: Any, shared: int = 0) -> None:
        """Put a kernel of :mod:`gpukm_kernels.cuda` into the current stream.

        Parameters
        ----------
        kernel : str
            ``file.function``.
        row : str
            Type of the rows that it is compiled for, as of :meth:`kind`.
        blocks, threads : int
            Blocks, and threads in each.
        *args
            Arrays of this device, None for a null pointer, or numbers, as many as the kernel has parameters.
        shared : int
            Bytes of dynamic shared memory.
        """

    def blocks(self, pieces: int) -> int:
        """Blocks for so many pieces of work, at least one: enough to fill the device, and they share the rest."""
        return max(1, min(pieces, 16 * self.processors))

    def shortage(self, shape: int | tuple[int, ...], dtype: np.dtype) -> MemoryError:
        """What to raise where there is no memory for such an array, in bytes."""
        asked = float(np.prod(shape, dtype=float)) * dtype.itemsize
        return MemoryError(
            f"{asked / 2**30:.2f} GiB were asked for on {self.name}, {self.free_bytes() / 2**30:.2f} GiB are free; "
            "free memory there, or choose another device"
        )

    def _within_memory(
        self, make: Callable[[], Any], short: type[Exception], shape: int | tuple[int, ...], dtype: np.dtype
    ) -> Any:
        """Memory of the library's allocator, if need be that which was kept for later; ``short`` is its own error."""
        try:
            with self.here():
                return make()
        except short as error:
            if not self.release():
                raise self.shortage(shape, dtype) from error
        try:
            with self.here():
                return make()
        except short as error:
            raise self.shortage(shape, dtype) from error

    def here(self) -> AbstractContextManager[Any]:
        """Make this the library's current device."""
        return nullcontext()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Something that does the same again, faster where the library can replay launches.

        ``work`` launches and copies within the device only, with arrays that outlive what is returned; it has been done
        once before.
        """
        return work

    def stage(self, blocks: Iterable[tuple[np.ndarray | None, ...]]) -> Iterator[tuple[Any, ...]]:
        """Place blocks of arrays one after another, the next while work on the one before is under way.

        What is yielded holds until the next is asked for. Memory for it is kept for the next call, until
        :meth:`release` or as long as this object lives.
        """
        for block in blocks:
            yield tuple(None if array is None else self.place(array) for array in block)

    def release(self) -> bool:
        """Give memory back that is kept for later calls of :meth:`stage`; whether there was any."""
        return False

    @abstractmethod
    def free_bytes(self) -> int:
        """Memory that can still be taken on the device, what :meth:`release` gives back included."""
