"""The report for a terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from gpukm.reports.data import Cluster, Report
from gpukm.reports.wording import count, number, percent, separation, signed

if TYPE_CHECKING:
    from rich.text import Text

#: Clusters with a line of their own.
LINES = 30
_TRAITS = 3
_BLOCKS = "▁▂▃▄▅▆▇█"
_PARTS = " ▏▎▍▌▋▊▉█"


def render_terminal(report: Report, *, width: int = 100, color: bool = False) -> str:
    """Render the report as lines of text.

    Parameters
    ----------
    report : Report
    width : int
        Columns to use.
    color : bool
        Whether to use ANSI colours; the text says the same without them.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    console.print(_headline(report))
    console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("cluster", justify="right", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("share", no_wrap=True)
    table.add_column("radius", justify="right", no_wrap=True)
    table.add_column("silhouette", justify="right", no_wrap=True)
    table.add_column("what sets it apart", overflow="fold")
    largest = report.clusters[0].share if report.clusters else 0.0
    for c in report.clusters[:LINES]:
        bar = Text.assemble((_bar(c.share / largest if largest else 0.0), "blue"), f" {percent(c.share):>5}")
        table.add_row(
            Text(str(c.index), "bold"), count(c.count), bar, number(c.radii[0], 3), f"{c.silhouette:.2f}", _traits(c)
        )
    console.print(table)
    if report.n_clusters > LINES:
        rest = sum(report.sizes[LINES:])
        console.print(Text(f"and {count(report.n_clusters - LINES)} smaller clusters with {count(rest)} rows", "dim"))
    if report.history:
        console.print()
        console.print(_history(report))
    for notice in report.notices:
        style = "yellow" if notice.level == "warning" else "dim"
        console.print(Text.assemble((f"{notice.level}: ", style), _clean(notice.text)))
    file = console.file
    assert isinstance(file, io.StringIO)
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip("\n").split("\n"))


def _headline(report: Report) -> Text:
    """The result in two lines."""
    from rich.text import Text

    head = Text.assemble((_clean(report.model), "bold"), f" #{report.number}  ", (report.id[:12], "dim"), "\n")
    head.append(
        f"{count(report.n_clusters)} clusters of {count(report.n_samples)} rows in {count(report.n_features)} features"
    )
    if report.n_clusters > 1:
        head.append(f"; {percent(report.explained)} of the variance explained, ")
        head.append(f"silhouette {report.silhouette:.2f} ({separation(report.silhouette)})")
    return head


def _traits(cluster: Cluster) -> Text:
    """What sets a cluster apart, as arrows."""
    from rich.text import Text

    if not cluster.traits:
        return Text("no rows" if not cluster.count else "close to the average", "dim")
    text = Text()
    for i, t in enumerate(cluster.traits[:_TRAITS]):
        arrow, style = ("▲", "red") if t.z > 0 else ("▼", "blue")
        text.append("  " if i else "")
        text.append(f"{arrow} ", style)
        text.append(f"{_clean(t.feature)} {signed(t.z)}σ")
    return text


def _history(report: Report) -> Text:
    """Inertia as a line of blocks."""
    from rich.text import Text

    values = [h.inertia for h in report.history]
    every = -(-len(values) // 40)
    shown = values[::every]
    low, high = min(shown), max(shown)
    blocks = "".join(_BLOCKS[round(7 * (v - low) / (high - low)) if high > low else 0] for v in shown)
    return Text.assemble(
        "inertia ", (blocks, "blue"), f" {number(report.inertia, 6)} after {report.n_iter} iterations: {report.stop}"
    )


def _bar(share: float, width: int = 12) -> str:
    """A bar in eighths of a column."""
    eighths = max(1, round(share * width * 8)) if share > 0 else 0
    full, part = divmod(eighths, 8)
    return ("█" * full + (_PARTS[part] if part else "")).ljust(width)


def _clean(text: str) -> str:
    """Text without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else "�" for c in text)
