"""The statistics pass against plain NumPy, and its bits under every way to run it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gpukm.core import summary as module
from gpukm.core.exact import exact_sum, to_float
from gpukm.core.quantiles import LEVELS, RadiusCounts
from gpukm.core.summary import Accumulator, Assigned, ClusterSummary, summarize, survey
from gpukm.sources.base import Batch, Source


class Rows(Source):
    """A matrix, with weights and dropped rows if wanted."""

    def __init__(self, x: np.ndarray, weight: np.ndarray | None = None, dropped: int | None = None) -> None:
        self.x, self.weight = x, weight
        self.keep = np.ones(len(x), bool)
        if dropped:
            self.keep[::dropped] = False
        self.dtype, self.n_features, self.names, self.n_rows = x.dtype, x.shape[1], None, len(x)

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        stop = len(self.x) if stop is None else stop
        for i in range(start, stop, rows):
            j = min(i + rows, stop)
            kept = np.flatnonzero(self.keep[i:j])
            weight = None if self.weight is None else self.weight[i:j][kept]
            yield Batch(np.ascontiguousarray(self.x[i:j][kept]), i, j - i, None if self.keep.all() else kept, weight)


def assigned(
    source: Source, centroids: np.ndarray, rows: int, start: int = 0, stop: int | None = None
) -> Iterator[Assigned]:
    """Labels by brute force; sums run over one axis of fixed length, so they do not depend on the batch."""
    for batch in source.batches(rows, start, stop):
        d = np.stack(
            [((batch.x.astype(float) - c) ** 2).cumsum(axis=1)[:, -1] for c in centroids.astype(float)], axis=1
        )
        labels = d.argmin(axis=1).astype(np.int32)
        nearest = d.min(axis=1)
        second = np.sort(d, axis=1)[:, 1] if d.shape[1] > 1 else np.full(len(d), np.inf)
        yield batch, labels, nearest, second


def example(n: int = 1500, d: int = 5, k: int = 7, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """Rows around k centres, the last of which no row is near."""
    rng = np.random.default_rng(5)
    centroids = rng.normal(size=(k, d)) * [1, 10, 100, 1e-3, 1][:d]
    x = centroids[rng.integers(0, k - 1, n)] + rng.normal(size=(n, d)) * np.array([0.1, 1, 10, 1e-4, 0.1])[:d]
    centroids[-1] = 1e4
    return x.astype(dtype), centroids.astype(dtype)


def bits(summary: ClusterSummary) -> dict[str, bytes]:
    """Every number of a summary, to the bit."""
    out = {name: a.tobytes() + a.dtype.str.encode() for name, a in summary.tensors().items()}
    golden = summary.golden
    for name in ("x", "row_numbers", "labels", "distances"):
        out["golden." + name] = getattr(golden, name).tobytes()
    out["totals"] = np.array([summary.total_inertia, summary.total_weight, summary.n_samples]).tobytes()
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
def test_agrees_with_plain_numpy(dtype: str, weighted: bool) -> None:
    x, c = example(dtype=dtype)
    w = np.random.default_rng(1).uniform(0, 3, len(x)) if weighted else np.ones(len(x))
    source = Rows(x, w if weighted else None)
    s = summarize(source, c, assigned(source, c, 400), threads=1)
    [(_, labels, d1, d2)] = assigned(source, c, len(x))
    x64, k = x.astype(float), len(c)

    assert s.counts.tolist() == np.bincount(labels, minlength=k).tolist()
    assert s.counts[-1] == 0
    assert s.n_samples == len(x)
    np.testing.assert_allclose(s.weights, np.bincount(labels, w, k), rtol=1e-12)
    np.testing.assert_allclose(s.inertia, np.bincount(labels, w * d1, k), rtol=1e-12)
    assert s.total_inertia == to_float(exact_sum(w * d1))
    mean = np.average(x64, axis=0, weights=w)
    np.testing.assert_allclose(s.mean, mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(s.variance, np.average((x64 - mean) ** 2, axis=0, weights=w), rtol=1e-9)
    np.testing.assert_array_equal(s.minimum, x64.min(axis=0))
    np.testing.assert_array_equal(s.maximum, x64.max(axis=0))
    assert s.cluster_variance is not None
    for j in range(k):
        mine = labels == j
        if not mine.any():
            assert not s.cluster_variance[j].any() and not s.radius_quantiles[j].any() and s.silhouette[j] == 0
            continue
        spread = np.average((x64[mine] - c[j]) ** 2, axis=0, weights=w[mine])
        np.testing.assert_allclose(s.cluster_variance[j], spread, rtol=1e-9)
        score = np.average(1 - np.sqrt(d1[mine]) / np.sqrt(d2[mine]), weights=w[mine])
        np.testing.assert_allclose(s.silhouette[j], score, rtol=1e-9)
        assert s.radius_quantiles[j, -1] == np.sqrt(d1[mine]).max()
        np.testing.assert_array_equal(s.outlier_radius, s.radius_quantiles[:, LEVELS.index(0.99)])


def test_histograms_count_every_row_once() -> None:
    x, c = example()
    source = Rows(x)
    s = summarize(source, c, assigned(source, c, 333))
    [(_, labels, _, _)] = assigned(source, c, len(x))
    assert (s.histogram.sum(axis=1) == len(x)).all()
    assert s.cluster_histogram is not None
    np.testing.assert_array_equal(s.cluster_histogram.sum(axis=0), s.histogram)
    for f in range(x.shape[1]):
        codes = np.searchsorted(s.histogram_edges[f], x[:, f].astype(float), side="right")
        for j in range(len(c)):
            np.testing.assert_array_equal(s.cluster_histogram[j, f], np.bincount(codes[labels == j], minlength=20))
    # Bins are quantiles of a sample that here holds every row, so they are about even.
    assert s.histogram.max() <= 1.2 * len(x) / 20


def test_few_distinct_values_get_a_bin_each() -> None:
    x = np.array([[0, 5], [1, 5], [1, 5], [3, 5]], np.float32)
    c = np.zeros((1, 2), np.float32)
    s = summarize(Rows(x), c, assigned(Rows(x), c, 2))
    assert s.histogram[0, :4].tolist() == [1, 2, 1, 0]
    assert s.histogram[1, :2].tolist() == [4, 0]
    assert s.variance[1] == 0 and s.mean[1] == 5


@pytest.mark.parametrize("dropped", [None, 7])
def test_batches_and_threads_change_no_bit(dropped: int | None) -> None:
    x, c = example(n=900)
    w = np.random.default_rng(2).uniform(0, 2, len(x))
    source = Rows(x, w, dropped)
    seen = {
        tuple(bits(summarize(source, c, assigned(source, c, rows), batch_rows=survey_rows, threads=threads)).items())
        for rows, survey_rows, threads in [(900, 900, 1), (64, 900, 2), (901, 50, 2), (101, 7, 1)]
    }
    assert len(seen) == 1


def test_blocks_of_rows_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, c = example(n=40_000)
    source = Rows(x)
    whole = bits(summarize(source, c, assigned(source, c, 40_000)))
    monkeypatch.setattr(module, "_BLOCK_VALUES", 1000)
    assert bits(summarize(source, c, assigned(source, c, 4_000))) == whole


def test_parts_merge_to_the_whole() -> None:
    x, c = example(n=1200)
    w = np.random.default_rng(3).uniform(0, 2, len(x))
    source = Rows(x, w)
    whole = bits(summarize(source, c, assigned(source, c, 500)))
    cuts = [(0, 500), (500, 510), (510, 1200)]
    looks = [survey(Rows(x[a:b], w[a:b])) for a, b in cuts]
    assert looks[0].merge(looks[1]).merge(looks[2]).minimum.tolist() == x.min(axis=0).tolist()
    look = survey(source)
    parts = [Accumulator(c, look) for _ in cuts]
    for part, (a, b) in zip(parts, cuts, strict=True):
        for item in assigned(source, c, 99, a, b):
            part.add(*item)
    total = parts[2]
    total.merge(parts[0])
    total.merge(parts[1])
    assert bits(total.finish(look)) == whole


def test_zeros_of_either_sign_are_one_number() -> None:
    x = np.array([[0.0], [-0.0], [1.0], [-0.0]], np.float32)
    for a, b in ((x, x[1:]), (x[1:], x), (x[1:2], x[:1])):
        look = survey(Rows(a)).merge(survey(Rows(b)))
        assert not np.signbit(look.minimum).any()
    alone = survey(Rows(np.array([[-0.0]], np.float32)))
    assert not np.signbit(alone.minimum).any() and not np.signbit(alone.maximum).any()


def test_weight_two_equals_the_row_twice() -> None:
    x, c = example(n=300)
    once, twice = Rows(x, np.full(len(x), 2.0)), Rows(np.concatenate([x, x]))
    a = summarize(once, c, assigned(once, c, 100))
    b = summarize(twice, c, assigned(twice, c, 100))
    for name in ("weights", "inertia", "silhouette", "mean", "variance", "cluster_variance"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.total_inertia == b.total_inertia


def test_radius_quantiles_err_by_less_than_a_bin() -> None:
    rng = np.random.default_rng(8)
    squared = np.concatenate([rng.chisquare(3, 5000), 1e12 * rng.chisquare(3, 5000)])
    labels = np.repeat(np.array([0, 2], np.int32), 5000)
    for k, tolerance in ((3, 1e-3), (5000, 1e-2), (40_000, 0.04)):
        radii = RadiusCounts(k)
        radii.add(labels[::2], squared[::2])
        radii.add(labels[1::2], squared[1::2])
        found = radii.quantiles()
        assert not found[1].any()
        for j in (0, 2):
            exact = np.quantile(np.sqrt(squared[labels == j]), LEVELS, method="inverted_cdf")
            np.testing.assert_allclose(found[j], exact, rtol=tolerance)
            assert found[j, -1] == exact[-1]


def test_radius_quantiles_of_zero_distances() -> None:
    radii = RadiusCounts(1)
    radii.add(np.zeros(4, np.int32), np.zeros(4))
    assert radii.quantiles().tolist() == [[0.0] * 5]


def test_golden_rows_come_with_their_labels() -> None:
    x, c = example()
    source = Rows(x, dropped=3)
    golden = summarize(source, c, assigned(source, c, 250)).golden
    assert 24 <= len(golden.labels) <= 32
    assert (np.diff(golden.row_numbers) > 0).all()
    assert (golden.row_numbers % 3 != 0).all()
    np.testing.assert_array_equal(golden.x, x[golden.row_numbers])
    [(_, labels, d1, d2)] = assigned(Rows(x), c, len(x))
    np.testing.assert_array_equal(golden.labels, labels[golden.row_numbers])
    np.testing.assert_array_equal(golden.distances, d1[golden.row_numbers])
    kept = np.flatnonzero(np.arange(len(x)) % 3)
    assert kept[d1[kept].argmax()] in golden.row_numbers
    assert kept[(d2 - d1)[kept].argmin()] in golden.row_numbers
    assert set(golden.labels.tolist()) >= set(np.unique(labels).tolist())


def test_an_outlier_does_not_drown_the_rest() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 2))
    x[7] = 1e9
    c = np.array([[0.0, 0.0], [1e9, 1e9]])
    source = Rows(x)
    s = summarize(source, c, assigned(source, c, 512))
    inner = np.delete(x, 7, axis=0)
    assert s.cluster_variance is not None
    np.testing.assert_allclose(s.cluster_variance[0], (inner**2).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(s.variance, x.var(axis=0), rtol=1e-9)


def test_what_is_too_large_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VARIANCE_CELLS", 34)
    monkeypatch.setattr(module, "HISTOGRAM_CELLS", 600)
    x, c = example()
    s = summarize(Rows(x), c, assigned(Rows(x), c, 999))
    assert s.cluster_variance is None and s.cluster_histogram is None
    assert "cluster_variance" not in s.tensors()
    assert (s.histogram.sum(axis=1) == len(x)).all()
    assert any("7 clusters x 5 features exceed 34" in note for note in s.notes)
    assert any("histograms per cluster were left out" in note for note in s.notes)


def test_one_cluster_has_no_second_nearest() -> None:
    x, c = example()
    s = summarize(Rows(x), c[:1], assigned(Rows(x), c[:1], 1000))
    assert s.silhouette.tolist() == [0.0]
    assert np.isfinite(s.radius_quantiles).all()
