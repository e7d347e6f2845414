from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from gpukm.errors import DataError
from gpukm.sources import Source, open_source
from gpukm.sources.array import ArraySource
from gpukm.sources.arrow import ArrowTable
from gpukm.sources.csr import CsrSource
from gpukm.sources.csv import CsvTable
from gpukm.sources.npy import NpySource
from gpukm.sources.open import _FORMATS
from gpukm.sources.parquet import ParquetTable
from gpukm.sources.table import MemoryTable

X = np.arange(6.0).reshape(3, 2)
FRAME = pa.table({"a": [1.0, 2.0], "b": [3.0, 4.0]})


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (X, ArraySource),
        (X.tolist(), ArraySource),
        (sp.csr_array(X), CsrSource),
        (sp.coo_matrix(X), CsrSource),
        (FRAME, MemoryTable),
        (pd.DataFrame(X), MemoryTable),
        (pl.DataFrame(X), MemoryTable),
        (ArraySource(X), ArraySource),
        (MemoryTable(FRAME), MemoryTable),
    ],
)
def test_objects(data: Any, kind: type) -> None:
    source = open_source(data)
    assert type(source) is kind
    if isinstance(data, (Source, MemoryTable)):
        assert source is data


class Exporter:
    """An array of another library: DLPack and nothing else."""

    def __init__(self, x: Any, dtype: str = "float32", requires_grad: bool = False, device: int = 1) -> None:
        self.x, self.dtype, self.requires_grad, self.device = x, dtype, requires_grad, device

    def __dlpack__(self, **kwargs: Any) -> Any:
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient")
        if self.device != 1 or self.dtype == "bfloat16":
            raise BufferError("no such thing on the host.\nmore")
        return self.x.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self.device, 0)

    def detach(self) -> Exporter:
        return Exporter(self.x, self.dtype)

    def float(self) -> Exporter:
        return Exporter(self.x)


def test_dlpack_shares_memory() -> None:
    source = open_source(Exporter(X))
    assert isinstance(source, ArraySource) and np.shares_memory(source.x, X)


@pytest.mark.parametrize(
    "given", [{"requires_grad": True}, {"dtype": "bfloat16"}, {"dtype": "torch.bfloat16", "requires_grad": True}]
)
def test_dlpack_of_what_must_be_converted_first(given: dict[str, Any]) -> None:
    source = open_source(Exporter(X, **given))
    assert isinstance(source, ArraySource) and source.x.tolist() == X.tolist()


def test_dlpack_of_another_device_is_refused() -> None:
    with pytest.raises(DataError, match=r"Exporter cannot be shared with NumPy: .*; move it to the CPU"):
        open_source(Exporter(X, device=2))


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    for tensor in (torch.tensor(X), torch.tensor(X, requires_grad=True), torch.tensor(X).bfloat16()):
        source = open_source(tensor)
        assert isinstance(source, ArraySource) and source.x.tolist() == X.tolist()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "expected a matrix"),
        (None, "expected a matrix"),
        ([1.0, 2.0], r"shape \(2,\)"),
        ([[1], [1, 2]], "list cannot be read as rows of numbers"),
        ([["a", "b"]], "expected numbers"),
        ({"a": [1]}, "expected a matrix"),
        (FRAME.column("a"), "one array of double"),
        (pl.LazyFrame({"a": [1]}), r"is a query, not rows; call its collect\(\)"),
    ],
)
def test_other_objects_are_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(data)


def write(path: Path) -> Path:
    """Write a small file of the kind its name tells."""
    if path.suffix == ".npy":
        np.save(path, X)
    elif path.suffix in (".feather", ".arrow"):
        feather.write_feather(FRAME, path)
    elif path.suffix in (".csv", ".tsv"):
        path.write_text("a,b\n1,2\n")
    else:
        with path.open("wb") as handle:
            pq.write_table(FRAME, handle)
    return path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.parquet", ParquetTable),
        ("x.PQ", ParquetTable),
        ("x.npy", NpySource),
        ("x.arrow", ArrowTable),
        ("x.feather", ArrowTable),
        ("x.csv", CsvTable),
        ("x.tsv", CsvTable),
    ],
)
def test_paths(name: str, kind: type, tmp_path: Path) -> None:
    path = write(tmp_path / name)
    # As text and as a path; the folder, with and without a slash; a glob; an URL.
    for location in (path, str(path), tmp_path, f"{tmp_path}/", f"{tmp_path}/x*", f"file://{path}"):
        assert type(open_source(location)) is kind, location


def test_a_folder_may_be_called_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").mkdir()
    write(tmp_path / "x.parquet/part-0.parquet")
    assert type(open_source(tmp_path / "x.parquet")) is ParquetTable


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flights.parqet", r"did you mean .*flights\.parquet\?"),
        ("notes.txt", "format that is not known; expected a name that ends in .parquet"),
        ("", "holds CSV and Parquet files; say which with a glob"),
        ("*s.*", "format that is not known|holds"),
        ("none", "holds no file that ends in .parquet"),
    ],
)
def test_other_paths_are_refused(name: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "flights.parquet")
    write(tmp_path / "more.csv")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / name)


def test_the_empty_path_is_not_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.parquet")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="empty"):
        open_source("")


def test_formats_are_those_that_the_readers_look_for() -> None:
    from gpukm.sources import arrow, csv, parquet

    assert set(_FORMATS["Parquet"]) == set(parquet.SUFFIXES)
    assert set(_FORMATS["Arrow"]) == set(arrow.SUFFIXES)
    assert set(_FORMATS["CSV"]) == set(csv.SUFFIXES)
