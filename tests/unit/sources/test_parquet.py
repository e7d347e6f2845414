from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpukm
from gpukm.errors import DataError
from gpukm.sources.parquet import ParquetTable
from tests.conformance.source import TableConformance, rows_of

N = 90
VECTORS = pa.FixedSizeListArray.from_arrays(np.arange(3 * N, dtype=np.float32), 3)
DATA = pa.table(
    {
        "x": np.arange(N) / 8,
        "n": pa.array([None if i % 9 == 4 else i for i in range(N)]),
        "s": [f"v{i % 5}" for i in range(N)],
        "e": VECTORS,
    }
)


class TestFile(TableConformance):
    @pytest.fixture(params=[7, 1000])
    def table(self, request: pytest.FixtureRequest, tmp_path: Path) -> ParquetTable:
        pq.write_table(DATA, tmp_path / "x.parquet", row_group_size=request.param, data_page_size=64)
        return ParquetTable(str(tmp_path / "x.parquet"))

    @pytest.fixture
    def expected(self) -> pa.Table:
        return DATA


class TestPartitionedFolder(TableConformance):
    @pytest.fixture
    def table(self, tmp_path: Path) -> ParquetTable:
        # In the order of paths: 10 stands before 9.
        for i, part in enumerate(("year=2013/month=10", "year=2013/month=9", "year=2014/month=1")):
            (tmp_path / part).mkdir(parents=True)
            pq.write_table(DATA.slice(30 * i, 30), tmp_path / part / "part.parquet", row_group_size=11)
        (tmp_path / "_SUCCESS").touch()
        (tmp_path / "_temporary").mkdir()
        (tmp_path / "_temporary/x.parquet").write_bytes(b"half")
        (tmp_path / ".hidden.parquet").write_bytes(b"half")
        (tmp_path / "notes.txt").write_bytes(b"text")
        return ParquetTable(str(tmp_path))

    @pytest.fixture
    def expected(self) -> pa.Table:
        years, months = [2013] * 60 + [2014] * 30, [10] * 30 + [9] * 30 + [1] * 30
        return DATA.append_column("year", pa.array(years)).append_column("month", pa.array(months))


class TestUrl(TableConformance):
    @pytest.fixture
    def table(self, tmp_path: Path) -> ParquetTable:
        fs = fsspec.filesystem("memory")
        for i in range(3):
            with fs.open(f"/pq/k=a%20b/{i}.parquet", "wb") as handle:
                pq.write_table(DATA.slice(30 * i, 30), handle, row_group_size=8)
        return ParquetTable("memory://pq/")

    @pytest.fixture
    def expected(self) -> pa.Table:
        return DATA.append_column("k", pa.array(["a b"] * N))


def test_a_glob_takes_what_it_matches(tmp_path: Path) -> None:
    for month in range(1, 4):
        (tmp_path / f"month={month}").mkdir()
        pq.write_table(DATA.slice(0, month), tmp_path / f"month={month}/x.parquet")
    table = ParquetTable(f"{tmp_path}/month=[12]/*.parquet")
    assert table.n_rows == 3
    assert [row["month"] for row in rows_of(table, ["month"])] == [1, 2, 2]
    assert ParquetTable(f"{tmp_path}/**/*.parquet").n_rows == 6


def test_a_name_with_glob_characters_is_a_file_first(tmp_path: Path) -> None:
    pq.write_table(DATA, tmp_path / "a[1].parquet")
    assert ParquetTable(str(tmp_path / "a[1].parquet")).n_rows == N


def test_partition_values_that_are_no_integers_are_text_and_the_hive_null_is_missing(tmp_path: Path) -> None:
    for key in ("a=1/b=x", "a=__HIVE_DEFAULT_PARTITION__/b=__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / key).mkdir(parents=True)
        pq.write_table(DATA.slice(0, 1), tmp_path / key / "x.parquet")
    table = ParquetTable(str(tmp_path))
    assert table.schema.field("a").type == pa.int64() and table.schema.field("b").type == pa.string()
    assert rows_of(table, ["a", "b"]) == [{"a": 1, "b": "x"}, {"a": None, "b": None}]


def test_files_may_differ_in_order_and_width_of_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2], "b": pa.nulls(2)}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": ["x"], "a": [0.5]}), tmp_path / "2.parquet")
    table = ParquetTable(str(tmp_path))
    assert rows_of(table, ["a", "b"]) == [{"a": 1.0, "b": None}, {"a": 2.0, "b": None}, {"a": 0.5, "b": "x"}]


