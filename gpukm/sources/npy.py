"""NumPy's .npy files: a matrix of numbers, read by ranges of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gpukm.errors import DataError
from gpukm.sources.array import working_dtype
from gpukm.sources.base import Batch, Source
from gpukm.sources.location import Files, shown
from gpukm.sources.memory import available_bytes


class NpySource(Source):
    """The rows of a .npy file, local or at a URL.

    :meth:`array` maps a local file that fits into ``memory_limit_bytes``, or into half of the free memory.
    :meth:`batches` reads by plain calls, since the pages of a map would count as memory used.

    Parameters
    ----------
    location : str
    storage_options : mapping or None

    Raises
    ------
    DataError
        Not a .npy file, not a matrix, not numbers, shorter than its header says.
    """

    def __init__(self, location: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.files = Files(location, (".npy",), storage_options)
        self.location = shown(location)
        if len(self.files.paths) != 1:
            raise DataError(f"{self.location} holds {len(self.files.paths)} .npy files, expected one; name it")
        shape, self._fortran, self.stored_dtype, self._offset = self._header()
        if len(shape) != 2 or shape[1] == 0:
            raise DataError(f"{self.location} has shape {shape}, expected a matrix (rows, features); reshape it")
        if shape[0] == 0:
            raise DataError(f"{self.location} has no rows; expected at least one")
        if self.stored_dtype.kind not in "fiub":
            raise DataError(f"{self.location} holds {self.stored_dtype}, expected numbers; convert it first")
        self.n_rows: int = shape[0]
        self.n_features = shape[1]
        self.dtype = working_dtype(self.stored_dtype)
        self.names = None
        self._array: np.ndarray | None = None
        self._fits: bool | None = None
        self.memory_limit_bytes: int | None = None

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Read ranges of rows."""
        end = self.n_rows if stop is None else min(stop, self.n_rows)
        if self._fortran and self.n_features > 1:
            yield from self._columns_in_order(rows, start, end)
            return
        width = self.n_features * self.stored_dtype.itemsize
        with self._reading() as handle:
            handle.seek(self._offset + start * width)
            for first in range(start, end, rows):
                n = min(rows, end - first)
                data = handle.read(n * width)
                if len(data) != n * width:
                    raise DataError(f"{self.location} ends before row {first + n}; it was changed while being read")
                x = np.frombuffer(data, self.stored_dtype).reshape(n, self.n_features)
                yield Batch(self._converted(x), first, n)

    def array(self) -> np.ndarray | None:
        """The matrix, mapped, if it fits comfortably; what has to be converted is copied into memory."""
        if self._fits is None:
            need = self.n_rows * self.n_features * self.dtype.itemsize
            room = self.memory_limit_bytes or available_bytes() // 2
            self._fits = self.files.local and need <= room
        if self._fits and self._array is None:
            with self._reading():
                mapped = np.load(self.files.paths[0], mmap_mode="r", allow_pickle=False)
            if mapped.shape != (self.n_rows, self.n_features) or mapped.dtype != self.stored_dtype:
                raise DataError(f"{self.location} was changed since it was opened; train on a copy")
            self._array = self._converted(mapped)
        return self._array

    def _columns_in_order(self, rows: int, start: int, end: int) -> Iterator[Batch]:
        """Batches of a file in column order: only a whole matrix can be cut into rows."""
        whole = self.array()
        if whole is None:
            raise DataError(
                f"{self.location} is in column (Fortran) order, whose rows can only be read from a local file that "
                "fits in memory; save numpy.ascontiguousarray(x) instead"
            )
        for first in range(start, end, rows):
            n = min(rows, end - first)
            yield Batch(whole[first : first + n], first, n)

    def _converted(self, x: np.ndarray) -> np.ndarray:
        """In the working dtype, as a plain array; the input itself where nothing is to be done."""
        with np.errstate(over="ignore"):
            return np.asarray(np.ascontiguousarray(x, dtype=self.dtype))

    def _reading(self) -> Any:
        """The open file; what goes wrong with it becomes a DataError."""
        return self.files.reading(self.files.paths[0], ".npy", ValueError, EOFError)

    def _header(self) -> tuple[tuple[int, ...], bool, np.dtype, int]:
        """Shape, column order, dtype and where the numbers begin."""
        fmt = np.lib.format
        with self._reading() as handle:
            version = fmt.read_magic(handle)
            read = {(1, 0): fmt.read_array_header_1_0, (2, 0): fmt.read_array_header_2_0}.get(version)
            if read is None:
                raise ValueError(f"version {version} of the format is for names of columns, not for a matrix")
            shape, fortran, dtype = read(handle)
            offset = handle.tell()
            size = handle.seek(0, 2)
        # Python's integers: a forged shape must not overflow.
        need = dtype.itemsize
        for n in shape:
            need *= int(n)
        if not dtype.hasobject and size < offset + need:
            raise DataError(
                f"{self.location} has {size} bytes, its header promises {offset + need}; "
                "it was cut off while being written: write it again"
            )
        return shape, fortran, dtype, offset

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None, "_fits": None}
