"""Drawing: escaped elements, scales and ticks. Colours come from the style sheet, by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """One element; children and attribute values are escaped unless they are Markup already.

    A trailing underscore of an attribute's name is dropped (``class_``) and others become dashes; None leaves an
    attribute out.
    """
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        if value is not None:
            shown = compact(value) if isinstance(value, float) else value
            parts.append(f' {name.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    inner = "".join(str(escape(child)) for child in children if child is not None)
    return Markup("".join([*parts, f">{inner}</{tag}>" if inner else "/>"]))


def compact(value: float) -> str:
    """A coordinate, to a tenth."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def drawing(width: float, height: float, label: str, *children: object) -> Markup:
    """A picture with a text for those who cannot see it; scales to the width it is given."""
    return element(
        "svg",
        element("title", label),
        *children,
        viewBox=f"0 0 {compact(width)} {compact(height)}",
        role="img",
        aria_label=label,
    )


def text(x: float, y: float, content: str, class_: str = "", anchor: str | None = None) -> Markup:
    """A line of text."""
    return element("text", content, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def path(points: Sequence[tuple[float, float]], class_: str, closed: bool = False) -> Markup:
    """A line through points."""
    steps = "L".join(f"{compact(x)} {compact(y)}" for x, y in points)
    return element("path", d=f"M{steps}{'Z' if closed else ''}", class_=class_)


@dataclass(frozen=True)
class Scale:
    """From values to coordinates, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Coordinate of a value; values outside are drawn at the border."""
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low) if high > low else 0.0
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values to mark."""
        if self.log:
            return self._log_ticks(about)
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        raw = span / about
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _log_ticks(self, about: int) -> list[float]:
        """Powers of ten, or 1-2-5 within few decades."""
        decades = math.log10(self.high / self.low)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        stride = max(1, math.ceil(decades / about))
        factors = (1, 2, 5) if decades < 2.5 else (1,)
        marks = [m * 10.0**p for p in range(first, last + 1, stride) for m in factors]
        return [m for m in marks if self.low * 0.999 <= m <= self.high * 1.001]
