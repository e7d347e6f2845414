"""The report as Markdown, for pull requests, issues and wikis."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpukm.reports.data import Report
from gpukm.reports.wording import count, number, ordinal_quantile, percent, separation, signed

#: Clusters and features with a line of their own.
LINES = 50
_TRAITS = 3
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$@:-])")


def render_markdown(report: Report) -> str:
    """Render the report as GitHub-flavoured Markdown; names are escaped."""
    r = report
    lines = [f"# {_escape(r.model)} \\#{r.number}", ""]
    sentence = f"{count(r.n_clusters)} clusters of {count(r.n_samples)} rows in {count(r.n_features)} features"
    if r.n_clusters > 1:
        sentence += (
            f"; they explain {percent(r.explained)} of the variance and are {separation(r.silhouette)} "
            f"(silhouette {r.silhouette:.2f})"
        )
    lines += [
        f"{sentence}.",
        "",
        f"Snapshot `{_code(r.id)}`. Inertia {number(r.inertia, 7)} after {r.n_iter} iterations: {r.stop}.",
        "",
    ]
    for notice in r.notices:
        lines.append(f"- **{notice.level}:** {_escape(notice.text)}")
    if r.notices:
        lines.append("")
    lines += ["## Clusters", ""]
    lines += _table(
        ["cluster", "rows", "share", "silhouette", "nearest", "what sets it apart"],
        [
            [
                str(c.index),
                count(c.count),
                percent(c.share),
                f"{c.silhouette:.2f}",
                "–" if c.neighbour is None else str(c.neighbour),
                ", ".join(
                    f"{_escape(t.feature)} {t.words} ({signed(t.z)}σ; {number(t.value)}, overall {number(t.overall)})"
                    for t in c.traits[:_TRAITS]
                )
                or ("no rows" if not c.count else "close to the average"),
            ]
            for c in r.clusters[:LINES]
        ],
        "rrrrrl",
    )
    if r.n_clusters > LINES:
        lines += ["", f"{count(r.n_clusters - LINES)} smaller clusters hold {count(sum(r.sizes[LINES:]))} rows."]
    lines += ["", "## Radii", ""]
    lines += _table(
        ["cluster", *(ordinal_quantile(q) for q in r.radius_levels), "nearest centroid"],
        [[str(c.index), *map(number, c.radii), number(c.neighbour_distance)] for c in r.clusters[:LINES]],
        "r" * (len(r.radius_levels) + 2),
    )
    lines += ["", "## Features", ""]
    lines += _table(
        ["feature", "variance between clusters", "share of all variance", "minimum", "mean", "maximum"],
        [
            [
                _escape(f.name),
                percent(f.explained),
                percent(f.variance_share),
                number(f.minimum),
                number(f.mean),
                number(f.maximum),
            ]
            for f in r.features[:LINES]
        ],
        "lrrrrr",
    )
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """A table."""
    rule = ["---:" if a == "r" else "---" for a in align]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def _escape(text: str) -> str:
    """Text that Markdown and HTML leave alone."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """Text between backticks."""
    return text.replace("`", "'")
