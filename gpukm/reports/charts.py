"""The pictures of the HTML report."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from markupsafe import Markup

from gpukm.reports.data import Cluster, Feature, Report
from gpukm.reports.svg import Scale, drawing, element, line, path, text
from gpukm.reports.wording import count, number, ordinal_quantile, percent

#: Clusters in pictures that have a line for each.
LINES = 40
_WIDTH, _WIDE = 720.0, 1040.0
_COLUMNS = 60


def sizes(report: Report) -> Markup:
    """Rows per cluster, largest first: columns, or an outline where there are too many for columns."""
    left, right, top, bottom = 84.0, _WIDTH - 26, 22.0, 220.0
    values = report.sizes
    k, even = len(values), report.n_samples / len(values)
    largest = max(values[0], 1)
    log = largest > 50 * max(values[-1], 1) and k > 8
    low = 0.5 if log else 0.0
    y = Scale(low, largest * (1.35 if log else 1.06), bottom, top, log)
    marks: list[Markup] = _grid(y, left, right, count)
    step = (right - left) / k
    if k <= _COLUMNS:
        index = [c.index for c in report.clusters]
        gap = min(6.0, step * 0.22)
        for i, value in enumerate(values):
            x = left + i * step + gap / 2
            title = element("title", f"cluster {index[i]}: {count(value)} rows")
            height = bottom - y(max(value, low))
            marks.append(
                element(
                    "rect",
                    title,
                    x=x,
                    y=bottom - height,
                    width=step - gap,
                    height=max(height, 0.5),
                    rx=2.0,
                    class_="bar",
                )
            )
            if k <= 24:
                marks.append(text(x + (step - gap) / 2, bottom + 19, str(index[i]), "tick", "middle"))
        marks.append(text(right, bottom + 38, "cluster" if k <= 24 else "clusters, largest first", "tick", "end"))
    else:
        every = max(1, k // 300)
        outline = [(left + (i + 0.5) * step, y(max(values[i], low))) for i in [*range(0, k, every), k - 1]]
        marks.append(path([(left, bottom), (left, outline[0][1]), *outline, (right, bottom)], "area", closed=True))
        marks.append(path(outline, "curve"))
        places = Scale(1, k, left + step / 2, right - step / 2)
        marks += [text(places(t), bottom + 19, count(t), "tick", "middle") for t in places.ticks(6) if t >= 1]
        marks.append(text(right, bottom + 38, "rank by size", "tick", "end"))
    marks.append(line(left, y(max(even, low)), right, y(max(even, low)), "reference"))
    marks.append(text(right, y(max(even, low)) - 5, f"even share {count(even)}", "note", "end"))
    marks.append(line(left, bottom, right, bottom, "axis"))
    if log:
        marks.append(text(left, bottom + 38, "logarithmic scale", "tick"))
    label = f"Rows per cluster, from {count(values[0])} down to {count(values[-1])}" + (", logarithmic" if log else "")
    return drawing(_WIDTH, bottom + 44, label, *marks)


def radii(report: Report) -> Markup:
    """Per cluster: quantiles of the distance to its centroid, and where the nearest other cluster begins."""
    clusters = [c for c in report.clusters[:LINES] if c.count]
    left, right, top, pitch = 44.0, _WIDE - 14, 26.0, 22.0
    bottom = top + pitch * len(clusters)
    largest = max([c.radii[-1] for c in clusters] + [(c.neighbour_distance or 0.0) / 2 for c in clusters] + [0.0])
    typical = sorted(c.radii[1] for c in clusters)[len(clusters) // 2] if clusters else 0.0
    smallest = min((c.radii[0] for c in clusters if c.radii[0] > 0), default=1.0)
    log = typical > 0 and largest > 12 * typical
    low = min(smallest, typical) / 1.6 if log else 0.0
    x = Scale(low, largest * (1.15 if log else 1.02) or 1.0, left, right, log)
    marks: list[Markup] = []
    for tick in x.ticks(7):
        marks += [
            line(x(tick), top - 8, x(tick), bottom, "grid"),
            text(x(tick), top - 13, number(tick, 3), "tick", "middle"),
        ]
    for i, cluster in enumerate(clusters):
        y = top + pitch * (i + 0.5)
        median, ninety, _, ninety_nine, most = (x(max(r, low)) for r in cluster.radii)
        names = [f"{ordinal_quantile(q)} {number(r)}" for q, r in zip(report.radius_levels, cluster.radii, strict=True)]
        border = cluster.neighbour_distance
        about = f"cluster {cluster.index}: {', '.join(names)}"
        if border is not None:
            about += f"; half way to cluster {cluster.neighbour} {number(border / 2)}"
        marks.append(
            element(
                "g",
                element("title", about),
                text(left - 10, y + 4, str(cluster.index), "rowname", "end"),
                element("rect", x=left, y=y - pitch / 2, width=right - left, height=pitch, class_="hit"),
                line(left, y, most, y, "whisker"),
                element("rect", x=left, y=y - 3, width=max(ninety_nine - left, 0.5), height=6.0, rx=1.0, class_="r99"),
                element("rect", x=left, y=y - 5, width=max(ninety - left, 0.5), height=10.0, rx=1.5, class_="r90"),
                element("rect", x=left, y=y - 7, width=max(median - left, 0.5), height=14.0, rx=2.0, class_="r50"),
                element("circle", cx=most, cy=y, r=2.5, class_="most"),
                None if border is None else _diamond(x(max(border / 2, low)), y),
            )
        )
    marks.append(line(left, top - 8, left, bottom, "axis"))
    label = "Radii of clusters and half the distance to the nearest other centroid" + (", logarithmic" if log else "")
    if log:
        marks.append(text(right, bottom + 16, "logarithmic scale", "tick", "end"))
    return drawing(_WIDE, bottom + (22 if log else 6), label, *marks)


def inertia(report: Report) -> Markup:
    """Inertia against iterations."""
    left, right, top, bottom = 84.0, _WIDTH - 26, 22.0, 220.0
    history = report.history
    values = [h.inertia for h in history if math.isfinite(h.inertia)]
    if not values:
        return Markup("")
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    first, last = history[0].iteration, history[-1].iteration
    x, y = Scale(first, max(last, first + 1), left + 8, right), Scale(max(0.0, low - room), high + room, bottom, top)
    marks = _grid(y, left, right, lambda v: number(v, 3))
    ticks = [t for t in x.ticks(8) if t == round(t)]
    marks += [text(x(t), bottom + 19, count(t), "tick", "middle") for t in ticks]
    every = max(1, len(history) // 400)
    kept = [h for i, h in enumerate(history) if i % every == 0 or i == len(history) - 1]
    points = [(x(h.iteration), y(h.inertia)) for h in kept]
    marks.append(path([(points[0][0], bottom), *points, (points[-1][0], bottom)], "area", closed=True))
    marks.append(path(points, "curve"))
    if len(kept) <= 60:
        for h, (px, py) in zip(kept, points, strict=True):
            about = element("title", f"iteration {h.iteration}: {number(h.inertia, 6)}")
            marks.append(element("circle", about, cx=px, cy=py, r=3.0, class_="dot"))
    marks.append(line(left, bottom, right, bottom, "axis"))
    marks.append(text(right, bottom + 38, "iteration", "tick", "end"))
    label = f"Inertia per iteration, from {number(values[0])} to {number(values[-1])} in {len(history)} iterations"
    return drawing(_WIDTH, bottom + 44, label, *marks)


def profile(feature: Feature) -> Markup:
    """A feature's distribution: density over bins of about equal counts, tails cut to be legible."""
    width, height = 150.0, 30.0
    edges = list(feature.edges)
    rows = sum(feature.bins) or 1
    if not edges:
        return drawing(width, height, f"{feature.name}: one value", line(0, height - 1, width, height - 1, "axis"))
    low, high = feature.span
    inner = edges[-1] - edges[0]
    left = max(low, edges[0] - 0.35 * inner) if inner > 0 else low
    right = min(high, edges[-1] + 0.35 * inner) if inner > 0 else high
    if right <= left:
        left, right = low, high
    borders = [min(left, edges[0]), *edges, max(right, edges[-1])]
    x = Scale(borders[0], borders[-1], 0.0, width)
    shares = [n / rows for n in feature.bins[: len(edges) + 1]]
    widths = [max(x(b) - x(a), width / 60) for a, b in itertools.pairwise(borders)]
    density = [s / w for s, w in zip(shares, widths, strict=True)]
    # A spike of one repeated value must not flatten all the rest.
    top = min(max(density), 4 * sorted(density)[len(density) // 2]) or 1.0
    marks = [
        element(
            "rect",
            x=min(x(a), width - w),
            y=height - 1 - min(d / top, 1.0) * (height - 2),
            width=w,
            height=max(min(d / top, 1.0) * (height - 2), 0.4),
            class_="bar",
        )
        for a, w, d in zip(borders, widths, density, strict=False)
    ]
    label = f"Distribution of {feature.name}: half of the rows below {number(edges[len(edges) // 2])} as clustered"
    return drawing(width, height, label, *marks)


def share_bar(share: float, largest: float) -> Markup:
    """A bar for a table cell."""
    width = 100.0 * share / largest if largest > 0 else 0.0
    title = element("title", percent(share))
    bar = element(
        "rect", title, x=0.0, y=0.0, width=max(width, 0.6 if share > 0 else 0.0), height=10.0, rx=1.5, class_="bar"
    )
    return element("svg", bar, viewBox="0 0 100 10", preserveAspectRatio="none", class_="cellbar", aria_hidden="true")


def neighbour_text(cluster: Cluster) -> str:
    """The nearest other cluster in words."""
    if cluster.neighbour is None:
        return "–"
    return f"{cluster.neighbour} at {number(cluster.neighbour_distance)}"


def _grid(y: Scale, left: float, right: float, name: Callable[[float], str]) -> list[Markup]:
    """Horizontal lines with their values."""
    marks: list[Markup] = []
    for tick in y.ticks(5):
        marks += [line(left, y(tick), right, y(tick), "grid"), text(left - 8, y(tick) + 4, name(tick), "tick", "end")]
    return marks


def _diamond(x: float, y: float) -> Markup:
    """A mark of its own shape, so that colour is not all that tells it apart."""
    return path([(x, y - 5.5), (x + 5.5, y), (x, y + 5.5), (x - 5.5, y)], "border", closed=True)
