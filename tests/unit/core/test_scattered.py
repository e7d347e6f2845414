"""Fits whose shards are opened anew for every step, whose steps run twice and merge in any order, keep their bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from gpukm import assign, kmeans
from gpukm.backends.base import Frame
from gpukm.backends.select import Choice
from gpukm.core.stats import Grid
from gpukm.problem import place_there
from gpukm.sources.npy import NpySource
from tests.conformance.scattered import FickleExecutor, ScatteredExecutor

K = 20


def rows(n: int = 1500, d: int = 6, dtype: Any = np.float32) -> np.ndarray:
    """Overlapping groups, and rows that are far from all others."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n, d)) + 3 * rng.integers(0, 3, size=(n, 1))
    x[:: n // 7] += 100 * rng.normal(size=(len(x[:: n // 7]), d))
    return x.astype(dtype)


#: A start of which most centroids lose their rows, in several pieces of clusters.
FAR = np.concatenate([rows()[:5], 1000 + np.arange(15.0)[:, None] * np.ones(6)]).astype(np.float32)

SETTINGS: dict[str, dict[str, Any]] = {
    "auto": {},
    "pooled": {"init": "pooled", "max_iter": 5},
    "k-means++": {"init": "k-means++", "n_clusters": 7, "max_iter": 4},
    "random": {"init": "random", "n_init": 2, "max_iter": 4},
    "array": {"init": rows()[:K]},
    "empty": {"init": FAR},
    "cosine": {"metric": "cosine", "max_iter": 5},
    "cosine with empty clusters": {"metric": "cosine", "init": np.abs(FAR), "max_iter": 5},
    "best": {"quality": "best", "max_iter": 3, "init": "random", "n_init": 1},
    "to the end": {"tol": 0.0, "init": rows()[:K]},
    "one": {"n_clusters": 1},
    "fewer rows than clusters in a shard": {"n_clusters": 900, "max_iter": 2, "init": rows()[:900]},
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_bits(name: str, weighted: bool) -> None:
    settings = {"n_clusters": K, "seed": 3, **SETTINGS[name]}
    x = rows()
    w = np.random.default_rng(1).integers(0, 3, size=len(x)).astype(float) if weighted else None
    alone = kmeans(x, sample_weight=w, **settings)
    there = kmeans(x, sample_weight=w, executor=ScatteredExecutor(), n_shards=3, **settings)
    assert "empty" not in name or alone.history[0].n_empty > 0
    assert there.digest() == alone.digest()
    assert (there.counts == alone.counts).all()
    assert (there.weights == alone.weights).all()
    assert there.settings == alone.settings
    assert [r.shift for r in there.history] == [r.shift for r in alone.history]
    assert [r.n_empty for r in there.history] == [r.n_empty for r in alone.history]


@pytest.mark.parametrize("name", ["array", "empty", "k-means++", "random", "cosine with empty clusters", "best"])
@pytest.mark.parametrize("seed", range(4))
def test_workers_that_come_and_go_and_do_things_again(name: str, seed: int, tmp_path: Path) -> None:
    settings = {"n_clusters": K, "seed": 3, **SETTINGS[name]}
    np.save(tmp_path / "rows.npy", rows())
    alone = kmeans(rows(), **settings)
    for room in (None, 100_000):
        fickle = FickleExecutor(seed, room)
        there = kmeans(str(tmp_path / "rows.npy"), executor=fickle, n_shards=5, batch_size=60, **settings)
        assert there.digest() == alone.digest()
        assert [r.shift for r in there.history] == [r.shift for r in alone.history]


@pytest.mark.parametrize("room", [None, 1 << 20, 1000], ids=["held", "followed", "streamed"])
def test_a_shard_that_was_finished_goes_on_with_the_loop(tmp_path: Path, room: int | None) -> None:
    """As where a lost worker's old task is done again between two steps."""
    np.save(tmp_path / "rows.npy", rows())
    executor = ScatteredExecutor(room_bytes=None)
    placed = place_there(NpySource(str(tmp_path / "rows.npy")), executor, Choice(), "euclidean", 100, hold=room is None)
    stretch = placed.openers[0]
    shard = replace(stretch, follow_bytes=room or 0).open()
    shard.scan(np.zeros(6, np.float32))
    again = replace(stretch, follow_bytes=room or 0).open()
    again.scan(np.zeros(6, np.float32))
    frame, grid = Frame(np.zeros(6), 1000.0), Grid.of(np.full(6, 1000.0), 1500.0)
    shard.begin(grid)
    again.begin(grid)
    for centroids in (rows()[:K], rows()[K : 2 * K]):
        expected = again.step(centroids, frame).stats
        found = shard.step(centroids, frame).stats
        assert found.counts.tobytes() == expected.counts.tobytes()
        assert found.hi.tobytes() == expected.hi.tobytes() and found.lo.tobytes() == expected.lo.tobytes()
        shard.finish(rows()[:7], frame, True)


@pytest.mark.parametrize("room", [None, 1000])
def test_a_path_is_read_where_it_is_worked_on(tmp_path: Path, room: int | None) -> None:
    np.save(tmp_path / "rows.npy", rows())
    path = str(tmp_path / "rows.npy")
    settings: dict[str, Any] = {"init": rows()[:K], "max_iter": 4}
    there = kmeans(path, K, executor=ScatteredExecutor(room_bytes=room), batch_size=100, **settings)
    assert there.digest() == kmeans(path, K, **settings).digest()


def test_sparse_rows() -> None:
    x = rows()
    x[x < 1] = 0
    sparse = scipy.sparse.csr_matrix(x)
    settings: dict[str, Any] = {"init": x[:K], "max_iter": 4}
    w = np.arange(len(x)) % 3
    assert (
        kmeans(sparse, K, executor=ScatteredExecutor(), **settings).digest() == kmeans(sparse, K, **settings).digest()
    )
    weighted = kmeans(sparse, K, executor=ScatteredExecutor(), sample_weight=w, **settings)
    assert weighted.digest() == kmeans(x, K, sample_weight=w, **settings).digest()


def test_assign() -> None:
    x, centers = rows(), rows()[:K]
    alone, there = assign(x, centers), assign(x, centers, executor=ScatteredExecutor())
    assert there.labels.tobytes() == alone.labels.tobytes()
    assert there.distances.tobytes() == alone.distances.tobytes()
    assert there.inertia == alone.inertia
