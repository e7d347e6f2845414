"""Iterations on a device: what they launch, and what is left to the host."""

# ruff: noqa: F811
from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from gpukm_kernels.screening import mode

from gpukm.backends import gpu_sums
from gpukm.backends.gpu_loop import Loop
from gpukm.backends.matrix_screen import MatrixScreen
from gpukm.functional import kmeans
from tests.emulated import as_cupy, shared  # noqa: F401

LABELLING = ["round.round_float16", "matrix.label"]
CERTIFYING = ["round.tile_bounds", "decide.begin", "matrix.pairs", "decide.measure", "decide.choose"]
ADDING = ["update.accumulate", "sort.line_up", "sort.scatter", "sort.add_runs"]
REST = ["loop.clear", "update.means", "loop.commit"]
TWO_STEPS = ["matrix.find_tiles", "sort.line_up", "sort.scatter"]


@pytest.fixture
def iterations(as_cupy, monkeypatch):
    """What each iteration launched, by the screen of the matrix units, and its loop."""
    screen, made = MatrixScreen(as_cupy.device, mode("fp16", (9, 0))), []
    screen.least_rows = 1
    as_cupy.__init__(as_cupy.device, screen)
    iterate = Loop._iterate

    def counted(self, *args):
        before = as_cupy.device.launched.copy()
        iterate(self, *args)
        made.append((as_cupy.device.launched - before, self))

    monkeypatch.setattr(Loop, "_iterate", counted)
    return made


@pytest.mark.parametrize(
    ("k", "settings", "kernels"),
    [
        (30, {}, [*LABELLING, *CERTIFYING, *ADDING, *REST]),
        (30, {"precision": "fast"}, [*LABELLING, *ADDING, *REST]),
        (700, {}, ["round.round_float16", "matrix.label_within", *TWO_STEPS, *CERTIFYING, *ADDING, *REST]),
    ],
    ids=["exact", "fast", "in two steps"],
)
def test_what_an_iteration_launches(iterations, k, settings, kernels):
    """Each takes a while on its own, however few the rows are."""
    x = np.random.default_rng(0).normal(size=(1500, 32)).astype(np.float32)
    kmeans(x, k, init=x[:k].copy(), max_iter=3, tol=0, backend="cupy", watched=True, **settings)
    assert iterations[0][0] == Counter(kernels)


@pytest.mark.parametrize("many", [1, 8, 1 << 30], ids=["those that moved", "either", "all anew unless none moved"])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_that_are_made_anew_and_that_are_followed(iterations, monkeypatch, many, weighted):
    """Whichever it is, sums and rows that moved are the same."""
    monkeypatch.setattr(gpu_sums, "_MANY", many)
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(30, 5))[rng.integers(0, 30, 900)] + rng.normal(size=(900, 5))).astype(np.float32)
    settings = {"init": x[:30].copy(), "max_iter": 40, "sample_weight": rng.random(900) if weighted else None, "tol": 0}
    found, theirs = (kmeans(x, 30, backend=backend, watched=True, **settings) for backend in ("cupy", "numpy"))
    assert found.digest() == theirs.digest() and found.history == theirs.history
    assert len(iterations) > 5


def test_so_many_rows_that_sums_are_made_of_words(iterations):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(66_000, 3)).astype(np.float32)
    settings = {"init": x[:5].copy(), "max_iter": 6, "tol": 0, "watched": True}
    found, theirs = (kmeans(x, 5, backend=backend, **settings) for backend in ("cupy", "numpy"))
    assert found.digest() == theirs.digest() and found.history == theirs.history


def test_how_sums_are_made_follows_what_moved_the_last_time(iterations, monkeypatch):
    """Nothing is made anew beyond the end."""
    x = np.random.default_rng(0).normal(size=(900, 5)).astype(np.float32)
    known, iterate = [], Loop._iterate

    def read(self, *args):
        iterate(self, *args)
        known.append(int(self._device.fetch(self._counters)[2]))

    monkeypatch.setattr(Loop, "_iterate", read)
    monkeypatch.setattr("gpukm.backends.gpu_loop._UNSEEN_SECONDS", 1e9)
    fit = kmeans(x, 4, init=x[:4].copy(), max_iter=6, tol=0, backend="cupy", watched=True)
    moved = [record.n_moved for record in fit.history[1:]]
    assert known[: len(moved)] == moved and moved[0] > moved[-1] > 0
    known.clear()
    fit = kmeans(x, 4, init=x[:4].copy(), tol=2e-3, backend="cupy", precision="fast")
    assert fit.history[-1].n_moved > 0 and len(known) >= fit.n_iter
    assert not any(known[fit.n_iter - 2 :])


def test_an_empty_cluster_is_seen_late(iterations, monkeypatch):
    """What was launched beyond it changes nothing of what the host is to go on from."""
    monkeypatch.setattr("gpukm.backends.gpu_loop._UNSEEN_SECONDS", 1e9)
    monkeypatch.setattr("gpukm.backends.gpu_batch._SMALL_VALUES", 0)
    rng = np.random.default_rng(0)
    for _ in range(139):
        x = np.concatenate([rng.normal(size=(60, 2)), 4 + rng.normal(size=(4, 2))]).astype(np.float32)
        start = x[rng.integers(0, 64, 12)] + rng.normal(size=(12, 2)).astype(np.float32)
    settings = {"init": start, "tol": 0}
    theirs = kmeans(x, 12, backend="numpy", **settings)
    # From the third that it makes by itself on the device goes on for two.
    assert [record.n_empty for record in theirs.history][:4] == [0, 0, 0, 1]
    left, run = [], Loop.run

    def seen(self, *args):
        for made in run(self, *args):
            left.extend([made.centroids] if made.pending else [])
            yield made

    monkeypatch.setattr(Loop, "run", seen)
    before = len(iterations)
    assert kmeans(x, 12, backend="cupy", **settings).digest() == theirs.digest()
    assert len(iterations) - before > 4
    np.testing.assert_array_equal(left, [kmeans(x, 12, backend="numpy", max_iter=3, **settings).centroids])
