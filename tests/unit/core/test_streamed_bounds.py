"""Rows that are streamed are followed from iteration to iteration as far as the memory goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gpukm_kernels import native_status

from gpukm.backends.cpu import CpuBackend
from gpukm.core.shard import Shard
from gpukm.errors import DataError
from gpukm.functional import fit_iter, kmeans
from gpukm.sources.array import ArraySource
from gpukm.sources.base import Batch

pytestmark = pytest.mark.skipif(not native_status()[0], reason="the native kernels do not run here")
N, D, K, ROWS = 6000, 40, 120, 1500
BLOCK = 8 * ROWS + CpuBackend().tracker_bytes(ROWS, D, K, 4)


class Streamed(ArraySource):
    """An array that is read batch by batch."""

    def array(self) -> None:
        return None

    def weights(self) -> None:
        return None


def rows(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (2 * rng.normal(size=(K, D))[rng.integers(0, K, N)] + rng.normal(size=(N, D))).astype(np.float32)


def run(x: Any, **settings: Any) -> tuple[str, list[Any]]:
    """Digest, and the effort of every iteration."""
    steps = fit_iter(x, K, tol=0.0, batch_size=ROWS, threads=2, **{"init": rows()[:K], "max_iter": 25, **settings})
    efforts = []
    while True:
        try:
            efforts.append(next(steps).state.effort)
        except StopIteration as end:
            return end.value.digest(), efforts


@pytest.mark.parametrize("weighted", [False, True])
def test_the_bits_do_not_depend_on_how_much_is_followed(weighted: bool) -> None:
    x = rows()
    w = np.random.default_rng(1).uniform(0, 2, N) if weighted else None
    expected, _ = run(ArraySource(x, w), backend="numpy")
    plans = []
    for blocks in (0, 1, 3, 4):
        digest, efforts = run(Streamed(x, w), follow_bytes=blocks * BLOCK)
        assert digest == expected
        plans.append({plan for effort in efforts for plan in effort.plans})
    assert plans[0] == {"plain"} and all("follow" in met for met in plans[1:])
    assert "plain" in plans[2]  # the fourth block
    assert run(Streamed(x, w))[0] == expected  # as much as memory allows


def test_work_is_saved() -> None:
    _, efforts = run(Streamed(rows()), follow_bytes=4 * BLOCK)
    assert efforts[-1].plans == {"follow"} and efforts[-1].n_scored < efforts[-1].n_pairs / 4


def test_empty_clusters_and_several_shards() -> None:
    x = rows()
    start = x[:K].copy()
    start[::3] += 1000
    expected, _ = run(ArraySource(x), backend="numpy", init=start)
    for shards in (1, 2):
        assert run(Streamed(x), init=start, n_shards=shards, follow_bytes=8 * BLOCK)[0] == expected


def test_starts_and_swaps_begin_anew() -> None:
    settings: dict[str, Any] = {"init": "random", "n_init": 2, "quality": "best", "max_iter": 6}
    x = rows()
    assert run(Streamed(x), **settings)[0] == run(ArraySource(x), backend="numpy", **settings)[0]


def test_memory_is_not_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    follow = CpuBackend.follow

    def noted(self: CpuBackend, x: np.ndarray, c: np.ndarray, *args: Any) -> Any:
        made.append(8 * len(x) + self.tracker_bytes(len(x), x.shape[1], len(c), x.itemsize))
        return follow(self, x, c, *args)

    monkeypatch.setattr(CpuBackend, "follow", noted)
    kmeans(Streamed(rows()), K, init=rows()[:K], max_iter=3, batch_size=ROWS, follow_bytes=3 * BLOCK - 1)
    assert len(made) == 2 and sum(made) < 3 * BLOCK


def test_rows_that_vanish_are_noticed() -> None:
    class Shrinking(Streamed):
        passes = 0

        def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
            self.passes += 1
            for batch in super().batches(rows, start, stop):
                cut = 10 if self.passes > 4 and batch.first_row else 0
                yield Batch(batch.x[cut:], batch.first_row + cut, batch.n_rows - cut)

    with pytest.raises(DataError, match="the data changed while it was read"):
        kmeans(Shrinking(rows()), K, init=rows()[:K], max_iter=9, tol=0.0, batch_size=ROWS, follow_bytes=8 * BLOCK)


def test_rows_in_memory_have_no_such_state() -> None:
    shard = Shard(ArraySource(rows()), CpuBackend(), ROWS, follow_bytes=1 << 30)
    assert shard.resident and shard._followed == []
