"""Long CSV files are read in pieces: the rows of the whole, whatever stands between quotes."""

from __future__ import annotations

import csv
import io
import pickle
import tempfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukm.errors import DataError
from gpukm.sources.csv import CsvTable
from gpukm.sources.ranges import RowRange, cut
from tests.conformance.scattered import ScatteredExecutor

EXECUTOR = ScatteredExecutor()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows have to be counted, in pieces of some ten bytes."""
    monkeypatch.setattr("gpukm.sources.csv._SETTLE_BYTES", 1)
    monkeypatch.setattr("gpukm.sources.csv_pieces.CHUNK_BYTES", 24)


def read(table: CsvTable, start: int = 0, stop: int | None = None) -> list[dict[str, object]]:
    """Rows of a range, read by itself."""
    part = pickle.loads(pickle.dumps(RowRange(table, start, stop))).open()
    names = table.schema.names
    found, at = [], start
    for first, batch in part.record_batches(names, 5):
        assert first == at
        at += batch.num_rows
        found += batch.to_pylist()
    return found


def written(rows: list[tuple[str, str]], ends: str = "\n", quoting: int = csv.QUOTE_MINIMAL) -> str:
    """Text of a file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=ends, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([("a", "b"), *rows])
    return out.getvalue()


def check(text: str, pieces: bool | None = None) -> None:
    """Read in ranges it is the same."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        path.write_text(text, newline="")
        whole = read(CsvTable(str(path)))
        table = CsvTable(str(path))
        assert table.n_rows is None
        cuts = cut(table, 7, EXECUTOR)
        assert table.n_rows == len(whole)
        if pieces is not None:
            assert (len(cuts) > 1) == pieces and (len(table.files.paths) > 1) == pieces
        assert [row for start, stop in cuts for row in read(table, start, stop)] == whole
        middle = len(whole) // 2
        assert read(table, middle, middle + 3) == whole[middle : middle + 3]


values = st.text('ab",\n\r 1', max_size=9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(values, values), min_size=8, max_size=30), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_quoted_values_may_hold_anything(rows: list[tuple[str, str]], ends: str, all_quoted: bool) -> None:
    # Python's writer leaves a lone return without quotes, where it ends a line.
    rows = [("x" + a, b) if all_quoted else ("x" + a.replace("\r", ""), b.replace("\r", "")) for a, b in rows]
    check(written(rows, ends, csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text('a" 1', max_size=5), st.text('a"\n,', max_size=8)), min_size=10, max_size=30))
def test_quotes_amid_values_are_characters(rows: list[tuple[str, str]]) -> None:
    quoted = [(a, b.replace('"', '""')) for a, b in rows]
    check("a,b\n" + "".join(f'x{a},"{b}"\n' for a, b in quoted))


def test_files_are_cut_where_that_is_possible() -> None:
    rows = [(f"row {i}", "two\nlines" if i % 3 else 'so "called"') for i in range(40)]
    check(written(rows), True)
    check(written(rows, "\r\n"), True)
    check(written([(f"row {i}", "x") for i in range(40)]) + "\n\n\n", True)
    check("a,b\n" + "".join(f'row {i},{i}" wide\n' for i in range(40)), False)


def test_pieces_of_several_files_at_a_url() -> None:
    fs = fsspec.filesystem("memory")
    for i, names in enumerate([("a", "b"), ("b", "a"), ("a", "b")]):
        text = ",".join(names) + "\n" + "".join(f"{100 * i + j},{-j}\n" for j in range(20 if i else 1))
        fs.pipe_file(f"/pieces/{i}.csv", text.encode())
    whole = read(CsvTable("memory://pieces"))
    table = CsvTable("memory://pieces")
    cuts = cut(table, 5, EXECUTOR)
    assert len(whole) == 41 and len(cuts) == 5 and len(set(table.files.paths)) == 3
    assert [row for start, stop in cuts for row in read(table, start, stop)] == whole
    fs.rm("/pieces", recursive=True)


@pytest.mark.parametrize("bad", ["20,x,1", "20,x", "20,"])
def test_an_error_names_the_line_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    # The first block settles the types, before the bad line.
    monkeypatch.setattr("gpukm.sources.csv._BLOCK_BYTES", 64)
    lines = [f"{i},{i}" for i in range(60)]
    lines[41] = bad
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + "\n".join(lines) + "\n")
    if bad == "20,":
        assert read(CsvTable(str(path)))[41] == {"a": 20, "b": None}
        return
    with pytest.raises(DataError, match=r"(?i)(line|row #?)\s*#?43") as whole:
        read(CsvTable(str(path)))
    table = CsvTable(str(path))
    with pytest.raises(DataError) as found:
        for start, stop in cut(table, 6, EXECUTOR):
            read(table, start, stop)
    assert str(found.value) == str(whole.value)


def test_a_file_that_changes_after_it_was_counted_is_an_error(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.csv").write_text("a,b\n1,2\n3,4\n")
    table = CsvTable(str(tmp_path))
    assert cut(table, 2, EXECUTOR) == ((0, 2), (2, 4))
    (tmp_path / "0.csv").write_text("a,b\n1,2\n3,4\n5,6\n")
    with pytest.raises(DataError, match=r"0.csv has 3 rows now and had 2 when they were counted"):
        read(table)


def test_looks_take_back_nothing_of_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpukm.sources.csv._SETTLE_BYTES", 1 << 20)
    pa.csv.write_csv(pa.table({"a": [1, 2, 3]}), tmp_path / "1.csv")
    pa.csv.write_csv(pa.table({"a": [4]}), tmp_path / "2.csv")
    table = CsvTable(str(tmp_path))
    assert table.n_rows == 4 and list(table.borders()) == [3] and cut(table, 9, EXECUTOR) == ((0, 3), (3, 4))
