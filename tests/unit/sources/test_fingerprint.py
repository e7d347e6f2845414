from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest

from gpukm.sources.fingerprint import RowDigest


def digest(x: np.ndarray, rows: np.ndarray | None = None) -> str:
    found = RowDigest()
    found.update(x, np.arange(len(x)) if rows is None else rows)
    return found.hexdigest()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("d", [1, 3, 17, 70_000])
def test_it_depends_on_rows_and_not_on_how_they_arrive(dtype: str, d: int) -> None:
    x = np.random.default_rng(d).standard_normal((12, d)).astype(dtype)
    order = np.array([5, 3, 11, 0, 8, 1, 2, 10, 4, 9, 7, 6])
    one, two = RowDigest(), RowDigest()
    one.update(x[order[:5]], order[:5])
    two.update(np.asfortranarray(x[order[5:]]), order[5:])
    two.update(x[:0], order[:0])
    one.merge(two)
    assert one.hexdigest() == digest(x)


def by_definition(x: np.ndarray) -> str:
    """The digest in Python's integers, value by value."""
    m = 2**64 - 1

    def mix(v: int) -> int:
        v = (v + 0x9E3779B97F4A7C15) & m
        v = (v ^ v >> 30) * 0xBF58476D1CE4E5B9 & m
        v = (v ^ v >> 27) * 0x94D049BB133111EB & m
        return v ^ v >> 31

    size, total = x.dtype.itemsize, 0
    for number, row in enumerate(x.tolist()):
        for lane in (0, 1):
            dot = 0
            for f, value in enumerate(row):
                (bits,) = struct.unpack("<Q" if size == 8 else "<I", struct.pack("<d" if size == 8 else "<f", value))
                dot += (bits ^ bits >> 4 * size) * (mix(2 * f + lane) | 1)
            total += mix((dot ^ mix(number) + 16 * len(row) + size + lane) & m) << 64 * lane
    return f"{total % 2**128:032x}{len(x):016x}"


def test_its_value_is_fixed() -> None:
    """Published snapshots hold digests: these must never change."""
    x = np.arange(12, dtype=np.float64).reshape(4, 3) / 3
    assert digest(x) == by_definition(x) == "c47d309452a604e9c8f919da224179060000000000000004"
    x = x.astype(np.float32)
    assert digest(x) == by_definition(x) == "88d78805c5a9928d73037118ffa4257c0000000000000004"


def test_every_small_change_shows() -> None:
    """Small whole numbers, whose patterns share their low bits, swapped, shifted or in another row."""
    seen: dict[str, tuple[object, ...]] = {}
    for values in itertools.product((0.0, 1.0, 2.0, 4.0), repeat=4):
        for first in (0, 1, 2**40):
            for dtype in (np.float32, np.float64):
                key = digest(np.array([values], dtype), np.array([first]))
                assert key not in seen, (values, first, dtype, seen[key])
                seen[key] = (values, first, dtype)
    # Each half alone tells the rows apart, too.
    for part in (slice(0, 16), slice(16, 32)):
        assert len({key[part] for key in seen}) == len(seen)


def test_the_width_counts() -> None:
    x = np.ones((2, 3))
    assert digest(x) != digest(np.hstack([x, np.zeros((2, 1))]))


def test_rows_exchanged_or_repeated_show() -> None:
    x = np.random.default_rng(0).standard_normal((5, 2))
    assert digest(x[::-1]) != digest(x)
    assert digest(np.vstack([x, x[:1]])) != digest(x)
    assert digest(x[:4]) != digest(x)


def test_zeros_of_both_signs_are_one_value() -> None:
    assert digest(np.array([[0.0, 1.0]])) == digest(np.array([[-0.0, 1.0]]))


def test_the_data_is_left_alone() -> None:
    x = np.array([[-0.0, 1.0]])
    x.flags.writeable = False
    digest(x)
    assert np.signbit(x[0, 0])
