"""Plans: what the metadata tells, and what is decided from it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from gpukm.config import Settings
from gpukm.pipeline.inputs import preprocessing_of
from gpukm.plan import TrainPlan, human_bytes, plan
from gpukm.sources.array import ArraySource
from gpukm.sources.base import Source
from gpukm.sources.table import MemoryTable, Table

VECTORS = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(40, np.float32)), 4)


def make(raw: Source | Table, **settings: object) -> TrainPlan:
    """Plan with these settings."""
    chosen = Settings(n_clusters=8, memory_limit=8 << 30, **settings)  # type: ignore[arg-type]
    return plan(raw, chosen, preprocessing_of(raw, chosen), "the data")


def test_width_and_type_come_from_the_schema() -> None:
    table = MemoryTable(pa.table({"v": VECTORS, "x": pa.array(np.zeros(10, np.float32)), "name": ["n"] * 10}))
    found = make(table)
    assert (found.n_rows, found.n_features, found.dtype, found.data_bytes) == (10, 5, "float32", 200)
    assert found.resident and found.flop_per_iteration == 2 * 10 * 5 * 8
    assert make(table, dtype="float64").dtype == "float64"
    assert make(table, step=("pca:n_components=2",)).n_features == 2
    assert make(table, step=("standardize", "pca:n_components=2,columns=v")).n_features == 3
    assert make(table, step=("pca:n_components=2,columns=v", "pca:n_components=1,columns=pca|x")).n_features == 1
    assert make(table, one_hot=("name",)).n_features is None
    assert make(table, one_hot=("name",), step=("pca:n_components=2",)).n_features == 2
    assert make(ArraySource(np.zeros((4, 3)))).dtype == "float64"


@pytest.mark.parametrize(("n_rows", "resident"), [(1 << 20, True), (1 << 30, False)])
def test_rows_that_do_not_fit_are_streamed(n_rows: int, resident: bool) -> None:
    raw = ArraySource(np.zeros((4, 3)))
    raw.n_rows = n_rows
    found = make(raw)
    assert found.resident is resident
    assert found.memory_bytes <= found.memory_limit_bytes
    if not resident:
        assert found.file_passes > 300
        assert all(p.reads == "file" for p in found.passes)


def test_an_unknown_number_of_rows_is_said() -> None:
    raw = ArraySource(np.zeros((4, 3)))
    raw.n_rows = None  # type: ignore[assignment]
    found = make(raw)
    assert not found.resident and found.data_bytes is None and found.hold_rows > 0
    assert "known only after a pass" in found.notes[0]


def test_passes_grow_with_what_is_asked_for() -> None:
    raw = ArraySource(np.zeros((4, 3)))

    def count(purpose: str, **settings: object) -> int:
        return next(p.count for p in make(raw, **settings).passes if p.purpose == purpose)

    assert count("fit preprocessing") == 1
    assert count("fit preprocessing", step=("log1p", "clip:lower=0", "standardize", "minmax")) == 3
    assert count("fit preprocessing", step=("standardize", "pca:n_components=1")) == 4
    assert count("fit preprocessing", step=("log1p", "standardize", "robust")) == 7
    assert not make(raw, step=("standardize",)).passes[0].at_most
    assert make(raw, step=("robust",)).passes[0].at_most
    assert count("iterate", n_init=3, max_iter=10) == 30
    assert count("label", init="random") == 10
    assert count("seed", init="k-means++") > count("seed", init="random", n_init=1)


def test_batches_are_as_asked_for() -> None:
    assert make(ArraySource(np.zeros((4, 3))), batch_rows=17).batch_rows == 17


def test_sizes_are_readable() -> None:
    assert [human_bytes(n) for n in (None, 0, 1, 1536, 5 << 30)] == ["unknown", "0 B", "1 B", "1.5 KiB", "5 GiB"]
