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


def awkward(rng, n, d, dtype, beyond=False):
    """Features of any reach, with values of any size in them, zeros of either sign and halves of what is counted in.

    With ``beyond`` one reaches no farther than to what cannot be scaled in float32.
    """
    x = rng.normal(size=(n, d)) * 10.0 ** rng.integers(-6, 7, d)
    x[rng.random((n, d)) < 0.2] *= 1e-9
    x[rng.random((n, d)) < 0.1] *= 2.0 ** -rng.integers(10, 80)
    x[rng.random((n, d)) < 0.1] = 0.0
    x[rng.random((n, d)) < 0.05] = -0.0
    with np.errstate(over="ignore", under="ignore"):
        x[:, 0] = rng.choice([1.0, -1.0], n) * 2.0 ** rng.integers(-70, 1, n)  # halves of what is counted in
        if d > 4:
            x[:, 1] = np.abs(x[:, 1]) / np.abs(x[:, 1]).max() * float(np.finfo(np.float32).max)
            x[:, 2] *= (1e-38 if beyond else 1e-20) / np.abs(x[:, 2]).max()
            x[:, 3] = 0
        return x.astype(dtype)


def in_both(backend, rows, x, weight, labels, k, total):
    """Sums of rows on the device, and of the same on the host, where all rows weigh so much."""
    d = x.shape[1]
    most = np.abs(x if weight is None else weight[:, None] * x.astype(np.float64)).max(axis=0).astype(np.float64)
    grid, expected = Grid.of(most, float(total)), ClusterStats.zero(k, d, weight is not None)
    sums = backend.sums(k, d, weight is not None)
    assert backend.accumulate(sums, rows, weight, labels, None, grid) == len(x)
    NumpyBackend().accumulate(expected, x, weight, labels, None, grid)
    found = backend.collect(sums)
    for name in ("hi", "lo", "weight_hi", "weight_lo"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


@pytest.mark.parametrize(
    "total", [1 << 12, 1 << 13, (1 << 15) - 1, 1 << 15, 3_000_000, (1 << 37) + 5, 1 << 38, 1 << 39, 1 << 41]
)
@pytest.mark.parametrize(("d", "k"), [(1, 3), (33, 1), (64, 7), (100, 300), (130, 2)])
def test_float32_in_words(total, d, k):
    """Which the whole weight decides; with any they are the sums of float64."""
    rng = np.random.default_rng(d)
    x, labels = awkward(rng, 1500, d, np.float32), rng.integers(0, k, 1500).astype(np.int32)
    labels[:400] = 0  # whole runs of one cluster
    backend = emulated(seed=5)
    in_both(backend, backend.device.place(x), x, None, labels, k, total)


@pytest.mark.parametrize(
    ("dtype", "weighted", "beyond"),
    [(np.float32, True, False), (np.float64, False, False), (np.float64, True, False), (np.float32, False, True)],
)
def test_what_is_not_made_of_words(dtype, weighted, beyond):
    rng = np.random.default_rng(6)
    x, labels = awkward(rng, 900, 40, dtype, beyond), rng.integers(0, 5, 900).astype(np.int32)
    backend, weight = emulated(seed=5), rng.random(900) if weighted else None
    in_both(backend, backend.device.place(x), x, weight, labels, 5, 1e6)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_16_bits_in_words(kind):
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(900, 70)).astype(np.float32), rng.integers(0, 4, 900).astype(np.int32)
    x[::7] *= 1e-4
    backend = emulated()
    if kind == "float16":
        x = x.astype(np.float16).astype(np.float32)
        rows = backend.device.place(x.astype(np.float16))
    else:
        x = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        rows = backend.device.place_bfloat16(x)
    in_both(backend, rows, x, None, labels, 4, 1e6)


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
