"""Rows in a random order: the same ones from memory and from batches, each once, none of weight zero."""

from itertools import pairwise

import numpy as np
import pytest

from gpukm.core.portions import Portions
from gpukm.sources.array import ArraySource

N = 5000


class Streamed(ArraySource):
    """Rows that are read in batches."""

    def array(self):
        return None


def source(kind=ArraySource, weighted=True):
    x = np.arange(N, dtype=np.float32)[:, None]
    weight = (np.arange(N) % 7).astype(float) if weighted else None
    return kind(x, weight=weight)


def values(rows):
    return rows.x[:, 0].astype(int).tolist()


@pytest.mark.parametrize("weighted", [False, True])
def test_portions_cover_every_row_once_and_have_the_sizes_asked_for(weighted):
    portions = Portions.resident(source(weighted=weighted), 3)
    cuts = [0, 64, 128, 256, 2000, N]
    parts = [portions.take(a, b) for a, b in pairwise(cuts)]
    assert [len(p.x) for p in parts[:-1]] == [64, 64, 128, 1744]
    used = [i for i in range(N) if not weighted or i % 7]
    assert sorted(v for p in parts for v in values(p)) == used and portions.available == len(used)
    for part in parts:
        assert values(part) == sorted(values(part))
        if weighted:
            assert part.weight.tolist() == [i % 7 for i in values(part)]


@pytest.mark.parametrize("rows", [1, 7, 640, N])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_rows_are_held_from_batches_of_any_size(rows, weighted):
    resident = Portions.resident(source(weighted=weighted), 5)
    held = Portions.held(source(Streamed, weighted), 5, 300, rows)
    assert held.available == 300
    for a, b in ((0, 40), (40, 80), (80, 160), (160, 300)):
        mine, theirs = held.take(a, b), resident.take(a, b)
        np.testing.assert_array_equal(mine.x, theirs.x)
        assert weighted is (mine.weight is not None)
        if weighted:
            np.testing.assert_array_equal(mine.weight, theirs.weight)


def test_a_source_of_fewer_rows_is_held_whole():
    held = Portions.held(source(Streamed, False), 5, 10 * N, 999)
    assert held.available == N and values(held.take(0, N)) == list(range(N))


def test_seeds_order_differently_and_uniformly():
    first = [values(Portions.resident(source(weighted=False), seed).take(0, 500)) for seed in range(20)]
    assert len({tuple(f) for f in first}) == 20
    # A uniform choice of 500 of 5000 has a mean of 2500 and a deviation of it of 61.
    means = np.array([np.mean(f) for f in first])
    assert abs(means.mean() - 2500) < 5 * 61 / 20**0.5 and (abs(means - 2500) < 5 * 61).all()
