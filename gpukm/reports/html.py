"""The report as one HTML file that needs nothing from outside."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from gpukm.reports import charts, wording
from gpukm.reports.data import Report

if TYPE_CHECKING:
    from jinja2 import Environment

#: Clusters listed, how many of them at once, and features listed.
LISTED_CLUSTERS = 150
FIRST_CLUSTERS = 40
LISTED_FEATURES = 40
CHIPS = 4


def render_html(report: Report) -> str:
    """Render the report.

    Parameters
    ----------
    report : Report

    Returns
    -------
    str
        A whole HTML document: styles, pictures and the one small script are inline, every value is escaped, and a
        content security policy forbids to load anything.
    """
    shown = report.clusters[:LISTED_CLUSTERS]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            clusters=shown,
            first=shown if len(shown) <= FIRST_CLUSTERS else shown[: FIRST_CLUSTERS // 2],
            rest=_rest(report, len(shown)),
            features=report.features[:LISTED_FEATURES],
            largest=shown[0].share if shown else 0.0,
            figures=_figures(report),
            warnings=[n.text for n in report.notices if n.level == "warning"],
            notes=[n.text for n in report.notices if n.level != "warning"],
            provenance=_entries(report.provenance),
            settings=_entries(report.settings),
            data=_entries(report.data),
            chips=CHIPS,
            charts=charts,
            w=wording,
            shade=shade,
        )
    )


def shade(z: float) -> str:
    """Class of a heat map cell: nine steps from far below the mean to far above."""
    step = min(4, int(abs(z) / 0.5 + 0.5) if abs(z) < 1.25 else 3 if abs(z) < 2.5 else 4)
    return "z0" if step == 0 else f"{'p' if z > 0 else 'n'}{step}"


@cache
def _environment() -> Environment:
    """The template engine, which escapes everything it is not told to trust."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("gpukm.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _figures(report: Report) -> list[tuple[str, str, str]]:
    """The key figures: name, value, and what it means."""
    r, rows = report, wording.count(report.n_samples)
    dropped = r.n_rows - r.n_samples
    figures = [
        ("Rows", rows, f"{wording.count(dropped)} dropped" if dropped else "all rows used"),
        ("Clusters", wording.count(r.n_clusters), f"in {wording.count(r.n_features)} features"),
        ("Variance explained", wording.percent(r.explained), "lies between clusters"),
    ]
    if r.n_clusters > 1:
        figures.append(("Silhouette", f"{r.silhouette:.2f}", wording.separation(r.silhouette)))
    if r.sizes:
        figures.append(
            (
                "Cluster size",
                wording.count(r.sizes[len(r.sizes) // 2]),
                f"median; {wording.count(r.sizes[-1])} to {wording.count(r.sizes[0])}",
            )
        )
    figures.append(("Iterations", wording.count(r.n_iter), r.stop))
    return figures


def _rest(report: Report, shown: int) -> dict[str, Any] | None:
    """What the clusters without a line add up to."""
    if shown >= report.n_clusters:
        return None
    rows = sum(report.sizes[shown:])
    return {"clusters": report.n_clusters - shown, "count": rows, "share": rows / (report.n_samples or 1)}


def _entries(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as lines of name and text."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            lines += _entries(value, f"{name}.")
        elif value not in (None, "", [], {}, ()):
            lines.append((name, value if isinstance(value, str) else _one_line(value)))
    return lines


def _one_line(value: Any, limit: int = 300) -> str:
    """A value as JSON, cut where it is long."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"
