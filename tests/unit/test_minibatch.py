"""Fits from nested batches, through the functions."""

from itertools import pairwise

import numpy as np
import pytest
from gpukm_kernels import native_status

from gpukm import kmeans, minibatch_kmeans
from gpukm.core.result import StopReason
from gpukm.errors import ConfigError, DataError
from gpukm.minibatch import minibatch_iter
from gpukm.sources.array import ArraySource
from gpukm.sources.csr import CsrSource

BACKENDS = ["numpy", *(["cpu"] if native_status()[0] else [])]


class Streamed(ArraySource):
    """Rows that are read in batches."""

    def array(self):
        return None

    def weights(self):
        return None


def mixture(n=40_000, d=4, k=12, seed=0):
    rng = np.random.default_rng(seed)
    return (6 * rng.normal(size=(k, d))[rng.integers(0, k, n)] + rng.normal(size=(n, d))).astype(np.float32)


def states(x, k, **settings):
    """All states, and the result."""
    steps, found = minibatch_iter(x, k, **settings), []
    while True:
        try:
            found.append(next(steps))
        except StopIteration as end:
            return found, end.value


def true_inertia(x, centroids, weight=None):
    d = ((x[:, None].astype(float) - centroids[None].astype(float)) ** 2).sum(2)
    return d.argmin(1), float((d.min(1) * (1 if weight is None else weight)).sum())


@pytest.mark.parametrize("backend", BACKENDS)
def test_ends_within_its_excess_of_a_fit_on_all_rows(backend):
    x = mixture()
    found, result = states(x, 12, backend=backend, seed=1)
    assert result.stop is StopReason.EXCESS and found[-1].excess <= 1e-3
    # From where it ended, all rows and all steps of Lloyd reach no more than that.
    rest = kmeans(x, 12, init=result.centroids, tol=0, backend=backend)
    assert result.inertia <= rest.inertia * 1.001
    labels, inertia = true_inertia(x, result.centroids)
    np.testing.assert_array_equal(result.labels, labels)
    assert abs(result.inertia - inertia) <= 1e-12 * inertia
    assert result.counts.tolist() == np.bincount(labels, minlength=12).tolist()


def test_batches_are_nested_and_double():
    x = mixture()
    found, result = states(x, 12, seed=1, max_excess=1e-3)
    rows = list(dict.fromkeys(s.batch_rows for s in found))
    assert rows == [1024 << i for i in range(len(rows))] and rows[-1] < len(x)
    # Rows already in the batch are labelled again but not added again: a grown batch adds its new rows, and few move.
    for before, after in pairwise(found):
        new = after.batch_rows - before.batch_rows
        assert after.counts.sum() == after.batch_rows
        assert new <= after.record.n_moved < new + after.batch_rows // 4
    assert result.n_iter == len(found) == len(result.history)


def test_the_estimated_excess_is_what_is_found():
    """At the last step of each batch, in the mean of some seeds: within a third of the truth."""
    estimated, measured = [], []
    x = mixture(40_000)
    for seed in range(6):
        found, _ = states(x, 12, seed=seed, max_excess=2e-3)
        least = kmeans(x, 12, init=found[-1].centroids, tol=0).inertia
        for state, after in pairwise(found):
            if after.batch_rows > state.batch_rows:
                estimated.append(state.excess)
                measured.append(true_inertia(x, state.centroids)[1] / least - 1)
    assert len(estimated) >= 12
    assert 2 / 3 < np.mean(estimated) / np.mean(measured) < 3 / 2


def test_a_small_cluster_of_wide_spread_asks_for_more_rows():
    """One row in a hundred makes nearly all of the inertia, so the average row tells too little of the noise."""
    rng = np.random.default_rng(0)
    rare = rng.random(60_000) < 0.01
    x = np.where(rare[:, None], 1000 + 10 * rng.normal(size=(60_000, 3)), 0.1 * rng.normal(size=(60_000, 3)))
    found, result = states(x, 2, max_excess=0.01)
    assert result.stop is StopReason.EXCESS
    # 0.01 of the inertia is a hundred rows of the rare cluster, and these are ten thousand rows.
    assert 8192 <= found[-1].batch_rows <= 16384


def test_zero_excess_goes_on_to_the_fixed_point_of_all_rows():
    x = mixture(6000)
    result = minibatch_kmeans(x, 12, max_excess=0, seed=2)
    assert result.stop is StopReason.CONVERGED
    again = kmeans(x, 12, init=result.centroids, tol=0)
    assert again.n_iter == 1 and again.digest() == result.digest()


def test_tol_stops_on_all_rows_only():
    found, result = states(mixture(6000), 12, max_excess=0, tol=0.5)
    assert result.stop is StopReason.TOLERANCE and found[-1].batch_rows == 6000 and len(found) > 2


def test_max_iter_limits_the_rows_labelled():
    rows = np.random.default_rng(0).random((4000, 2))
    found, result = states(rows, 30, max_excess=0, max_iter=1)
    assert result.stop is StopReason.MAX_ITER
    assert sum(s.n_scored for s in found[:-1]) < len(rows) <= sum(s.n_scored for s in found)


