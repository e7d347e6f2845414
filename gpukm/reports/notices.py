"""What a careful colleague would point out on seeing these clusters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpukm.reports.data import Notice, Report
from gpukm.reports.wording import count, percent


def notices(report: Report, counts: np.ndarray, warnings: Sequence[str], notes: Sequence[str]) -> tuple[Notice, ...]:
    """Warnings of the fit and of the numbers, then notes.

    Parameters
    ----------
    report : Report
        Without notices.
    counts : ndarray of int64 of shape (n_clusters,)
    warnings, notes : sequence of str
        What the fit and the statistics pass said.
    """
    found = [Notice("warning", text) for text in (*warnings, *_doubts(report, counts))]
    precision = report.settings.get("precision", "exact")
    if precision != "exact":
        notes = [
            f"iterations took labels that were not certified (precision {precision}), so another machine may end at "
            "other centroids; labels, counts and inertia are exact for these",
            *notes,
        ]
    dropped = report.n_rows - report.n_samples
    if dropped > 0:
        notes = [
            f"{count(dropped)} of {count(report.n_rows)} rows ({percent(dropped / report.n_rows)}) were dropped by "
            "the null policy before clustering",
            *notes,
        ]
    return (*found, *(Notice("note", text) for text in (*notes, *_left_out(report))))


def _doubts(report: Report, counts: np.ndarray) -> list[str]:
    """Reasons to look again before using the clusters."""
    doubts = []
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        which = ", ".join(map(str, empty[:10].tolist())) + (", …" if len(empty) > 10 else "")
        doubts.append(f"{len(empty)} of {report.n_clusters} clusters have no rows ({which}); try fewer clusters")
    if report.stop == "the iteration limit was reached":
        doubts.append(
            f"the fit stopped at its limit of {report.n_iter} iterations before it had settled; raise max_iter"
        )
    if report.n_clusters > 1 and report.clusters and report.clusters[0].share > 0.9:
        largest = report.clusters[0]
        doubts.append(
            f"cluster {largest.index} holds {percent(largest.share)} of all rows; outliers may have taken the other "
            "clusters: clip or rescale the features"
        )
    tiny = int(((counts > 0) & (counts <= max(1.0, 1e-4 * counts.sum() / report.n_clusters))).sum())
    if tiny and report.n_samples > 20 * report.n_clusters:
        doubts.append(f"{tiny} clusters hold almost no rows; they are probably outliers")
    if report.n_clusters > 1 and report.silhouette < 0.1:
        doubts.append("clusters overlap heavily: most rows lie about as near to a second centroid as to their own")
    ruling = [f for f in report.features if f.variance_share > 0.9]
    if ruling and report.n_features > 1:
        doubts.append(
            f"{ruling[0].name} makes up {percent(ruling[0].variance_share)} of the variance of all features, so the "
            "others hardly count; standardise the features if that is not meant"
        )
    return doubts


def _left_out(report: Report) -> list[str]:
    """What this report does not show."""
    lines = []
    if len(report.clusters) < report.n_clusters:
        lines.append(
            f"this report describes the {count(len(report.clusters))} largest of {count(report.n_clusters)} clusters"
        )
    if len(report.features) < report.n_features:
        lines.append(
            f"this report describes the {len(report.features)} of {count(report.n_features)} features in which "
            "clusters differ most"
        )
    heat = report.heat_map
    if len(heat.clusters) < report.n_clusters or len(heat.features) < report.n_features:
        lines.append(
            f"the heat map shows {len(heat.clusters)} of {count(report.n_clusters)} clusters (the largest) and "
            f"{len(heat.features)} of {count(report.n_features)} features (those in which clusters differ most)"
        )
    return lines
