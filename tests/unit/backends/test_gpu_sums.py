"""Sums on a GPU, by either way that they are made."""

from __future__ import annotations

import numpy as np
import pytest

from gpukm.backends import gpu_sums
from gpukm.backends.gpu_sums import Adder
from gpukm.backends.numpy import NumpyBackend
from gpukm.core.stats import ClusterStats, Grid
from tests.emulated import emulated


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n", "d", "k"), [(1, 1, 1), (700, 3, 5), (900, 33, 40), (300, 64, 2), (2000, 2, 5000), (1300, 31, 1)]
)
@pytest.mark.parametrize("way", ["followed", "made anew", "kept"])
def test_few_that_moved_and_many(n, d, k, dtype, weighted, way, monkeypatch):
    """Sums are followed or made anew by how many moved the last time, or hold what may not be made anew."""
    monkeypatch.setattr(gpu_sums, "_SORTED_ROWS", 512)
    rng = np.random.default_rng(n + d)
    x = (rng.normal(size=(n, d)) * 10.0 ** rng.integers(-9, 9, d)).astype(dtype)
    w = rng.exponential(size=n) * (rng.random(n) < 0.9) if weighted else None
    grid = Grid.of(np.abs(x).max(axis=0), float(n if w is None else max(w.sum(), 1.0)))
    labels = rng.integers(0, k, n).astype(np.int32)
    backend, reference = emulated(seed=4), NumpyBackend()
    device = backend.device
    sums, expected = backend.sums(k, d, weighted), ClusterStats.zero(k, d, weighted)
    adder = Adder(device, n, k, device.place(grid.scales), grid.weight_scale)
    rows, weight = device.place(x), None if w is None else device.place(w)
    before, share = None, 0.02 if way == "followed" else 0.6
    moved_before = None if way == "kept" else device.place(np.array([n if way == "made anew" else 0], np.uint64))
    for _ in range(3):
        moved = device.zeros(1, np.uint64)
        old = None if before is None else device.fetch(before)
        adder.add(sums, rows, weight, device.place(labels), before, moved, moved_before)
        count = reference.accumulate(expected, x, w, labels, old, grid)
        assert int(device.fetch(moved)[0]) == count
        found = backend.collect(sums)
        for name in ("hi", "lo", "counts", "weight_hi", "weight_lo"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        if before is None:
            before = device.place(labels)
        np.testing.assert_array_equal(device.fetch(before), labels)
        labels = np.where(rng.random(n) < share, rng.integers(0, k, n), labels).astype(np.int32)


def test_sums_that_hold_other_rows_too_keep_them():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(400, 6)), rng.integers(0, 4, 400).astype(np.int32)
    grid, backend, reference = Grid.of(np.abs(x).max(axis=0), 400.0), emulated(), NumpyBackend()
    sums, expected = backend.sums(4, 6, False), ClusterStats.zero(4, 6, False)
    for part in (slice(0, 200), slice(200, 400)):
        for to, backend_ in ((sums, backend), (expected, reference)):
            backend_.accumulate(to, x[part], None, labels[part], None, grid)
    after = rng.integers(0, 4, 200).astype(np.int32)
    for to, backend_ in ((sums, backend), (expected, reference)):
        backend_.accumulate(to, x[:200], None, after, labels[:200].copy(), grid)
    found = backend.collect(sums)
    np.testing.assert_array_equal(found.hi, expected.hi)
    np.testing.assert_array_equal(found.counts, expected.counts)
