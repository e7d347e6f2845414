"""What every source and table must do; a test class for one kind inherits these classes and gives its fixtures."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gpukm.errors import DataError
from gpukm.executors import LocalExecutor
from gpukm.sources.base import Source
from gpukm.sources.fingerprint import RowDigest
from gpukm.sources.ranges import Range, RowRange, cut
from gpukm.sources.table import Table
from tests.conformance.scattered import ScatteredExecutor

SIZES = (1, 7, 64, 10**6)


def ranges(n: int) -> list[tuple[int, int | None]]:
    """Whole, head, tail, middle, one row, nothing, and ends beyond the end."""
    return [
        (0, None),
        (0, n),
        (0, 5),
        (n // 3, None),
        (n // 3, 2 * n // 3),
        (n - 1, n),
        (4, 4),
        (n - 2, n + 9),
        (n, None),
    ]


def check_cuts(cuts: tuple[Range, ...], n: int, n_rows: int, anywhere: bool = True) -> list[tuple[int, int]]:
    """Ranges one behind the other, none of them empty, as many as were asked for or as there are rows."""
    assert cuts[0][0] == 0 and cuts[-1][1] in (None, n_rows) and len(cuts) <= n
    pairs = [(start, n_rows if stop is None else stop) for start, stop in cuts]
    assert all(a < b for a, b in pairs) and all(a[1] == b[0] for a, b in itertools.pairwise(pairs))
    sizes = [b - a for a, b in pairs]
    assert max(sizes) <= 2 * n_rows / n + 1 or n == 1 or not anywhere
    return pairs


class SourceConformance:
    """Fixtures: ``source``, and ``expected``, the matrix of all its rows in working dtype."""

    @pytest.fixture
    def source(self) -> Source:
        raise NotImplementedError

    @pytest.fixture
    def expected(self) -> np.ndarray:
        raise NotImplementedError

    def test_says_what_it_yields(self, source: Source, expected: np.ndarray) -> None:
        assert source.dtype == expected.dtype and source.dtype in (np.float32, np.float64)
        assert source.n_features == expected.shape[1]
        assert source.n_rows in (None, len(expected))
        assert source.names is None or len(source.names) == source.n_features

    @pytest.mark.parametrize("rows", SIZES)
    def test_batches_cover_any_range_in_order(self, source: Source, expected: np.ndarray, rows: int) -> None:
        for start, stop in ranges(len(expected)):
            at, end = start, len(expected) if stop is None else min(stop, len(expected))
            for batch in source.batches(rows, start, stop):
                assert batch.first_row == at and 0 < batch.n_rows <= rows and batch.kept is None
                assert len(batch.x) == batch.n_rows
                assert batch.x.flags.c_contiguous and batch.x.dtype == expected.dtype and type(batch.x) is np.ndarray
                assert batch.x.tobytes() == expected[at : at + batch.n_rows].tobytes()
                assert batch.row_numbers.tolist() == list(range(at, at + batch.n_rows))
                at += batch.n_rows
            assert at == max(start, end)

    def test_can_be_read_again_and_at_once(self, source: Source, expected: np.ndarray) -> None:
        next(source.batches(3))
        one, two = source.batches(5), source.batches(8)
        parts = [(a.x if a else None, b.x if b else None) for a, b in itertools.zip_longest(one, two)]
        for side in (0, 1):
            rows = [pair[side] for pair in parts if pair[side] is not None]
            assert np.concatenate(rows).tobytes() == expected.tobytes()

    def test_pickled_it_is_the_same_source(self, source: Source, expected: np.ndarray) -> None:
        source.array()
        again = pickle.loads(pickle.dumps(source))
        assert np.concatenate([b.x for b in again.batches(11)]).tobytes() == expected.tobytes()
        assert (again.dtype, again.n_features, again.names) == (source.dtype, source.n_features, source.names)

    @pytest.mark.parametrize("n", [1, 2, 7, 10**6])
    def test_ranges_are_the_rows_in_order(self, source: Source, expected: np.ndarray, n: int) -> None:
        cuts = check_cuts(cut(source, n, LocalExecutor()), n, len(expected))
        for start, stop in [*cuts, (5, 5), (len(expected), None)]:
            part = pickle.loads(pickle.dumps(RowRange(source, start, stop))).open()
            batches = list(part.batches(7))
            assert b"".join(b.x.tobytes() for b in batches) == expected[start:stop].tobytes()
            numbers = [i for b in batches for i in b.row_numbers.tolist()]
            assert numbers == list(range(len(expected))[start:stop])
            assert (part.dtype, part.n_features, part.names) == (source.dtype, source.n_features, source.names)

    def test_the_array_is_all_rows_or_nothing(self, source: Source, expected: np.ndarray) -> None:
        x = source.array()
        if x is not None:
            assert x.flags.c_contiguous and x.dtype == expected.dtype and x.tobytes() == expected.tobytes()
        # Weights beside an array are those of the batches.
        weights = source.weights()
        if weights is not None:
            parts = [b.weight for b in source.batches(9) if b.weight is not None]
            assert x is not None and np.concatenate(parts).tolist() == weights.tolist()

    def test_the_digest_does_not_depend_on_batches(self, source: Source, expected: np.ndarray) -> None:
        whole = RowDigest()
        whole.update(expected, np.arange(len(expected)))
        for rows in (3, 1000):
            digest = RowDigest()
            for batch in source.batches(rows):
                digest.update(batch.x, batch.row_numbers)
            assert digest.hexdigest() == whole.hexdigest()


class TableConformance:
    """Fixtures: ``table``, and ``expected``, the same rows in memory with the same schema."""

    @pytest.fixture
    def table(self) -> Table:
        raise NotImplementedError

    @pytest.fixture
    def expected(self) -> pa.Table:
        raise NotImplementedError

    @staticmethod
    def read(table: Table, columns: list[str], rows: int, start: int = 0, stop: int | None = None) -> pa.Table:
        """All rows of a range, with what every batch owes checked."""
        schema = pa.schema([table.schema.field(name) for name in columns])
        batches, at = [], start
        for first, batch in table.record_batches(columns, rows, start, stop):
            assert first == at and 0 < batch.num_rows <= rows
            assert batch.schema.equals(schema), f"{batch.schema} is not {schema}"
            batch.validate(full=True)
            batches.append(batch)
            at += batch.num_rows
        return pa.Table.from_batches(batches, schema)

    def test_says_what_it_holds(self, table: Table, expected: pa.Table) -> None:
        assert table.schema.equals(expected.schema)
        assert table.n_rows in (None, len(expected))
        assert table.location

    @pytest.mark.parametrize("rows", SIZES)
    def test_batches_cover_any_range_in_order(self, table: Table, expected: pa.Table, rows: int) -> None:
        names = expected.schema.names
        for start, stop in ranges(len(expected)) if rows > 1 else [(3, 9)]:
            end = len(expected) if stop is None else min(stop, len(expected))
            found = self.read(table, names, rows, start, stop)
            assert found.equals(expected.slice(start, max(0, end - start)))

    def test_columns_come_in_the_order_asked_for(self, table: Table, expected: pa.Table) -> None:
        names = expected.schema.names[::-1]
        assert self.read(table, names, 50).equals(expected.select(names))
        for name in names:
            assert self.read(table, [name], 50).equals(expected.select([name]))

    def test_can_be_read_again_and_at_once(self, table: Table, expected: pa.Table) -> None:
        names = expected.schema.names
        next(table.record_batches(names, 3))
        one, two = table.record_batches(names, 20), table.record_batches(names[:1], 30)
        n = [0, 0]
        for a, b in itertools.zip_longest(one, two):
            n[0] += a[1].num_rows if a else 0
            n[1] += b[1].num_rows if b else 0
        assert n == [len(expected)] * 2

    def test_pickled_it_is_the_same_table(self, table: Table, expected: pa.Table) -> None:
        again = pickle.loads(pickle.dumps(table))
        assert self.read(again, expected.schema.names, 40).equals(expected)

    @pytest.mark.parametrize("n", [1, 2, 7, 10**6])
    def test_ranges_are_the_rows_in_order(self, table: Table, expected: pa.Table, n: int) -> None:
        names = expected.schema.names
        cuts = check_cuts(cut(table, n, ScatteredExecutor()), n, len(expected), table.anywhere)
        for start, stop in [*cuts[:9], *cuts[-2:], (5, 5), (len(expected), None)]:
            part = pickle.loads(pickle.dumps(RowRange(table, start, stop))).open()
            found = self.read(part, names, 40, *((start,) if start else ()))
            assert found.equals(expected.slice(start, None if stop is None else stop - start))

    def test_pieces_are_counted_and_known_from_then_on(self, table: Table, expected: pa.Table) -> None:
        pieces = table.pieces()
        assert sum(piece.count() for piece in pieces) == len(expected)
        known = pickle.loads(pickle.dumps(table))
        known.counted([piece.count() for piece in pieces])
        assert known.n_rows == len(expected)
        assert self.read(known, expected.schema.names, 40, len(expected) - 5).equals(expected.slice(len(expected) - 5))

    def test_an_unknown_column_is_named_with_the_closest(self, table: Table, expected: pa.Table) -> None:
        name = expected.schema.names[0]
        with pytest.raises(DataError, match=f"has no column '{name}x'; did you mean '{name}'"):
            list(table.record_batches([name + "x"], 10))


def rows_of(table: Table, columns: list[str], rows: int = 1000, **where: Any) -> list[dict[str, Any]]:
    """Rows as dictionaries."""
    return [row for _, batch in table.record_batches(columns, rows, **where) for row in batch.to_pylist()]
