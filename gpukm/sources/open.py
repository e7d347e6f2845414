"""From whatever a caller brings to rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpukm.errors import DataError
from gpukm.sources.array import ArraySource
from gpukm.sources.base import Source

if TYPE_CHECKING:
    from gpukm.sources.table import Table

_FORMATS = {
    "Parquet": (".parquet", ".pq"),
    "NumPy": (".npy",),
    "Arrow": (".arrow", ".feather", ".ipc", ".arrows"),
    "CSV": (".csv", ".tsv", ".csv.gz", ".csv.zst", ".csv.bz2", ".tsv.gz", ".tsv.zst", ".tsv.bz2"),
}
#: Endings of all names that are data.
ENDINGS = tuple(ending for endings in _FORMATS.values() for ending in endings)


def open_source(data: Any, storage_options: Mapping[str, Any] | None = None) -> Source | Table:
    """Open data for reading. Of files only headers are read, and of CSV what settles its types.

    Parameters
    ----------
    data : array, object with the Arrow or DLPack protocol, sparse matrix, path, URL, or nested sequence of numbers
        A Source or Table comes back as it is.
    storage_options : mapping or None
        For the file system of a URL.

    Returns
    -------
    Source or Table
        A matrix, or named columns that preprocessing makes one of.

    Raises
    ------
    DataError
        The data is missing, unreadable, or of a kind that is not known.
    """
    if isinstance(data, str | os.PathLike):
        return _open_path(os.fspath(data), storage_options)
    if isinstance(data, Source):
        return data
    if isinstance(data, np.ndarray):
        return ArraySource(data)
    if hasattr(data, "tocsr"):
        from gpukm.sources.csr import CsrSource

        return CsrSource(data.tocsr())
    if hasattr(data, "record_batches"):
        from gpukm.sources.table import Table

        if isinstance(data, Table):
            return data
    if any(hasattr(data, name) for name in ("__arrow_c_stream__", "__arrow_c_array__", "__dataframe__")):
        from gpukm.sources.table import MemoryTable

        return MemoryTable(data)
    if hasattr(data, "__dlpack__"):
        return ArraySource(_from_dlpack(data))
    if hasattr(data, "collect"):
        raise DataError(f"{type(data).__name__} is a query, not rows; call its collect() first")
    try:
        return ArraySource(np.asarray(data))
    except DataError:
        raise
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{type(data).__name__} cannot be read as rows of numbers: {error}; give an array, a data frame or a path"
        ) from None


def _from_dlpack(data: Any) -> np.ndarray:
    """A view of an array of another library; types that NumPy lacks are widened by that library."""
    if getattr(data, "requires_grad", False):
        data = data.detach()
    if "bfloat16" in str(getattr(data, "dtype", "")):
        data = data.float() if hasattr(data, "float") else data.astype("float32")
    try:
        return np.from_dlpack(data)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"{type(data).__name__} cannot be shared with NumPy: {reason}; move it to the CPU as a dense array"
        ) from None


def _format(name: str) -> str | None:
    """The format that a file's name tells by its ending."""
    return next((f for f, endings in _FORMATS.items() if name.lower().endswith(endings)), None)


def _open_path(location: str, storage_options: Mapping[str, Any] | None) -> Source | Table:
    """Choose the format by the name's ending; a folder or glob by what it holds."""
    from gpukm.sources.location import Files, shown

    found = _format(shown(location).rstrip("/"))
    if found is None:
        formats = {_format(shown(path)): path for path in Files(location, ENDINGS, storage_options).paths}
        if None in formats:
            raise DataError(
                f"{shown(formats[None])} has a format that is not known; "
                f"expected a name that ends in {', '.join(ENDINGS[:9])}"
            )
        if len(formats) > 1:
            some = " and ".join(sorted(str(name) for name in formats))
            raise DataError(f"{shown(location)} holds {some} files; say which with a glob, such as '*.parquet'")
        found = next(iter(formats))
    if found == "NumPy":
        from gpukm.sources.npy import NpySource

        return NpySource(location, storage_options)
    if found == "Arrow":
        from gpukm.sources.arrow import ArrowTable

        return ArrowTable(location, storage_options)
    if found == "CSV":
        from gpukm.sources.csv import CsvTable

        return CsvTable(location, storage_options)
    from gpukm.sources.parquet import ParquetTable

    return ParquetTable(location, storage_options)
