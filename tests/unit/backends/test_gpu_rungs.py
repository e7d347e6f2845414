"""The screen by matrix units gives way to the one in float32 where it leaves too many rows to D."""

from __future__ import annotations

import numpy as np
import pytest

from gpukm.backends.base import Frame
from gpukm.backends.gpu import Tracked
from gpukm.core.stats import Grid
from gpukm.functional import kmeans
from tests.emulated import as_cupy  # noqa: F401
from tests.unit.backends.test_gpu_fast import by_matrix  # noqa: F401


@pytest.fixture(autouse=True)
def little_room(monkeypatch):
    """For two pairs a row."""
    monkeypatch.setattr("gpukm.backends.cascade._LEAST_PAIRS", 5)


def far_groups(n=300, k=40, d=24):
    """Four groups far apart, of centroids that lie closer together than 16 bits can tell there; rows around these."""
    rng = np.random.default_rng(0)
    groups = rng.normal(size=(4, d)) * 100
    c = (groups[np.arange(k) % 4] + rng.normal(size=(k, d))).astype(np.float32)
    return (c[rng.integers(0, k, n)] + 0.1 * rng.normal(size=(n, d))).astype(np.float32), c


def ties(n=300, k=40):
    """Rows as far from any centroid as from any other."""
    c = np.concatenate([np.eye(k // 2), -np.eye(k // 2)]).astype(np.float32)
    return np.zeros((n, k // 2), np.float32), c


def around(x):
    """A frame that holds the rows."""
    return Frame(np.median(x, axis=0).astype(np.float64), 2 * float(np.abs(x).max()))


def labelled(backend, x, c):
    """Labels, by a call of its own, and the rows that it compared with all centroids."""
    before = backend.rechecks().n_crowded
    labels = np.empty(len(x), np.int32)
    backend.assign(
        x, backend.prepare(c, Frame(np.median(x, axis=0).astype(np.float64), float(np.abs(x).max()) * 2)), labels
    )
    np.testing.assert_array_equal(labels, backend.cross_distances(x, c).argmin(axis=1))
    return backend.rechecks().n_crowded - before


def test_rows_that_16_bits_do_not_tell_apart_are_told_apart_in_float32(by_matrix):  # noqa: F811
    x, c = far_groups()
    launched = by_matrix.device.launched
    assert labelled(by_matrix, x, c) > 100 and not launched["screen.screen"]
    once = launched["matrix.label"]
    assert [labelled(by_matrix, x, c) for _ in range(3)] == [0, 0, 0]
    assert launched["matrix.label"] == once and launched["screen.screen"] == 3


def test_where_neither_helps_the_faster_one_stays(by_matrix):  # noqa: F811
    x, c = ties()
    assert all(labelled(by_matrix, x, c) > 100 for _ in range(5))
    assert by_matrix.device.launched["screen.screen"] == 1 and by_matrix.device.launched["matrix.label"] == 4


def test_where_few_rows_are_left_nothing_changes(by_matrix, monkeypatch):  # noqa: F811
    monkeypatch.setattr("gpukm.backends.cascade._PAIRS", 1)
    rng = np.random.default_rng(1)
    wide, near = 100 * rng.normal(size=(20, 24)), 100 + rng.normal(size=(20, 24))
    c = np.concatenate([wide, near]).astype(np.float32)
    few = c[np.repeat(np.arange(40), [30] * 20 + [3] * 20)] + rng.normal(size=(660, 24)).astype(np.float32) / 10
    assert 0 < labelled(by_matrix, few, c) < 60
    labelled(by_matrix, few, c)
    assert not by_matrix.device.launched["screen.screen"]


def test_blocks_of_a_stream_are_judged_by_what_labelled_them(by_matrix):  # noqa: F811
    """The first block changes the screen, and the others were packed for the one before."""
    x, c = far_groups()
    frame, labels = around(x), np.empty(100, np.int32)
    for _ in range(2):
        prepared = by_matrix.prepare(c, frame)
        for start in (0, 100, 200):
            by_matrix.assign(x[start : start + 100], prepared, labels)
    assert by_matrix.device.launched["matrix.label"] == by_matrix.device.launched["screen.screen"] == 3


@pytest.mark.parametrize("first", [far_groups, ties])
def test_other_data_begin_anew(by_matrix, first):  # noqa: F811
    for _ in range(3):
        labelled(by_matrix, *first())
    launched = by_matrix.device.launched
    once = launched["matrix.label"], launched["screen.screen"]
    x, c = far_groups()
    for _ in range(2):
        labelled(by_matrix, x + 1, c + 1)
    assert (launched["matrix.label"], launched["screen.screen"]) == (once[0] + 1, once[1] + 1)


def test_a_frame_that_was_sent_twice_is_the_same(by_matrix):  # noqa: F811
    """Rows are not rounded again."""
    c = 100 * np.random.default_rng(1).normal(size=(40, 24)).astype(np.float32)
    rows, labels = by_matrix.place(c[np.arange(300) % 40]), by_matrix.zeros(300, np.int32)
    tracker = by_matrix.tracker(rows, c)
    frames = [Frame(np.zeros(24), 1000.0), Frame(np.zeros(24), 1000.0), Frame(np.ones(24), 1000.0)]
    rounded = []
    for frame in frames:
        by_matrix.track(tracker, rows, c, frame, labels)
        rounded.append(tracker.rounded)
    assert rounded[0] is rounded[1] is not rounded[2]


def test_a_loop_leaves_nothing_to_be_judged_later(by_matrix):  # noqa: F811
    """Rows that its iterations left to D are no share of the rows that are labelled next."""
    x, c = far_groups()
    rows, labels = by_matrix.place(x), by_matrix.zeros(len(x), np.int32)
    frame, tracker = around(x), Tracked()
    grid = Grid.of(np.abs(x).max(axis=0).astype(np.float64), float(len(x)))
    rungs = by_matrix._rungs
    rungs._changes = rungs._may_change = False
    by_matrix.track(tracker, rows, c, frame, labels)
    sums = by_matrix.sums(len(c), 24, False)
    by_matrix.accumulate(sums, rows, None, labels, None, grid)
    rungs._changes = rungs._may_change = True
    made = by_matrix.run(tracker, sums, rows, None, labels, c, frame, grid, np.zeros(24), 1e30, 1)
    assert len(list(made)) == 1 and by_matrix.rechecks().n_crowded > 300
    wide = 100 * np.random.default_rng(1).normal(size=(40, 24)).astype(np.float32)
    by_matrix.assign(np.repeat(wide, 10, axis=0), by_matrix.prepare(wide, frame), np.empty(400, np.int32))
    assert by_matrix.cascade.by_matrix


def test_centroids_that_were_packed_before_a_change_stay_good(by_matrix):  # noqa: F811
    """As blocks of a stream share them."""
    x, c = ties()
    labels, frame = np.empty(len(x), np.int32), Frame(np.zeros(x.shape[1]), 2.0)
    packed = [by_matrix.prepare(c, frame)]
    for _ in range(4):
        by_matrix.assign(x, packed[-1], labels)
        packed.append(by_matrix.prepare(c, frame))
    x = x + np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    for each in packed:
        by_matrix.assign(x, each, labels)
        np.testing.assert_array_equal(labels, by_matrix.cross_distances(x, c).argmin(axis=1))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])  # iterations by themselves, and one by one
@pytest.mark.parametrize("free", [1 << 30, 200_000])  # resident, and streamed
@pytest.mark.parametrize("data", [far_groups, ties])
def test_a_fit_has_the_bits_it_has_without(by_matrix, data, free, metric):  # noqa: F811
    x, c = data()
    x = np.concatenate([x + np.float32(0.5), c])
    by_matrix.device.free = free
    settings = {"init": c, "max_iter": 6, "tol": 0.0, "metric": metric}
    found = kmeans(x, 40, backend="cupy", watched=True, **settings)
    assert found.digest() == kmeans(x, 40, backend="numpy", **settings).digest()
    assert found.history == kmeans(x, 40, backend="numpy", **settings).history
    if data is far_groups and metric == "euclidean":
        launched = by_matrix.device.launched
        assert launched["matrix.label"] and launched["screen.screen"]


def test_iterations_without_the_host_change_too(by_matrix):  # noqa: F811
    """The rows move apart first, so that the first step leaves nothing to D."""
    x, _ = far_groups(n=400)
    start = x[np.random.default_rng(3).choice(400, 40, replace=False)]
    settings = {"init": start, "max_iter": 30, "tol": 0.0}
    found = kmeans(x, 40, backend="cupy", watched=True, **settings)
    assert found.digest() == kmeans(x, 40, backend="numpy", **settings).digest()
    assert by_matrix.device.launched["screen.screen"]
