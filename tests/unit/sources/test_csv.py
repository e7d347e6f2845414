from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from gpukm.errors import DataError
from gpukm.sources import csv
from gpukm.sources.csv import CsvTable
from tests.conformance.source import TableConformance, rows_of

N = 70
TEXT = "id,x,late,carrier,gone\n" + "".join(
    f'{i},{"" if i % 9 == 2 else i / 4},{"true" if i % 2 else "false"},"a\nb{i % 3}",\n' for i in range(N)
)
DATA = pa.table(
    {
        "id": range(N),
        "x": [None if i % 9 == 2 else i / 4 for i in range(N)],
        "late": [bool(i % 2) for i in range(N)],
        "carrier": [f"a\nb{i % 3}" for i in range(N)],
        "gone": pa.nulls(N, pa.float64()),
    }
)


class TestFile(TableConformance):
    @pytest.fixture(params=["x.csv", "x.tsv", "x.csv.gz", "x.CSV.BZ2"])
    def table(self, request: pytest.FixtureRequest, tmp_path: Path) -> CsvTable:
        path = tmp_path / request.param
        content = (TEXT.replace(",", "\t") if ".tsv" in path.name else TEXT).encode()
        pack = {".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix.lower(), bytes)
        path.write_bytes(pack(content))
        return CsvTable(str(path))

    @pytest.fixture
    def expected(self) -> pa.Table:
        return DATA


class TestManyBlocks(TestFile):
    @pytest.fixture(autouse=True)
    def _small_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(csv, "_BLOCK_BYTES", 100)


class TestFolderAtUrl(TableConformance):
    @pytest.fixture
    def table(self) -> CsvTable:
        for name in ("1.csv", "2.csv"):
            fsspec.filesystem("memory").pipe(f"/csv/{name}", TEXT.encode())
        return CsvTable("memory://csv")

    @pytest.fixture
    def expected(self) -> pa.Table:
        return pa.concat_tables([DATA, DATA])


def table_of(tmp_path: Path, *texts: str) -> CsvTable:
    """A table of some files."""
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.csv").write_text(text)
    return CsvTable(str(tmp_path))


@pytest.mark.parametrize(
    ("head", "later", "type_"),
    [
        ("1", "1.5", pa.float64()),
        ("", "2.5", pa.float64()),
        ("", "word", pa.string()),
        ("1", "word", pa.string()),
        ("true", "maybe", pa.string()),
        ("2013-01-01", "soon", pa.string()),
        ("1", str(2**70), pa.float64()),
        ("7", "9007199254740993", pa.int64()),
    ],
)
@pytest.mark.parametrize("one_file", [True, False])
def test_types_hold_all_values_wherever_they_stand(
    head: str, later: str, type_: pa.DataType, one_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv, "_BLOCK_BYTES", 64)
    begin, end = f"0,{head}\n" * 40, f"0,{later}\n"
    table = table_of(tmp_path, f"z,a\n{begin}{end}") if one_file else table_of(tmp_path, f"z,a\n{begin}", f"z,a\n{end}")
    assert table.schema.field("a").type == type_ and table.n_rows == 41
    assert len(rows_of(table, ["a"])) == 41
    assert rows_of(table, ["a"])[-1]["a"] == (
        float(later) if type_ == pa.float64() else int(later) if type_ == pa.int64() else later
    )


def test_what_does_not_fit_later_is_an_error_that_names_the_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(csv, "_SETTLE_BYTES", 100)
    table = table_of(tmp_path, "a,b,c\n" + "1,2,3\n" * 50 + "1,oops,3\n")
    assert table.n_rows is None
    assert len(rows_of(table, ["c", "a"])) == 51
    # What lies behind the range is not read.
    assert len(rows_of(table, ["c", "b"], stop=40)) == 40
    with pytest.raises(DataError, match=r"0\.csv: column 'b', line 52 is not int64: invalid value 'oops'"):
        rows_of(table, ["c", "b"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("a,b\n", "no rows"),
        ("1,2.5\n3,4\n", "no header line"),
        ("a,b\n1,2\n1,2,3\n", "Expected 2 columns, got 3"),
    ],
)
def test_unusable_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        table_of(tmp_path, text)


def test_a_file_without_a_column_of_the_others_is_named(tmp_path: Path) -> None:
    table = table_of(tmp_path, "a,b\n1,2\n", "a,c\n1,2\n")
    with pytest.raises(DataError, match=r"1\.csv .*'b'"):
        rows_of(table, ["b"])


def test_a_cut_off_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(TEXT.encode())[:-30])
    with pytest.raises(DataError, match=r"x\.csv\.gz is not a readable CSV file"):
        CsvTable(str(tmp_path / "x.csv.gz"))
