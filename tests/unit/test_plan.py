"""Plans: what the metadata tells, and what is decided from it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from gpukm import kmeans, minibatch_kmeans
from gpukm.config import Settings
from gpukm.pipeline.inputs import preprocessing_of
from gpukm.plan import TrainPlan, human_bytes, plan
from gpukm.preprocessing import Preprocessing
from gpukm.sources.array import ArraySource
from gpukm.sources.base import Batch, Source
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


def test_swaps_are_planned_only_where_they_are_asked_for() -> None:
    raw = ArraySource(np.zeros((4, 3)))
    assert "swap centroids" not in [p.purpose for p in make(raw).passes]
    assert next(p for p in make(raw, quality="best").passes if p.purpose == "swap centroids").at_most


class Counting(ArraySource):
    """Streams an array and counts the rows it gave."""

    read = 0

    def array(self) -> None:
        """Not in memory as far as a fit can see."""

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        for batch in super().batches(rows, start, stop):
            self.read += len(batch.x)
            yield batch


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("init", ["random", "k-means++", "pooled"])
def test_a_fit_makes_no_more_passes_than_planned(init: str, weighted: bool) -> None:
    rng = np.random.default_rng(0)
    raw = Counting(rng.normal(size=(3000, 3)), weight=rng.random(3000) if weighted else None)
    planned = {p.purpose: p.count for p in make(raw, init=init, n_init=1, max_iter=2, batch_rows=500).passes}
    kmeans(raw, 8, init=init, n_init=1, max_iter=2, batch_size=500, seed=0)
    most = sum(planned[purpose] for purpose in ("check and scan", "seed", "iterate", "label"))
    # The first rows are looked at once more, for a point near the data.
    assert raw.read / 3000 <= most + 1
    # An empty cluster is rare here, so hardly any planned pass goes unused.
    assert raw.read / 3000 >= most - 2


@pytest.mark.parametrize("max_excess", [0.02, 0.0])
def test_a_mini_batch_fit_makes_no_more_passes_than_planned(max_excess: float) -> None:
    raw = Counting(np.random.default_rng(0).normal(size=(30_000, 3)))
    made = make(raw, algorithm="minibatch", max_iter=3, batch_rows=500)
    assert made.algorithm == "minibatch"
    small = Settings(n_clusters=8, memory_limit=1 << 20, algorithm="minibatch", max_iter=3)
    planned = {p.purpose: p.count for p in plan(raw, small, Preprocessing(), "the data").passes}
    assert "seed" not in planned and planned["hold a sample"] == 1
    minibatch_kmeans(raw, 8, max_excess=max_excess, max_iter=3, read_rows=500, memory_limit=1 << 18)
    most = sum(planned[purpose] for purpose in ("check and scan", "hold a sample", "iterate", "label"))
    # Where few rows suffice, all that is left are the looks at the first rows, the check, the sample and the labels.
    assert raw.read / 30_000 <= (most + 1 if max_excess == 0 else 3.1)


def test_a_mini_batch_fit_plans_for_the_rows_it_copies() -> None:
    raw = ArraySource(np.zeros((4, 32), np.float32))
    raw.n_rows = 1 << 20
    each = [
        plan(raw, Settings(n_clusters=8, algorithm=name, init="random"), Preprocessing(), "the data").memory_bytes
        for name in ("lloyd", "minibatch")
    ]
    assert each[1] - each[0] == (1 << 20) * (32 * 4 // 2 + 8)


def test_swaps_make_no_more_passes_than_planned() -> None:
    raw = Counting(np.random.default_rng(0).normal(size=(3000, 3)))
    planned = make(raw, init="random", n_init=1, max_iter=3, batch_rows=500, quality="best").passes
    kmeans(raw, 8, init="random", n_init=1, max_iter=3, batch_size=500, seed=0, quality="best")
    most = sum(p.count for p in planned if p.purpose not in ("fit preprocessing", "read and fingerprint", "summarize"))
    assert raw.read / 3000 <= most + 1


def test_bounds_of_rows_in_memory_are_counted() -> None:
    raw = ArraySource(np.zeros((4, 32), np.float32))
    raw.n_rows = 1 << 20
    few, many = (plan(raw, Settings(n_clusters=k, init="random"), Preprocessing(), "the data") for k in (8, 4096))
    centroids = (4096 - 8) * 32 * (4 * 4 + 64)
    assert many.memory_bytes - few.memory_bytes == centroids + (1 << 20) * 4 * (32 + 2)


def test_the_sample_of_seeding_is_counted() -> None:
    raw = ArraySource(np.zeros((4, 32), np.float32))
    raw.n_rows = 1 << 30
    sampled, not_sampled = (make(raw, init=init, batch_rows=100) for init in ("auto", "k-means++"))
    assert sampled.memory_bytes - not_sampled.memory_bytes == 25 * 8 * (2 * 32 * 4 + 32 + 16 * 120)


def test_batches_are_as_asked_for() -> None:
    assert make(ArraySource(np.zeros((4, 3))), batch_rows=17).batch_rows == 17


def test_sizes_are_readable() -> None:
    assert [human_bytes(n) for n in (None, 0, 1, 1536, 5 << 30)] == ["unknown", "0 B", "1 B", "1.5 KiB", "5 GiB"]
