"""Whole jobs over ranges: the snapshot of a run here, wherever the ranges are worked on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from gpukm.config import Settings
from gpukm.errors import DataError
from gpukm.executors import Executor, LocalExecutor
from gpukm.functional import kmeans
from gpukm.pipeline import assign, train
from gpukm.pipeline.content import content_of
from gpukm.pipeline.inputs import preprocessing_of
from gpukm.pipeline.progress import Progress
from gpukm.pipeline.spread import HERE, Spread
from gpukm.pipeline.training import Clock, prepare
from gpukm.snapshots import Snapshot, SnapshotContent, Store
from gpukm.sources import open_source
from gpukm.sources.table import Table
from tests.conformance.scattered import ScatteredExecutor

N = 600
EXECUTORS = [LocalExecutor(), ScatteredExecutor(5)]


def rows() -> pa.Table:
    """Numbers, some missing; text; weights, some of them 0."""
    rng = np.random.default_rng(8)
    a, b = rng.normal(rng.integers(0, 4, N) * 5, 1), rng.normal(3, 2, N)
    return pa.table(
        {
            "id": np.arange(N),
            "a": pa.array(np.where(rng.random(N) < 0.05, np.nan, a), from_pandas=True),
            "b": pa.array(b, pa.float32()),
            "kind": [f"kind {i % 3}" for i in range(N)],
            "w": pa.array(np.where(rng.random(N) < 0.1, 0.0, rng.uniform(0.5, 2, N))),
        }
    )


@pytest.fixture
def parquet(tmp_path: Path) -> str:
    """A folder of files of small row groups."""
    folder, table = tmp_path / "data", rows()
    folder.mkdir()
    for i in range(3):
        pq.write_table(table.slice(200 * i, 200), folder / f"{i}.parquet", row_group_size=64)
    return str(folder)


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A folder of CSV files."""
    folder, table = tmp_path / "text", rows()
    folder.mkdir()
    for i in range(3):
        csv.write_csv(table.slice(200 * i, 200), folder / f"{i}.csv")
    return str(folder)


def options(tmp_path: Path, **more: object) -> Settings:
    """Settings of a run."""
    common = {"n_clusters": 4, "store": str(tmp_path / "store"), "exclude": ("id",), "one_hot": ("kind",), "seed": 3}
    return Settings(**{**common, **more})  # type: ignore[arg-type]


VARIANTS: dict[str, dict[str, object]] = {
    "weighted": {"weight_column": "w", "null_policy": "mean", "step": ("robust",)},
    "cosine": {"exclude": ("id", "w"), "metric": "cosine", "null_policy": "drop", "step": ("pca:n_components=3",)},
}


def tensors(content: SnapshotContent) -> dict[str, bytes]:
    """All numbers of a snapshot."""
    golden = content.golden
    arrays = {**content.tensors, "x": golden.x, "labels": golden.labels, "numbers": golden.row_numbers}
    return {name: array.tobytes() for name, array in arrays.items()} | {"data": repr(content.data).encode()}


def described(source: str, settings: Settings, spread: Spread) -> dict[str, bytes]:
    """The content of a snapshot made over these ranges; its fit is made of all rows, which are few."""
    raw = open_source(source)
    spec = preprocessing_of(raw, settings)
    ready = prepare(raw, source, spec, settings, Clock(), Progress(), spread=spread)
    batches = list(ready.prepared.batches(N))
    x = np.concatenate([batch.x for batch in batches])
    result = kmeans(x, 4, seed=3, metric=settings.metric)
    assert spread.here or ready.reading.held is None
    fitted = ready.prepared.fitted
    return tensors(content_of(ready.prepared, result, fitted, ready.reading, settings, 50, Progress(), spread))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_ranges_change_no_number_of_a_snapshot(tmp_path: Path, parquet: str, executor: Executor, name: str) -> None:
    settings = options(tmp_path, **VARIANTS[name])
    whole = described(parquet, settings, HERE)
    for cuts in (((0, 300), (300, None)), ((0, 1), (1, 1), (1, 130), (130, 400), (400, 599), (599, 600), (600, 600))):
        assert described(parquet, settings, Spread(executor, cuts)) == whole


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("kind", ["parquet", "text"])
def test_a_run_elsewhere_publishes_the_snapshot_of_a_run_here(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, name: str
) -> None:
    source, settings = request.getfixturevalue(kind), options(tmp_path, **VARIANTS[name])
    here = train(settings, source)
    for n in (1, 2, 7):
        found = train(settings, source, executor=ScatteredExecutor(n), n_ranges=n)
        assert here.ref is not None and found.ref is not None and found.ref.id == here.ref.id
        assert found.warnings == here.warnings