@pytest.mark.parametrize(("metric", "excess"), [("euclidean", 3e-3), ("cosine", 3e-3), ("euclidean", 1e-4)])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_bits_by_any_backend_thread_count_and_way_of_reading(weighted, metric, excess):
    x = mixture(9000)
    w = np.random.default_rng(3).integers(0, 3, len(x)).astype(float) if weighted else None
    settings = {"seed": 5, "max_excess": excess, "metric": metric}
    found = {minibatch_kmeans(x, 12, sample_weight=w, backend=b, **settings).digest() for b in BACKENDS}
    found |= {minibatch_kmeans(x, 12, sample_weight=w, threads=t, **settings).digest() for t in (1, 2)}
    found |= {minibatch_kmeans(Streamed(x, weight=w), 12, read_rows=r, **settings).digest() for r in (1000, 7777)}
    from scipy.sparse import csr_matrix

    found.add(minibatch_kmeans(CsrSource(csr_matrix(x), weight=w), 12, **settings).digest())
    assert len(found) == 1
    assert minibatch_kmeans(x, 12, sample_weight=w, **{**settings, "seed": 6}).digest() not in found


def test_a_stream_that_holds_too_few_rows_goes_on_with_all_of_them():
    x = mixture(9000)
    found, result = states(Streamed(x), 12, max_excess=0, memory_limit=24 * 8 * 2000, read_rows=500, seed=2)
    rows = list(dict.fromkeys(s.batch_rows for s in found))
    assert rows == [1024, 2000, 9000] and result.stop is StopReason.CONVERGED
    assert kmeans(x, 12, init=result.centroids, tol=0).digest() == result.digest()


def test_weights_count_as_rows_would():
    x = mixture(3000)
    w = np.random.default_rng(1).integers(0, 4, len(x)).astype(float)
    result = minibatch_kmeans(x, 12, sample_weight=w, max_excess=0)
    _, inertia = true_inertia(x, result.centroids, w)
    assert abs(result.inertia - inertia) <= 1e-12 * inertia
    assert result.weights.sum() == w.sum() and result.n_samples == len(x)


def test_without_labels_the_last_pass_is_left_out():
    x = mixture()
    result = minibatch_kmeans(x, 12, compute_labels=False, seed=1)
    whole = minibatch_kmeans(x, 12, seed=1)
    assert result.labels is None and result.centroids.tobytes() == whole.centroids.tobytes()
    assert result.n_scored == whole.n_scored - len(x)
    assert abs(result.inertia / whole.inertia - 1) < 0.02 and result.counts.sum() < len(x)


def test_breathing_repairs_what_random_rows_miss():
    """Well separated clusters: random rows miss some for sure, and Lloyd cannot move centres between them."""
    x = mixture(20_000, 8, 40, seed=3)
    start = {init: minibatch_kmeans(x, 40, init=init, n_init=1, seed=4).inertia for init in ("random", "auto")}
    assert start["auto"] < 1.05 * 8 * len(x) and start["random"] > 1.3 * start["auto"]


@pytest.mark.parametrize("init", ["breathing", "k-means++", "pooled", "random", "array", "callable"])
def test_every_init(init):
    x = mixture(3000)
    start = {"array": x[:12], "callable": lambda rows, k, random_state: rows[:k]}.get(init, init)
    result = minibatch_kmeans(x, 12, init=start, n_init=1 if init == "array" else 2)
    assert result.settings["init"] == init and result.n_init == (1 if init == "array" else 2)
    assert np.isfinite(result.inertia) and (result.counts > 0).all()


def test_more_starts_are_not_worse_and_the_default_is_three_random_ones():
    x = mixture(20_000, 8, 40, seed=3)
    one = minibatch_kmeans(x, 40, init="random", n_init=1, seed=4).inertia
    found = minibatch_kmeans(x, 40, init="random", seed=4)
    assert found.n_init == 3 and found.inertia <= one


@pytest.mark.parametrize("k", [1, 2, 50])
def test_small_data(k):
    x = np.random.default_rng(0).normal(size=(50, 3))
    result = minibatch_kmeans(x, k, max_excess=0)
    assert sorted(set(result.labels.tolist())) == list(range(k))
    assert (result.inertia == 0) is (k == 50)


def test_duplicates_and_constant_data():
    x = np.repeat(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), 400, axis=0)
    assert minibatch_kmeans(x, 5).inertia == 0
    assert "distinct clusters" in minibatch_kmeans(x, 8).warnings[-1]
    assert minibatch_kmeans(np.ones((3000, 2)), 3).inertia == 0


def test_batch_and_init_sizes():
    x = mixture(9000)
    found, result = states(x, 12, batch_size=100, init_size=3000)
    assert found[0].batch_rows == 100 and result.settings["init_size"] == 3000
    assert states(x, 12, batch_size=1)[0][0].batch_rows == 12  # at least as many rows as clusters


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"init_size": 5}, "init_size is 5, expected at least n_clusters=12"),
        ({"max_excess": -1}, "max_excess"),
        ({"max_excess": float("nan")}, "max_excess"),
        ({"tol": -1}, "tol"),
        ({"max_iter": 0}, "max_iter"),
        ({"init": "best"}, "init is 'best'"),
        ({"metric": "l1"}, "metric"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        minibatch_kmeans(mixture(100), 12, **settings)


@pytest.mark.parametrize("kind", [ArraySource, Streamed])
def test_bad_data_is_refused_though_it_may_not_be_needed(kind):
    x = mixture()
    x[31_234, 2] = np.nan
    with pytest.raises(DataError, match="row 31234"):
        minibatch_kmeans(kind(x), 12)
    with pytest.raises(DataError, match="n_samples=9"):
        minibatch_kmeans(kind(mixture(9)), 12)


def test_the_callers_array_is_not_changed():
    x = mixture(3000)
    before = x.tobytes()
    minibatch_kmeans(x, 12)
    assert x.tobytes() == before
