"""Rows held in memory, with the numbers they had in their source."""

from __future__ import annotations

import numpy as np
import pytest

from gpukm.pipeline.held import Held


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(("start", "stop"), [(0, None), (2, 9), (5, 6), (10, None), (12, 20)])
def test_batches_cover_the_source_rows_asked_for(rows: int, start: int, stop: int | None) -> None:
    numbers = np.array([0, 3, 4, 5, 9, 10])
    x = np.arange(12.0).reshape(6, 2)
    held = Held(x, numbers * 1.5, numbers, 12, ("a", "b"))
    batches = list(held.batches(rows, start, stop))
    end = 12 if stop is None else min(stop, 12)
    assert sum(b.n_rows for b in batches) == max(0, end - start)
    assert all(b.n_rows <= rows for b in batches)
    found = np.concatenate([np.empty(0, np.int64), *(b.row_numbers for b in batches)])
    wanted = (numbers >= start) & (numbers < end)
    assert found.tolist() == numbers[wanted].tolist()
    assert np.concatenate([np.empty((0, 2)), *(b.x for b in batches)]).tolist() == x[wanted].tolist()
    assert [w for b in batches if b.weight is not None for w in b.weight] == (numbers[wanted] * 1.5).tolist()


def test_an_array_is_offered_only_when_no_row_is_missing() -> None:
    x = np.zeros((2, 3), np.float32)
    gaps = Held(x, np.ones(2), np.array([0, 4]), 5, None)
    assert gaps.array() is None and gaps.weights() is None
    packed = gaps.packed()
    assert packed.array() is x and packed.n_rows == 2 and packed.weights() is not None
