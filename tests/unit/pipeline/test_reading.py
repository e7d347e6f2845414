"""The first pass: the same account of the rows for every batching."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gpukm.errors import DataError
from gpukm.executors import LocalExecutor
from gpukm.pipeline.held import Held
from gpukm.pipeline.progress import Progress
from gpukm.pipeline.reading import read
from gpukm.pipeline.spread import Spread
from gpukm.sources.base import Batch, Source
from gpukm.sources.ranges import WHOLE, Range
from tests.conformance.scattered import ScatteredExecutor

NUMBERS = np.flatnonzero(np.arange(100) % 7 != 3)
X = np.random.default_rng(0).random((len(NUMBERS), 3), np.float32)
WEIGHT = np.random.default_rng(1).random(len(NUMBERS))


class Unsized(Source):
    """A source that does not know its number of rows."""

    def __init__(self, source: Source) -> None:
        self.source, self.dtype, self.n_features = source, source.dtype, source.n_features
        self.names, self.n_rows = source.names, None

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        return self.source.batches(rows, start, stop)


def source(weight: np.ndarray | None = WEIGHT, x: np.ndarray = X) -> Held:
    """Rows with gaps."""
    return Held(x, weight, NUMBERS, 100, ("a", "b", "c"))


@pytest.mark.parametrize("rows", [1, 7, 33, 1000])
@pytest.mark.parametrize("unsized", [False, True])
def test_batching_changes_nothing(rows: int, unsized: bool) -> None:
    whole = read(source(), 1000, 0, Progress())
    found = read(Unsized(source()) if unsized else source(), rows, 1000, Progress())
    assert whole.held is None and found.held is not None
    assert found.data_fields() == whole.data_fields()
    assert (found.n_rows, found.n_samples) == (100, len(X))
    batch = next(found.held.batches(1000))
    assert batch.x.tobytes() == X.tobytes() and batch.row_numbers.tolist() == NUMBERS.tolist()
    assert batch.weight is not None and batch.weight.tolist() == WEIGHT.tolist()


@pytest.mark.parametrize("unsized", [False, True])
def test_too_many_rows_are_not_held(unsized: bool) -> None:
    rows = Unsized(source()) if unsized else source()
    found = read(rows, 10, 50, Progress())
    assert found.held is None
    assert found.data_fields() == read(source(), 1000, 1000, Progress()).data_fields()


def test_any_change_of_the_data_changes_the_fingerprint() -> None:
    other_x, other_weight = X.copy(), WEIGHT.copy()
    other_x[5, 1] = np.nextafter(other_x[5, 1], np.float32(2))
    other_weight[9] *= 2
    changed = [source(x=other_x), source(other_weight), source(None), source(x=np.roll(X, 1, axis=0))]
    prints = {read(s, 1000, 0, Progress()).fingerprint for s in (source(), *changed)}
    assert len(prints) == 5


def test_no_rows_are_an_error() -> None:
    with pytest.raises(DataError, match="all 100 rows were dropped"):
        read(Held(X[:0], None, NUMBERS[:0], 100, None), 10, 0, Progress())


@pytest.mark.parametrize("cuts", [((0, 100),), ((0, 40), (40, None)), ((0, 3), (3, 4), (4, 4), (4, 60), (60, 100))])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_ranges_change_nothing(cuts: tuple[Range, ...], weight: np.ndarray | None) -> None:
    whole = read(source(weight), 1000, 1000, Progress())
    here = read(source(weight), 7, 1000, Progress(), Spread(LocalExecutor(), cuts))
    elsewhere = read(source(weight), 7, 1000, Progress(), Spread(ScatteredExecutor(4), cuts))
    assert here.data_fields() == elsewhere.data_fields() == whole.data_fields()
    assert elsewhere.held is None and here.held is not None and whole.held is not None
    for held in (here.held, whole.held):
        [batch] = held.batches(1000)
        assert batch.x.tobytes() == X.tobytes() and batch.row_numbers.tolist() == NUMBERS.tolist()
        assert (batch.weight is None) if weight is None else (batch.weight.tobytes() == WEIGHT.tobytes())


def test_rows_read_elsewhere_are_reported_once() -> None:
    class Seen(Progress):
        rows = 0

        def seen(self, rows: int) -> None:
            self.rows += rows

    for executor in (LocalExecutor(), ScatteredExecutor()):
        progress = Seen()
        read(source(), 7, 0, progress, Spread(executor, ((0, 50), (50, 100))))
        assert progress.rows == 100


def test_data_is_cut_by_size_elsewhere_and_not_at_all_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpukm.pipeline.spread.RANGE_BYTES", 400)
    assert Spread.of(source(), None).ranges == WHOLE and Spread.of(source(), LocalExecutor()).here
    assert Spread.of(source(), ScatteredExecutor()).ranges == ((0, 33), (33, 66), (66, 100))
    assert Spread.of(source(), LocalExecutor(), 2).ranges == ((0, 50), (50, 100))
    unsized = Unsized(source())
    assert len(Spread.of(unsized, ScatteredExecutor()).ranges) == 3 and unsized.n_rows == 100
