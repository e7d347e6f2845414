"""Numbers in words."""

from __future__ import annotations

import math

import pytest

from gpukm.reports.wording import direction, number, percent, seconds, signed


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (-3.14159, "−3.142"),
        (1234567.0, "1,234,567"),
        (12345678901.0, "1.23e10"),
        (0.00001234, "1.23e−5"),
        (17.2, "17.2"),
        (10.0, "10"),
        (100.0, "100"),
        (math.nan, "–"),
        (None, "–"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers(value: float | None, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0, "0%"), (0.0001, "<0.1%"), (0.123, "12.3%"), (1, "100%"), (0.9999, ">99.9%"), (0.5, "50%")],
)
def test_percentages(share: float, expected: str) -> None:
    assert percent(share) == expected


def test_directions() -> None:
    assert [direction(z) for z in (-2.5, -1, -0.6, 0.2, 0.7, 1.96)] == [
        "much lower",
        "lower",
        "slightly lower",
        "about average",
        "slightly higher",
        "much higher",
    ]


def test_signs_and_durations() -> None:
    assert [signed(z) for z in (1.25, -0.04, -2)] == ["+1.2", "0.0", "−2.0"]
    assert seconds(1.5) == "1.5 s"
    assert seconds(3700) == "1:01:40"