def test_zero_rows_are_counted_over_all_ranges(tmp_path: Path) -> None:
    x = np.ones((50, 2), np.float32)
    x[[7, 30, 31]] = 0
    path = tmp_path / "x.npy"
    np.save(path, x)
    settings = Settings(n_clusters=2, metric="cosine", store=str(tmp_path / "store"), null_policy="error")
    result = kmeans(x + 1, 2)
    raw = open_source(path)
    ready = prepare(raw, str(path), preprocessing_of(raw, settings), settings, Clock(), Progress())
    for executor in EXECUTORS:
        for cuts in (((0, 50),), ((0, 31), (31, 50)), tuple((i, i + 5) for i in range(0, 50, 5))):
            with pytest.raises(DataError, match=r"^3 rows are zero, the first is row 7;"):
                spread = Spread(executor, cuts)
                rest = ready.prepared.fitted, ready.reading, settings, 4, Progress(), spread
                content_of(ready.prepared, result, *rest)


def assigned(out: Path | str) -> pa.Table:
    """Labels as they are read back."""
    table = open_source(out)
    assert isinstance(table, Table)
    return pa.Table.from_batches([batch for _, batch in table.record_batches(table.schema.names, 1000)], table.schema)


@pytest.fixture
def snapshot(tmp_path: Path, parquet: str) -> Snapshot:
    """Trained on the rows."""
    raw, settings = open_source(parquet), options(tmp_path, **VARIANTS["cosine"])
    ready = prepare(raw, parquet, preprocessing_of(raw, settings), settings, Clock(), Progress())
    x = np.concatenate([batch.x for batch in ready.prepared.batches(N)])
    rest = ready.prepared.fitted, ready.reading, settings, 50, Progress()
    store = Store.open(settings.store, create=True)
    store.publish("m", content_of(ready.prepared, kmeans(x, 4, metric="cosine"), *rest), {})
    return store.load("m")


CASES: dict[str, dict[str, object]] = {
    "numbers": {},
    "ids": {"settings": {"id_column": ("id", "kind")}},
    "some": {"where": ("kind=kind 1",)},
    "none": {"where": ("kind=kind 1", "id=0")},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["parquet", "text"])
def test_parts_written_elsewhere_are_the_file_written_here(
    tmp_path: Path, snapshot: Snapshot, request: pytest.FixtureRequest, kind: str, case: str
) -> None:
    source = request.getfixturevalue(kind)
    settings = options(tmp_path, exclude=(), one_hot=(), **CASES[case].get("settings", {}))  # type: ignore[arg-type]
    where = CASES[case].get("where", ())
    here = assign(snapshot, source, tmp_path / "one.parquet", settings, where=where)  # type: ignore[arg-type]
    whole = assigned(tmp_path / "one.parquet") if here.n_rows else None
    assert here.n_dropped > 0 or here.n_rows == 0
    for n in (1, 2, 7):
        to = tmp_path / f"{n}.parquet" if n < 7 else f"memory://{tmp_path.name}/{kind}/{case}"
        options_of_run = {"where": where, "executor": ScatteredExecutor(n), "n_ranges": n}
        found = assign(snapshot, source, to, settings, **options_of_run)  # type: ignore[arg-type]
        assert replace(found, out="") == replace(here, out="")
        if whole is not None:
            table = assigned(to)
            assert table.equals(whole) and table.schema.equals(whole.schema)
    if case == "numbers":
        assert len(list((tmp_path / "2.parquet").iterdir())) == 2


def test_an_error_elsewhere_is_that_of_a_run_here_and_leaves_nothing(tmp_path: Path, snapshot: Snapshot) -> None:
    table, settings = rows(), options(tmp_path, exclude=(), one_hot=())
    b = table["b"].to_numpy().copy()
    b[[400, 90]] = np.inf
    bad, folder = tmp_path / "bad.parquet", tmp_path / "made"
    folder.mkdir()
    pq.write_table(table.set_column(2, "b", pa.array(b)), bad, row_group_size=50)
    with pytest.raises(DataError, match="infinite 2 values, the first in row 90") as here:
        assign(snapshot, str(bad), folder / "one.parquet", settings)
    for to in (folder / "parts", f"memory://{tmp_path.name}/bad"):
        with pytest.raises(DataError) as elsewhere:
            assign(snapshot, str(bad), to, settings, executor=ScatteredExecutor(), n_ranges=6)
        assert str(elsewhere.value) == str(here.value)
    assert not list(folder.iterdir())
    assert not fsspec.filesystem("memory").find(f"/{tmp_path.name}/bad")


def test_categories_not_seen_are_counted_over_all_ranges(tmp_path: Path, snapshot: Snapshot) -> None:
    table, settings = rows(), options(tmp_path, exclude=(), one_hot=())
    kinds = ["new" if i % 100 == 5 else kind for i, kind in enumerate(table["kind"].to_pylist())]
    pq.write_table(table.set_column(3, "kind", pa.array(kinds)), tmp_path / "new.parquet")
    source = str(tmp_path / "new.parquet")
    here = assign(snapshot, source, tmp_path / "one.parquet", settings)
    found = assign(snapshot, source, tmp_path / "parts", settings, executor=ScatteredExecutor(), n_ranges=4)
    assert here.warnings and found.warnings == here.warnings
