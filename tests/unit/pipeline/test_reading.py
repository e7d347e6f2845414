"""The first pass: the same account of the rows for every batching."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gpukm.errors import DataError
from gpukm.pipeline.held import Held
from gpukm.pipeline.progress import Progress
from gpukm.pipeline.reading import read
from gpukm.sources.base import Batch, Source

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
