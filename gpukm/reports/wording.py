"""Numbers and differences in words, the same in every format."""

from __future__ import annotations

import math
from datetime import timedelta

#: Standard deviations below which a difference is not worth a word.
NOTABLE = 0.5


def count(value: float) -> str:
    """A whole number with thousands separated."""
    return f"{value:,.0f}"


def number(value: float | None, digits: int = 4) -> str:
    """A number for reading: few digits, thousands separated, an exponent only where it is shorter."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    magnitude = abs(value)
    if magnitude == 0:
        return "0"
    if magnitude >= 1e7 or magnitude < 1e-4:
        mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
        return _minus(f"{mantissa}e{int(exponent)}")
    places = max(0, digits - 1 - math.floor(math.log10(magnitude)))
    text = f"{value:,.{min(places, 6)}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return _minus(text)


def percent(share: float) -> str:
    """A share as a percentage, with a decimal where it matters."""
    value = 100 * share
    if 0 < value < 0.1:
        return "<0.1%"
    if 99.9 < value < 100:
        return ">99.9%"
    return f"{value:.1f}%" if value != round(value) else f"{value:.0f}%"


def signed(z: float, places: int = 1) -> str:
    """A standardised difference with its sign."""
    text = f"{abs(z):.{places}f}"
    if float(text) == 0:
        return text
    return ("+" if z > 0 else "−") + text


def direction(z: float) -> str:
    """Words for a standardised difference; thresholds 0.5, 1 and 2."""
    z = round(z, 1)  # as it is shown
    if abs(z) < NOTABLE:
        return "about average"
    side = "higher" if z > 0 else "lower"
    return f"much {side}" if abs(z) >= 2 else side if abs(z) >= 1 else f"slightly {side}"


def separation(silhouette: float) -> str:
    """Words for a simplified silhouette, after Kaufman and Rousseeuw (1990)."""
    if silhouette > 0.7:
        return "strongly separated"
    if silhouette > 0.5:
        return "reasonably separated"
    return "weakly separated" if silhouette > 0.25 else "overlapping"


def seconds(value: float) -> str:
    """A duration."""
    if value < 60:
        return f"{number(value, 3)} s"
    return str(timedelta(seconds=round(value)))


def ordinal_quantile(level: float) -> str:
    """Name of a radius quantile."""
    return {0.5: "median", 1.0: "maximum"}.get(level, f"{100 * level:g}%")


def _minus(text: str) -> str:
    """A typographic minus sign."""
    return text.replace("-", "−")
