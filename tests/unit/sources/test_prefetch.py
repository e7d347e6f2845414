from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from gpukm.errors import DataError
from gpukm.sources.array import ArraySource
from gpukm.sources.base import Batch, Source
from gpukm.sources.prefetch import Prefetch
from tests.conformance.source import SourceConformance

X = np.random.Generator(np.random.Philox(3)).standard_normal((90, 3))


class Watched(ArraySource):
    """Says which batches are being read; can be slow, or fail."""

    def __init__(self, x: np.ndarray, delay: float = 0, fail_at: int | None = None) -> None:
        super().__init__(x)
        self.delay, self.fail_at = delay, fail_at
        self.begun: list[int] = []
        self.closed = threading.Event()
        self.begins = threading.Condition()

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        try:
            for batch in super().batches(rows, start, stop):
                with self.begins:
                    self.begun.append(batch.first_row)
                    self.begins.notify_all()
                if batch.first_row == self.fail_at:
                    raise DataError("row 30 is bad")
                time.sleep(self.delay)
                yield batch
        finally:
            self.closed.set()

    def wait_for(self, row: int, seconds: float = 30) -> bool:
        """Whether reading of the batch at this row begins before long."""
        with self.begins:
            return self.begins.wait_for(lambda: row in self.begun, timeout=seconds)


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "gpukm-prefetch"]


class TestPrefetch(SourceConformance):
    @pytest.fixture(params=[1, 3])
    def source(self, request: pytest.FixtureRequest) -> Source:
        return Prefetch(ArraySource(X, weight=np.arange(90), names="abc"), depth=request.param)

    @pytest.fixture
    def expected(self) -> np.ndarray:
        return X


@pytest.mark.parametrize("depth", [1, 2])
def test_the_next_batches_are_read_while_one_is_in_use(depth: int) -> None:
    source = Watched(X)
    for batch in Prefetch(source, depth).batches(10):
        # ``depth`` batches wait and one more is read, while this one is held here.
        ahead = batch.first_row + 10 * (depth + 1)
        assert source.wait_for(min(ahead, 80))
        assert not source.wait_for(ahead + 10, seconds=0.05)


def test_reading_and_computing_overlap() -> None:
    seconds, n = 0.02, 15
    began = time.perf_counter()
    for _ in Prefetch(Watched(np.zeros((n, 1)), delay=seconds)).batches(1):
        time.sleep(seconds)
    took = time.perf_counter() - began
    # One after the other takes 2 n; the bound leaves room for a busy machine.
    assert took < 1.6 * n * seconds


def test_errors_of_the_source_arrive_after_the_batches_before_them() -> None:
    got = []
    with pytest.raises(DataError, match="row 30 is bad"):
        for batch in Prefetch(Watched(X, fail_at=30)).batches(10):
            got.append(batch.first_row)
    assert got == [0, 10, 20] and not readers()


def test_an_error_before_the_first_batch_arrives_too() -> None:
    class Broken(ArraySource):
        def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
            raise DataError("cannot begin")

    with pytest.raises(DataError, match="cannot begin"):
        next(Prefetch(Broken(X)).batches(10))


def test_leaving_early_stops_the_thread_and_closes_the_source() -> None:
    source = Watched(X)
    batches = Prefetch(source).batches(10)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert source.closed.is_set() and not readers()
    assert max(source.begun) < 80


def test_an_error_of_the_consumer_stops_the_thread() -> None:
    def consume() -> None:
        for _ in Prefetch(Watched(X)).batches(10):
            raise RuntimeError("out of disk")

    with pytest.raises(RuntimeError, match="out of disk"):
        consume()
    deadline = time.monotonic() + 30
    while readers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not readers()


def test_no_thread_starts_before_the_first_batch_is_asked_for() -> None:
    source = Watched(X)
    Prefetch(source).batches(10)
    assert not source.begun and not readers()


def test_depth_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="depth is 0"):
        Prefetch(ArraySource(X), 0)
