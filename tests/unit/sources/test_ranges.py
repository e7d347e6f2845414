"""Ranges: where they are cut, what travels with them, and which error of many is raised."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpukm.errors import DataError
from gpukm.executors import LocalExecutor
from gpukm.pipeline.where import Filtered, parse_condition
from gpukm.sources import open_source
from gpukm.sources.array import ArraySource
from gpukm.sources.base import Source
from gpukm.sources.faults import Finding, Refused, Unreadable, Unusable
from gpukm.sources.ranges import RowRange, cut, over, place
from gpukm.sources.table import MemoryTable, Table
from tests.conformance.scattered import ScatteredExecutor


def folder(path: Path, files: int, groups: int, rows: int) -> Table:
    """Parquet files of equal row groups; column ``x`` is the row's number."""
    for i in range(files):
        n = groups * rows
        table = pa.table({"x": np.arange(i * n, (i + 1) * n), "even": np.arange(n) % 2 == 0})
        pq.write_table(table, path / f"{i:03}.parquet", row_group_size=rows)
    opened = open_source(path)
    assert isinstance(opened, Table)
    return opened


@pytest.mark.parametrize(("n", "expected"), [(2, [0, 500]), (3, [0, 300, 700]), (10, [*range(0, 1000, 100)])])
def test_cuts_keep_to_row_groups(tmp_path: Path, n: int, expected: list[int]) -> None:
    table = folder(tmp_path, 2, 5, 100)
    assert [start for start, _ in cut(table, n, LocalExecutor())] == expected


def test_row_groups_that_are_too_large_are_cut(tmp_path: Path) -> None:
    table = folder(tmp_path, 1, 1, 1000)
    assert [start for start, _ in cut(table, 4, LocalExecutor())] == [0, 250, 500, 750]


def test_a_range_travels_with_its_files_alone(tmp_path: Path) -> None:
    table = folder(tmp_path, 40, 1, 10)
    part = pickle.dumps(RowRange(table, 95, 105))
    assert len(part) < len(pickle.dumps(table)) and b"009.parquet" in part and b"011.parquet" not in part
    assert list(table.part(95, 105).borders()) == [100]


@pytest.mark.parametrize("kind", [ArraySource, lambda x: MemoryTable({"a": x[:, 0]})])
def test_a_range_travels_with_its_rows_alone(kind: type[Source]) -> None:
    rows = kind(np.random.default_rng(0).random((100_000, 1)))
    assert len(pickle.dumps(RowRange(rows, 500, 1500))) < 16_000


def test_all_rows_are_the_source_itself() -> None:
    source = ArraySource(np.ones((3, 1)))
    assert RowRange(source).open() is source and RowRange(source, 0, 3).open() is source
    assert cut(source, 1, LocalExecutor()) == ((0, None),)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_rows_that_meet_a_condition_are_counted_and_numbered(tmp_path: Path, n: int) -> None:
    def opened() -> Filtered:
        return Filtered(folder(tmp_path, 3, 4, 7), [parse_condition("even=true")])

    whole = [(number, batch.to_pydict()) for number, batch in opened().record_batches(["x"], 1)]
    table = opened()
    cuts = cut(table, n, ScatteredExecutor())
    assert table.n_rows == len(whole) and len(cuts) == min(n, 12)  # as many as there are row groups
    found = []
    for start, stop in cuts:
        part = pickle.loads(pickle.dumps(RowRange(table, start, stop))).open()
        found += [(number, batch.to_pydict()) for number, batch in part.record_batches(["x"], 1)]
    assert found == whole


def finding(count: int, row: int) -> Finding:
    """Something found."""
    return Finding(count, row, "there are ", "value, the first in row", "values, the first in row", f", at {row}")


FAULTS = [
    Unreadable("the second file is damaged", 100),
    Unreadable("the third file is damaged", 200),
    Refused({1: finding(2, 150)}),
    Refused({0: finding(1, 300), 1: finding(1, 40)}),
    Unusable("row 7", 7),
    Unusable("row 3", 3),
]
SAID = [
    "the second file is damaged",
    "the third file is damaged",
    "there are 1 value, the first in row 300, at 300",
    "there are 1 value, the first in row 300, at 300",
    "row 3",
    "row 3",
]


@pytest.mark.parametrize(("faults", "said"), [(FAULTS[i:], SAID[i]) for i in range(6)])
def test_one_error_is_raised_in_any_order(faults: list[DataError], said: str) -> None:
    for order in itertools.permutations(faults, len(faults)) if len(faults) < 5 else [faults, faults[::-1]]:
        merged = order[0]
        for fault in order[1:]:
            merged = pickle.loads(pickle.dumps(merged)).merge(fault)
        assert str(merged) == said


def test_counts_of_ranges_are_added() -> None:
    merged = Refused({1: finding(2, 150)}).merge(Refused({1: finding(5, 40)}))
    assert str(merged) == "there are 7 values, the first in row 40, at 40"


def fail(rows: Source, where: list[int]) -> int:
    """Refuse the rows ``where``."""
    numbers = [i for batch in rows.batches(3) for i in batch.row_numbers.tolist()]
    for i in numbers:
        if i in where:
            raise Unusable(f"row {i} is bad", i)
    return len(numbers)


@pytest.mark.parametrize("executor", [LocalExecutor(), ScatteredExecutor(1), ScatteredExecutor(2)])
def test_the_first_row_is_named_whichever_range_fails_first(executor: LocalExecutor) -> None:
    source = ArraySource(np.ones((20, 1)))
    placed = place(executor, source, cut(source, 6, executor))
    with pytest.raises(DataError, match="row 11 is bad"):
        over(executor, placed, fail, [18, 11, 14], merge=int.__add__)
    assert over(executor, placed, fail, [], merge=int.__add__) == 20
