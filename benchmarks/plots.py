"""Figures in one style: lines on quiet axes, gpukm heavier, one legend below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

#: Okabe and Ito's colours, which most colour-blind readers tell apart.
STYLES = {
    "gpukm": ("#D55E00", "o"),
    "scikit-learn": ("#0072B2", "s"),
    "intelex": ("#56B4E9", "D"),
    "faiss": ("#009E73", "^"),
    "superkmeans": ("#CC79A7", "v"),
    "superkmeans-hierarchical": ("#8C5FA8", "P"),
    "gpukm-seeded": ("#A33B00", "*"),
    "gpukm-mini-batch": ("#E69F00", "o"),
    "gpukm-seeded-mini-batch": ("#B8860B", "*"),
    "mini-batch": ("#7F7F7F", "X"),
    "ceiling": ("#000000", ""),
    "rows": ("#D55E00", "o"),
    "sums": ("#0072B2", "s"),
    "centroids": ("#009E73", "^"),
    "scheduler": ("#7F7F7F", "X"),
}
_INK = "#333333"
mpl.rcParams.update(
    {
        "font.size": 9,
        "axes.edgecolor": "#999999",
        "axes.labelcolor": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.titlecolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "grid.color": "#E6E6E6",
        "grid.linewidth": 0.8,
        "svg.hashsalt": "gpukm",
    }
)


def panels(titles: Sequence[str], columns: int = 2) -> tuple[Figure, list[Axes]]:
    """A figure with one titled panel each, empty places taken away."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.3 * rows + 0.6), squeeze=False)
    axes = list(grid.flat)
    for axis in axes[len(titles) :]:
        axis.remove()
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title)
        axis.grid(True, which="major")
        axis.set_axisbelow(True)
    return figure, axes[: len(titles)]


def line(axis: Axes, name: str, points: Mapping[float, float]) -> None:
    """The line of one contender, in its style, with a mark at each measurement."""
    colour, marker = STYLES[name]
    ours, ceiling = name == "gpukm", name == "ceiling"
    axis.plot(
        list(points),
        list(points.values()),
        label="multiply-add loop" if ceiling else name,
        color=colour,
        marker=marker,
        linestyle="--" if ceiling else "-",
        linewidth=2.2 if ours else 1.3,
        markersize=5 if ours else 4,
        zorder=3 if ours else 2,
    )


def logarithmic(axis: Axes, which: str, unit: str = "", at: Sequence[float] = ()) -> None:
    """A logarithmic axis with plain numbers where told, or at powers of ten and, where these are few, between."""
    getattr(axis, f"set_{which}scale")("log")
    low, high = getattr(axis, f"get_{which}lim")()
    if not at:
        powers = [10.0**i for i in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
        fine = [digit * power for power in powers for digit in (1, 2, 5)]
        inside = [[tick for tick in ticks if low <= tick <= high] for ticks in (powers, fine)]
        at = inside[0] if len(inside[0]) >= 4 else inside[1]
        if len(at) < 3:
            at = [tick for power in powers for digit in range(1, 10) if low <= (tick := digit * power) <= high]
    ticks = getattr(axis, f"{which}axis")
    ticks.set_major_locator(FixedLocator(list(at)))
    ticks.set_minor_locator(NullLocator())
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{_plain(value)}{unit}"))


def finish(figure: Figure, axes: Sequence[Axes], path: Path) -> list[Path]:
    """Put one legend below all panels and write SVG and PNG beside the result; returns what was written."""
    found = {text: handle for axis in axes for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.tight_layout(rect=(0, 0.45 / figure.get_figheight(), 1, 1))
    columns = min(4, len(found))
    figure.legend(list(found.values()), list(found), loc="lower center", ncol=columns, frameon=False)
    paths = [path.with_suffix(suffix) for suffix in (".svg", ".png")]
    for each in paths:
        figure.savefig(each, dpi=150, metadata={"Date": None} if each.suffix == ".svg" else None)
    plt.close(figure)
    return paths


def _plain(value: float) -> str:
    """20,000 as 20k, and no more digits than it takes."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size and value % (size / 10) == 0:
            return f"{value / size:g}{letter}"
    if value >= 1000:
        return f"{value:,.0f}"
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")
