"""Whatever the batch size, range, layout and format: the same rows, the same digest."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpukm.sources import Source, open_source
from gpukm.sources.array import ArraySource
from gpukm.sources.fingerprint import RowDigest
from gpukm.sources.parquet import ParquetTable
from gpukm.sources.prefetch import Prefetch

matrices = hnp.arrays(
    st.sampled_from([np.float64, np.float32, np.float16, np.int16, np.int64]),
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
    elements=st.integers(-100, 100),
)
sizes = st.integers(1, 50)


@given(x=matrices, rows=sizes, ends=st.tuples(st.integers(0, 45), st.integers(0, 45)))
@settings(max_examples=150, deadline=None)
def test_every_matrix_source_has_the_rows_of_the_array(x: np.ndarray, rows: int, ends: tuple[int, int]) -> None:
    start, stop = min(ends), max(ends)
    expected = ArraySource(x).x[start:stop]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npy")
        np.save(path, x)
        wide = x if x.dtype != np.float16 else x.astype(np.float32)
        for given_ in (x, np.asfortranarray(x), path, sp.csr_array(wide)):
            source = open_source(given_)
            assert isinstance(source, Source)
            for reader in (source, Prefetch(source)):
                parts = [b.x for b in reader.batches(rows, start, stop)]
                found = np.concatenate([*parts, np.empty((0, x.shape[1]), source.dtype)])
                assert found.dtype == expected.dtype and found.tobytes() == expected.tobytes()


@given(
    n=st.integers(1, 60),
    rows=sizes,
    group=sizes,
    cuts=st.lists(st.integers(0, 60), max_size=3),
    ends=st.tuples(sizes, sizes),
)
@settings(max_examples=60, deadline=None)
def test_files_cut_in_any_way_are_one_table(
    n: int, rows: int, group: int, cuts: list[int], ends: tuple[int, int]
) -> None:
    columns = {"a": np.arange(n) / 3, "b": [None if i % 3 else i for i in range(n)], "c": [str(i) for i in range(n)]}
    table = pa.table(columns)
    bounds = sorted({0, n, *(min(c, n) for c in cuts)})
    start, stop = min(ends), max(ends)
    with tempfile.TemporaryDirectory() as folder:
        for i, (first, last) in enumerate(itertools.pairwise(bounds)):
            piece = table.slice(first, last - first)
            pq.write_table(piece, Path(folder, f"{i}.parquet"), row_group_size=group)
            feather.write_feather(piece, Path(folder, f"{i}.feather"), chunksize=group)
        for pattern in ("*.parquet", "*.feather"):
            read = open_source(Path(folder, pattern))
            assert not isinstance(read, Source)
            found, at = list(read.record_batches(["c", "a", "b"], rows, start, stop)), start
            for first, batch in found:
                assert first == at and 0 < batch.num_rows <= rows
                at += batch.num_rows
            whole = pa.Table.from_batches([b for _, b in found], table.select(["c", "a", "b"]).schema)
            assert whole.equals(table.select(["c", "a", "b"]).slice(start, max(0, stop - start)))
        assert ParquetTable(folder).n_rows == n


@given(x=matrices, order=st.randoms(use_true_random=False), cut=st.integers(0, 40))
@settings(max_examples=150, deadline=None)
def test_digests_merge_in_any_order(x: np.ndarray, order: object, cut: int) -> None:
    rows = ArraySource(x).x
    numbers = list(range(len(rows)))
    order.shuffle(numbers)  # type: ignore[attr-defined]
    whole, left, right = RowDigest(), RowDigest(), RowDigest()
    whole.update(rows, np.arange(len(rows)))
    left.update(rows[numbers[:cut]], np.array(numbers[:cut], np.int64))
    right.update(rows[numbers[cut:]], np.array(numbers[cut:], np.int64))
    right.merge(left)
    assert right.hexdigest() == whole.hexdigest()