def test_files_with_other_columns_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": [1]}), tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"2.parquet has no column 'a', 1.parquet has"):
        ParquetTable(str(tmp_path))


def test_partitions_must_agree(tmp_path: Path) -> None:
    (tmp_path / "m=1").mkdir()
    for at in ("m=1/x.parquet", "y.parquet"):
        pq.write_table(DATA, tmp_path / at)
    with pytest.raises(DataError, match="partitioned by"):
        ParquetTable(str(tmp_path))
    (tmp_path / "y.parquet").unlink()
    pq.write_table(pa.table({"m": [1]}), tmp_path / "m=1/x.parquet")
    with pytest.raises(DataError, match="column 'm' in its files and as a folder"):
        ParquetTable(str(tmp_path))


def _damage(content: bytes, how: str) -> bytes:
    if how == "truncated":
        return content[:-20]
    if how == "page":
        return content[:40] + bytes(300) + content[340:]
    return {"empty": b"", "text": b"a,b\n1,2\n" * 9}[how]


@pytest.mark.parametrize("how", ["truncated", "page", "empty", "text"])
@pytest.mark.parametrize("where", ["local", "memory"])
def test_damaged_files_are_named(how: str, where: str, tmp_path: Path) -> None:
    pq.write_table(DATA, tmp_path / "good.parquet")
    content = _damage((tmp_path / "good.parquet").read_bytes(), how)
    location = str(tmp_path / "bad.parquet")
    if where == "local":
        Path(location).write_bytes(content)
    else:
        location = f"memory://damaged/{how}/bad.parquet"
        fsspec.filesystem("memory").pipe(f"/damaged/{how}/bad.parquet", content)
    with pytest.raises(DataError, match=r"bad\.parquet is (empty|not a readable Parquet file)") as caught:
        rows_of(ParquetTable(location), ["x", "s"])
    assert "\n" not in str(caught.value)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    pq.write_table(DATA.slice(0, 0), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no rows"):
        ParquetTable(str(tmp_path / "x.parquet"))


def test_a_file_that_was_replaced_or_deleted_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(DATA, path)
    table = ParquetTable(str(path))
    pq.write_table(DATA.slice(1), path)
    with pytest.raises(DataError, match=f"{N - 1} rows now and had {N}"):
        rows_of(table, ["x"])
    path.unlink()
    with pytest.raises(DataError, match=r"x\.parquet does not exist"):
        rows_of(table, ["x"])


def test_only_the_row_groups_of_a_range_are_read(tmp_path: Path) -> None:
    """Row groups outside the range are damaged, so that reading them fails."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": np.arange(100.0)}), path, row_group_size=10, compression="none", use_dictionary=False)
    group = pq.read_metadata(path).row_group
    content = bytearray(path.read_bytes())
    for i in (0, 1, 5, 9):
        at = group(i).column(0).data_page_offset
        content[at : at + 20] = b"\xff" * 20
    path.write_bytes(content)
    table = ParquetTable(str(path))
    assert [row["x"] for row in rows_of(table, ["x"], 7, start=25, stop=48)] == list(range(25, 48))
    with pytest.raises(DataError):
        rows_of(table, ["x"], 7, start=25, stop=51)


def test_a_pickle_holds_no_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": np.random.default_rng(0).random(100_000)}), tmp_path / "x.parquet")
    assert len(pickle.dumps(ParquetTable(str(tmp_path / "x.parquet")))) < 10_000


# The peak that getrusage tells would begin at that of the parent process.
_PEAK = """
import re, sys
from gpukm.sources.parquet import ParquetTable
import pyarrow.parquet
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024
table = ParquetTable(sys.argv[1])
before = peak()
n = sum(batch.num_rows for _, batch in table.record_batches(table.schema.names, 8192))
print(n, peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux does")
def test_a_row_group_larger_than_memory_is_read_in_pieces(tmp_path: Path) -> None:
    """One row group of 192 MB is read in less than a third of that."""
    n = 1_500_000
    columns = {f"c{i}": np.random.default_rng(i).standard_normal(n) for i in range(16)}
    pq.write_table(
        pa.table(columns), tmp_path / "x.parquet", row_group_size=n, use_dictionary=False, compression="none"
    )
    packages = str(Path(gpukm.__file__).parent.parent)
    path = os.pathsep.join([packages, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path / "x.parquet")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows, grown = map(int, done.stdout.split())
    assert rows == n
    assert grown < 64, f"reading took {grown} MB"
