"""The numbers of a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpukm.reports import Report


def test_traits_are_standardised_differences_in_original_units(snapshot: Callable[..., Any]) -> None:
    s = snapshot(scale=10.0, offset=3.0)
    report = Report.from_snapshot(s)
    assert report.original_units
    assert [c.count for c in report.clusters] == sorted(s.tensors["counts"].tolist(), reverse=True)
    z = (s.centroids - s.tensors["mean"]) / np.sqrt(s.tensors["variance"])
    for cluster in report.clusters:
        assert [abs(t.z) for t in cluster.traits] == sorted((abs(t.z) for t in cluster.traits), reverse=True)
        for t in cluster.traits:
            f = s.fitted.feature_names.index(t.feature)
            assert t.z == pytest.approx(z[cluster.index, f])
            assert t.value == pytest.approx(10 * s.centroids[cluster.index, f] + 3, rel=1e-6)
            assert t.overall == pytest.approx(10 * s.tensors["mean"][f] + 3)
            assert ("higher" if t.z > 0 else "lower") in t.words
        assert len(cluster.traits) == (np.abs(z[cluster.index]) >= 0.5).sum()


def test_shares_add_up(snapshot: Callable[..., Any]) -> None:
    s = snapshot(k=6)
    report = Report.from_snapshot(s)
    assert sum(c.share for c in report.clusters) == pytest.approx(1)
    assert sum(c.inertia_share for c in report.clusters) == pytest.approx(1)
    assert sum(f.variance_share for f in report.features) == pytest.approx(1)
    explained = sum(f.explained * f.variance_share for f in report.features)
    assert report.explained == pytest.approx(explained, rel=1e-6)
    assert [f.explained for f in report.features] == sorted((f.explained for f in report.features), reverse=True)
    assert sum(report.sizes) == report.n_samples


def test_the_nearest_other_centroid(snapshot: Callable[..., Any]) -> None:
    s = snapshot(k=30)
    d = np.linalg.norm(s.centroids[:, None].astype(float) - s.centroids[None], axis=2)
    np.fill_diagonal(d, np.inf)
    for c in Report.from_snapshot(s).clusters:
        assert c.neighbour == d[c.index].argmin()
        assert c.neighbour_distance == pytest.approx(d[c.index].min(), rel=1e-6)


def test_heat_map_matches_the_centroids(snapshot: Callable[..., Any]) -> None:
    s = snapshot(scale=2.0)
    heat = Report.from_snapshot(s).heat_map
    assert heat.clusters == (0, 1, 2, 3)
    assert heat.features == s.fitted.feature_names
    np.testing.assert_allclose(heat.values, 2.0 * s.centroids)


def test_without_a_way_back_values_stay_as_clustered(snapshot: Callable[..., Any]) -> None:
    components = snapshot()
    components.fitted.input_names = ("a", "b", "c")
    unit = snapshot()
    unit.fitted.inverse = lambda x: np.full_like(x, np.nan)
    raw = snapshot()
    raw.preprocessing = {}
    for s in (components, unit, raw):
        report = Report.from_snapshot(s)
        assert not report.original_units
        np.testing.assert_allclose(report.heat_map.values, s.centroids)
    assert report.heat_map.features == ("f0", "f1", "f2")


def test_one_feature_without_a_way_back_leaves_the_others(snapshot: Callable[..., Any]) -> None:
    s = snapshot()
    s.fitted.inverse = lambda x: x * np.array([10.0, np.nan, 1.0])
    values = np.array(Report.from_snapshot(s).heat_map.values)
    np.testing.assert_allclose(values, s.centroids * [10.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s.tensors["counts"].__setitem__(2, 0), "1 of 4 clusters have no rows (2)"),
        (lambda s: s.result.update(stop="max_iter"), "raise max_iter"),
        (lambda s: s.tensors["counts"].__setitem__(1, 10**6), "cluster 1 holds >99.9%"),
        (lambda s: s.tensors["silhouette"].fill(0.01), "overlap heavily"),
        (lambda s: s.tensors["variance"].__setitem__(1, 1e4), "distance makes up"),
        (lambda s: s.result.update(warnings=["2 columns are constant"]), "2 columns are constant"),
    ],
)
def test_warnings(snapshot: Callable[..., Any], change: Callable[[Any], Any], expected: str) -> None:
    s = snapshot(counts=np.array([100, 200, 150, 120]))
    assert not Report.from_snapshot(s).notices
    change(s)
    assert any(n.level == "warning" and expected in n.text for n in Report.from_snapshot(s).notices)


def test_dropped_rows_are_noted(snapshot: Callable[..., Any]) -> None:
    s = snapshot()
    s.data["n_rows"] = s.data["n_samples"] + 50
    assert any(n.level == "note" and n.text.startswith("50 of ") for n in Report.from_snapshot(s).notices)


def test_what_is_left_out_is_said(snapshot: Callable[..., Any]) -> None:
    s = snapshot(k=1200, names=[f"x{i}" for i in range(250)])
    report = Report.from_snapshot(s)
    notes = " ".join(n.text for n in report.notices)
    assert len(report.clusters) == 1000 and "1,000 largest of 1,200 clusters" in notes
    assert len(report.features) == 200 and "200 of 250 features" in notes
    assert "heat map shows 40 of 1,200 clusters" in notes
    assert len(report.sizes) == 1200


def test_one_cluster_one_feature_and_nothing_varies(snapshot: Callable[..., Any]) -> None:
    s = snapshot(k=1, names=("only",), counts=np.array([9]))
    s.tensors.update(variance=np.zeros(1), histogram_edges=np.full((1, 19), np.inf))
    report = Report.from_snapshot(s)
    assert report.clusters[0].neighbour is None
    assert report.clusters[0].traits == ()
    assert report.explained == 0
