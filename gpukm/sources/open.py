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


def open_source(data: Any, storage_options: Mapping[str, Any] | None = None) -> Source | Table:
    """Open data for reading; nothing but headers is read.

    Parameters
    ----------
    data : array, object with the Arrow or DLPack protocol, CSR matrix, path, URL, or nested sequence of numbers
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
    if isinstance(data, np.ndarray):
        return ArraySource(data)
    if getattr(data, "format", None) == "csr":
        from gpukm.sources.csr import CsrSource

        return CsrSource(data)
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__dataframe__"):
        from gpukm.sources.table import MemoryTable

        return MemoryTable(data)
    if hasattr(data, "__dlpack__"):
        return ArraySource(_from_dlpack(data))
    try:
        return ArraySource(np.asarray(data))
    except (ValueError, TypeError) as error:
        raise DataError(f"{type(data).__name__} cannot be read as rows of numbers: {error}") from None


def _from_dlpack(data: Any) -> np.ndarray:
    """A view of an array of another library; types that NumPy lacks are widened by that library."""
    if "bfloat16" in str(getattr(data, "dtype", "")):
        data = data.float()
    if getattr(data, "requires_grad", False):
        data = data.detach()
    try:
        return np.from_dlpack(data)
    except (BufferError, RuntimeError, TypeError) as error:
        raise DataError(f"{type(data).__name__} cannot be shared through DLPack: {error}; move it to the CPU") from None


def _open_path(location: str, storage_options: Mapping[str, Any] | None) -> Source | Table:
    """Choose the format by the name's ending; a folder or glob by what it holds."""
    from gpukm.sources import arrow, csv
    from gpukm.sources.location import Files, shown

    name = location.split("?")[0].rstrip("/").lower() if "://" in location else location.rstrip("/").lower()
    known = (".parquet", ".pq", ".npy", *arrow.SUFFIXES, *csv.SUFFIXES)
    ending = next((e for e in known if name.endswith(e)), None)
    if ending is None:
        files = Files(location, known, storage_options)
        first = files.paths[0].lower()
        ending = next((e for e in known if first.endswith(e)), None)
        if ending is None:
            raise DataError(
                f"{shown(location)} has a format that is not known; expected a name that ends in {', '.join(known)}"
            )
    if ending == ".npy":
        from gpukm.sources.npy import NpySource

        return NpySource(location, storage_options)
    if ending in arrow.SUFFIXES:
        return arrow.ArrowTable(location, storage_options)
    if ending in csv.SUFFIXES:
        return csv.CsvTable(location, storage_options)
    from gpukm.sources.parquet import ParquetTable

    return ParquetTable(location, storage_options)
