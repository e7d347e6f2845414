"""Triton kernels under its interpreter; run by test_triton.py in a process of its own, which has TRITON_INTERPRET=1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gpukm_kernels.triton import assign as triton_assign
from gpukm_kernels.triton.update import accumulate

from gpukm.backends import select
from gpukm.backends.base import Frame
from gpukm.core.stats import ClusterStats, Grid

REFERENCE = select("numpy", "auto", None).backend
HOPPER = (9, 0)


def labels_of(x: np.ndarray, c: np.ndarray, mode: triton_assign.Mode) -> tuple[np.ndarray, int]:
    """Labels by the kernels, after a check that they are those of the reference; and the rows rechecked."""
    center = np.median(x.astype(np.float64), axis=0).astype(x.dtype).astype(np.float64)
    radius = float(max(np.abs(x - center).max(), np.abs(c - center).max()))
    exponent = -math.frexp(radius)[1] if radius > 0 else 0
    rows, centroids, origin = (torch.from_numpy(v) for v in (x, c, center))
    prepared = triton_assign.prepare(centroids, origin, exponent, mode)
    found, rechecked = triton_assign.assign(
        rows, triton_assign.screened(rows, origin, exponent, mode), prepared, exponent
    )
    expected = np.empty(len(x), np.int32)
    REFERENCE.assign(x, REFERENCE.prepare(c, Frame(center, radius)), expected)
    np.testing.assert_array_equal(found.numpy(), expected)
    return expected, rechecked


@pytest.mark.parametrize("mode", ["ieee", "tf32", "fp16"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n", "d", "k"), [(1, 1, 1), (64, 16, 64), (65, 17, 65), (130, 33, 129), (70, 130, 200), (3, 5, 300)]
)
def test_labels(n: int, d: int, k: int, dtype: type, mode: str) -> None:
    rng = np.random.default_rng(n + d + k)
    x, c = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(k, d)).astype(dtype)
    _, rechecked = labels_of(x, c, triton_assign.mode(mode, HOPPER))
    assert rechecked <= (n if mode == "tf32" else n // 10)


@pytest.mark.parametrize("mode", ["ieee", "fp16"])
@pytest.mark.parametrize("kind", ["offset", "ties", "tiny", "huge", "outlier", "copies", "zeros"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_of_hard_data(kind: str, dtype: type, mode: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(150, 24))
    if kind == "offset":
        x += 1e6
    elif kind == "ties":
        x = rng.integers(0, 3, size=(150, 4)).astype(float)
    elif kind in ("tiny", "huge"):
        x *= 1e-30 if kind == "tiny" else 1e30
    elif kind == "outlier":
        x[7] *= 1e6
    elif kind == "zeros":
        x[:] = 0
    c = np.concatenate([x[:40], x[:40]]) if kind == "copies" else x[:40]
    labels, _ = labels_of(x.astype(dtype), c.astype(dtype), triton_assign.mode(mode, HOPPER))
    assert kind != "copies" or (labels[:40] == np.arange(40)).all()


@pytest.mark.parametrize("mode", ["ieee", "tf32", "fp16"])
def test_rows_all_but_midway_between_two_centroids(mode: str) -> None:
    """A row lies nearer to one of them by a few units in the last place, which no screen sees."""
    rng = np.random.default_rng(2)
    c = rng.normal(size=(32, 40)).astype(np.float32)
    a, b = rng.integers(0, 32, 200), rng.integers(0, 32, 200)
    x = ((c[a] + c[b]) / 2).astype(np.float32)
    x = np.nextafter(x, np.where(rng.random(x.shape) < 0.5, c[a], c[b])).astype(np.float32)
    _, rechecked = labels_of(x, c, triton_assign.mode(mode, HOPPER))
    assert rechecked > 50


def test_a_device_that_is_not_known_screens_in_float32() -> None:
    assert triton_assign.mode("fp16", (7, 5)) == triton_assign.mode("ieee", HOPPER)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (64, 64, 3), (333, 21, 17), (100, 130, 500)])
def test_sums_are_the_integers_of_the_reference(n: int, d: int, k: int, dtype: type, weighted: bool) -> None:
    rng = np.random.default_rng(n)
    # Columns of all sizes, and in them values of which the grid keeps only a part.
    x = rng.normal(size=(n, d)) * 10.0 ** rng.integers(-12, 12, size=d) * 10.0 ** -rng.integers(0, 26, size=(n, d))
    x = x.astype(dtype)
    w = rng.exponential(size=n) * (rng.random(n) < 0.9) if weighted else None
    grid = Grid.of(np.abs(x).max(axis=0), float(n if w is None else max(w.sum(), 1.0)))
    first = rng.integers(0, k, n).astype(np.int32)
    then = np.where(rng.random(n) < 0.2, rng.integers(0, k, n), first).astype(np.int32)
    expected, found = (ClusterStats.zero(k, d, weighted) for _ in range(2))
    for labels, before in ((first, None), (then, first)):
        tensors = [
            None if v is None else torch.from_numpy(v)
            for v in (x, w, labels, before, grid.scales, found.hi, found.lo, found.counts)
        ]
        limbs = [None if v is None else torch.from_numpy(v) for v in (found.weight_hi, found.weight_lo)]
        moved = accumulate(*tensors[:5], grid.weight_scale, *tensors[5:], *limbs)  # type: ignore[arg-type]
        found.normalise()
        assert moved == REFERENCE.accumulate(expected, x, w, labels, before, grid)
        for name in ("hi", "lo", "counts", "weight_hi", "weight_lo"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
