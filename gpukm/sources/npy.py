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

    A local file that fits into half of the free memory is mapped and counts as being in memory; any other is read by
    plain calls, since the pages of a map would count as memory used.

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
            raise DataError(f"{self.location} holds {len(self.files.paths)} .npy files, expected one")
        shape, self._fortran, self.stored_dtype, self._offset = self._header()
        if len(shape) != 2 or shape[1] == 0:
            raise DataError(f"{self.location} has shape {shape}, expected a matrix (rows, features)")
        if shape[0] == 0:
            raise DataError(f"{self.location} has no rows; expected at least one")
        if self.stored_dtype.kind not in "fiub":
            raise DataError(f"{self.location} holds {self.stored_dtype}, expected numbers")
        self.n_rows: int = shape[0]
        self.n_features = shape[1]
        self.dtype = working_dtype(self.stored_dtype)
        self.names = None
        self._array: np.ndarray | None = None

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Read ranges of rows."""
        end = self.n_rows if stop is None else min(stop, self.n_rows)
        whole = self.array()
        if whole is None and self._fortran:
            raise DataError(f"{self.location} is in column order and does not fit in memory; save it in row order")
        width = self.n_features * self.stored_dtype.itemsize
        with self.files.open(self.files.paths[0]) as handle:
            handle.seek(self._offset + start * width)
            for first in range(start, end, rows):
                n = min(rows, end - first)
                if whole is not None:
                    yield Batch(whole[first : first + n], first, n)
                    continue
                data = handle.read(n * width)
                if len(data) != n * width:
                    raise DataError(f"{self.location} ended at row {first}; it was cut off while being read")
                x = np.frombuffer(data, self.stored_dtype).reshape(n, self.n_features)
                yield Batch(np.ascontiguousarray(x, dtype=self.dtype), first, n)

    def array(self) -> np.ndarray | None:
        """The matrix, mapped, if it fits comfortably; float16 and integers are converted into memory."""
        if self._array is None and self.files.local:
            need = self.n_rows * self.n_features * self.dtype.itemsize
            if need <= available_bytes() // 2:
                mapped = np.load(self.files.paths[0], mmap_mode="r", allow_pickle=False)
                self._array = np.ascontiguousarray(mapped, dtype=self.dtype)
        return self._array

    def _header(self) -> tuple[tuple[int, ...], bool, np.dtype, int]:
        """Shape, column order, dtype and where the numbers begin."""
        fmt = np.lib.format
        try:
            with self.files.open(self.files.paths[0]) as handle:
                version = fmt.read_magic(handle)
                read = {(1, 0): fmt.read_array_header_1_0, (2, 0): fmt.read_array_header_2_0}.get(version)
                if read is None:
                    raise ValueError(f"version {version} is not supported")
                shape, fortran, dtype = read(handle)
                offset = handle.tell()
                size = handle.seek(0, 2)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{self.location} is not a readable .npy file: {str(error).splitlines()[0]}") from None
        if size < offset + int(np.prod(shape)) * dtype.itemsize:
            raise DataError(f"{self.location} is shorter than its header says; it was cut off while being written")
        return shape, fortran, dtype, offset

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}
