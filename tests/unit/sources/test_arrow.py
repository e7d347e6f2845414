from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pytest

from gpukm.errors import DataError
from gpukm.sources import arrow
from gpukm.sources.arrow import ArrowTable
from tests.conformance.source import TableConformance, rows_of

DATA = pa.table({"x": np.arange(80) / 8, "s": [f"v{i}" for i in range(80)], "n": pa.array([None, *range(79)])})


def write(path: Path, kind: str) -> None:
    """Write DATA in batches of 13 rows."""
    if kind == "stream":
        with pa.ipc.new_stream(path, DATA.schema) as stream:
            stream.write_table(DATA, max_chunksize=13)
    else:
        feather.write_feather(DATA, path, chunksize=13, compression=kind)


class TestFile(TableConformance):
    @pytest.fixture(params=["lz4", "zstd", "uncompressed", "stream"])
    def table(self, request: pytest.FixtureRequest, tmp_path: Path) -> ArrowTable:
        write(tmp_path / "x.arrow", request.param)
        return ArrowTable(str(tmp_path / "x.arrow"))

    @pytest.fixture
    def expected(self) -> pa.Table:
        return DATA


class TestMapped(TestFile):
    @pytest.fixture(autouse=True)
    def _all_batches_are_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arrow, "_LARGEST_BATCH_BYTES", 1)


class TestFolderAtUrl(TableConformance):
    @pytest.fixture
    def table(self, tmp_path: Path) -> ArrowTable:
        write(tmp_path / "x", "lz4")
        for name in ("1.feather", "2.arrow"):
            fsspec.filesystem("memory").pipe(f"/ipc/{name}", (tmp_path / "x").read_bytes())
        return ArrowTable("memory://ipc")

    @pytest.fixture
    def expected(self) -> pa.Table:
        return pa.concat_tables([DATA, DATA])


def test_files_tell_their_rows_and_streams_do_not(tmp_path: Path) -> None:
    write(tmp_path / "1.feather", "lz4")
    assert ArrowTable(str(tmp_path)).n_rows == 80
    write(tmp_path / "2.arrows", "stream")
    table = ArrowTable(str(tmp_path))
    assert table.n_rows is None
    assert len(rows_of(table, ["s"], 50, start=75, stop=90)) == 15


def test_types_of_files_are_joined(tmp_path: Path) -> None:
    feather.write_feather(pa.table({"a": [1], "b": ["x"]}), tmp_path / "1.feather")
    feather.write_feather(pa.table({"b": pa.nulls(1), "a": [0.5]}), tmp_path / "2.feather")
    assert rows_of(ArrowTable(str(tmp_path)), ["a", "b"]) == [{"a": 1.0, "b": "x"}, {"a": 0.5, "b": None}]


@pytest.mark.parametrize("kind", ["lz4", "stream"])
@pytest.mark.parametrize("content", ["", "half", "text"])
def test_damaged_files_are_named(kind: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.feather"
    write(path, kind)
    whole = path.read_bytes()
    path.write_bytes({"": b"", "half": whole[: len(whole) // 2], "text": b"a,b\n1,2\n"}[content])
    with pytest.raises(DataError, match=r"x\.feather is (empty|not a readable Arrow file)"):
        rows_of(ArrowTable(str(path)), ["x"])


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    feather.write_feather(DATA.slice(0, 0), tmp_path / "x.feather")
    with pytest.raises(DataError, match="no rows"):
        ArrowTable(str(tmp_path / "x.feather"))


def test_files_before_the_range_are_not_opened(tmp_path: Path) -> None:
    for name in ("1.feather", "2.feather"):
        write(tmp_path / name, "lz4")
    table = ArrowTable(str(tmp_path))
    (tmp_path / "1.feather").unlink()
    assert len(rows_of(table, ["x"], start=80)) == 80
    with pytest.raises(DataError, match=r"1\.feather does not exist"):
        rows_of(table, ["x"], start=79)
