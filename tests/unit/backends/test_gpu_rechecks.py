"""How many rows each rung of the cascade settles, as a result tells it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpukm.backends.base import Rechecks
from gpukm.backends.select import _opened
from gpukm.functional import kmeans
from gpukm.minibatch import minibatch_kmeans
from gpukm.sources.array import ArraySource
from tests.emulated import as_cupy  # noqa: F401
from tests.unit.backends.test_gpu_fast import between, by_matrix  # noqa: F401


def test_one_pass_is_counted(by_matrix):  # noqa: F811
    """Two candidates a row that lies midway; the rows of a pass that listed them, and none else."""
    x, c = between()
    prepared = by_matrix.prepare(c, frame_of(x, c))
    n = by_matrix.assign(x, prepared, np.empty(300, np.int32))
    assert by_matrix.rechecks() == Rechecks(by_matrix.rechecks().n_pairs, 0)
    assert 100 < 2 * n <= by_matrix.rechecks().n_pairs <= 3 * n
    # What looks for the second nearest is no labelling.
    by_matrix.assign_two(x, prepared)
    assert by_matrix.rechecks().n_pairs <= 3 * n


def frame_of(x, c):
    from gpukm.backends.base import Frame

    return Frame(np.zeros(x.shape[1]), float(max(np.abs(x).max(), np.abs(c).max())))


def test_rows_without_room_are_counted(by_matrix, monkeypatch):  # noqa: F811
    monkeypatch.setattr("gpukm.backends.cascade._LEAST_PAIRS", 5)
    monkeypatch.setattr("gpukm.backends.cascade._PAIRS", 1)
    x, c = between()
    labels = np.empty(300, np.int32)
    n = by_matrix.assign(x, by_matrix.prepare(c, frame_of(x, c)), labels)
    found = by_matrix.rechecks()
    assert found.n_pairs == 300 and 0 < found.n_crowded <= n
    np.testing.assert_array_equal(labels, by_matrix.cross_distances(x, c).argmin(axis=1))


@pytest.mark.parametrize("settings", [{}, {"n_init": 2, "init": "random"}, {"quality": "best"}, {"precision": "fast"}])
def test_a_fit_adds_up_what_its_start_took(by_matrix, settings):  # noqa: F811
    x, c = between()
    asked = {"init": c, "max_iter": 3, "backend": "cupy", "watched": True, **settings}
    fits = [kmeans(x, 40, **asked) for _ in range(2)]
    # The backend here goes on counting from fit to fit.
    assert fits[0].rechecks == fits[1].rechecks
    found = fits[0]
    assert found.n_rechecked <= found.n_scored and (found.n_rechecked == 0) == (found.rechecks.n_pairs == 0)
    assert found.rechecks.n_pairs >= 2 * (found.n_rechecked - found.rechecks.n_crowded)
    assert f"{found.n_scored:,} rows labelled" in found.labelling and "distances" in found.labelling
    assert found.digest() == replace(found, rechecks=None).digest()
    assert minibatch_kmeans(x, 4, backend="cupy").rechecks.n_pairs >= 0


def test_a_fit_on_a_cluster_counts_what_its_workers_do(by_matrix, tmp_path):  # noqa: F811
    """Once where parts share a backend; these workers are threads of this process."""
    distributed = pytest.importorskip("distributed", reason="not run: distributed is not installed")
    _opened.cache_clear()
    x, c = between()
    np.save(tmp_path / "rows.npy", x)
    asked = {"init": c, "max_iter": 3, "backend": "cupy", "watched": True}
    alone = kmeans(ArraySource(x), 40, **asked)
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "resources": {"GPU": 1}}
    options |= {"protocol": "tcp", "dashboard_address": "127.0.0.1:0", "worker_dashboard_address": None}
    try:
        with (
            distributed.LocalCluster(host="127.0.0.1", **options) as cluster,
            distributed.Client(cluster, set_as_default=False) as client,
        ):
            found = [kmeans(str(tmp_path / "rows.npy"), 40, executor=client, **asked) for _ in range(2)]
    finally:
        _opened.cache_clear()
    assert found[0].digest() == alone.digest() and found[0].n_rechecked == alone.n_rechecked > 0
    assert found[0].rechecks == found[1].rechecks == alone.rechecks


def test_bounds_that_are_followed_count_too(as_cupy):  # noqa: F811
    rng = np.random.default_rng(4)
    x = (rng.integers(0, 40, (400, 1)) * 10 + rng.normal(size=(400, 3))).astype(np.float32)
    found = kmeans(x, 256, init=x[:256].copy(), max_iter=12, tol=0.0, backend="cupy", watched=True)
    assert as_cupy.device.launched["follow.look"] and found.n_rechecked
    assert found.rechecks.n_pairs >= found.n_rechecked


def test_elsewhere_nothing_is_told():
    found = kmeans(between()[0], 4, backend="numpy")
    assert found.rechecks is None and "rechecked" in found.labelling
