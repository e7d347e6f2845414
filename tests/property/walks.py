"""Rows, and centroids that settle, jump, coincide and come back: what trackers must follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpukm.backends.base import Frame

SHAPES = ("cloud", "whole", "line", "skewed", "same", "islands", "offset", "tiny", "huge")
#: Only with more than one feature.
WIDE = ("flat", "mirrored")
STEPS = ("still", "creep", "nudge", "one", "jump", "leave", "swap", "copy", "row", "back")


@dataclass(frozen=True)
class Case:
    """Rows, and what their centroids do step by step."""

    shape: str
    steps: tuple[str, ...]
    n: int = 500
    d: int = 2
    k: int = 12
    dtype: Any = np.float32
    threads: int = 1
    seed: int = 0


def rows_of(case: Case, rng: np.random.Generator) -> np.ndarray:
    """Rows in float64, before they are rounded."""
    x = rng.normal(size=(case.n, case.d))
    if case.shape == "whole":  # ties everywhere
        x = np.rint(2 * x)
    elif case.shape == "line":
        x[:, 1:] = 0
    elif case.shape == "skewed":  # most rows share a value
        x = np.where(rng.uniform(size=x.shape) < 0.9, 0.0, np.exp(4 * x))
    elif case.shape == "same":
        x[:] = x[0]
    elif case.shape == "islands":
        x = 0.01 * x + rng.normal(size=(5, case.d))[rng.integers(0, 5, case.n)]
    elif case.shape == "offset":
        x += 1e6
    elif case.shape == "flat":  # a few directions hold all
        x = np.rint(8 * x[:, :1]) @ rng.normal(size=(1, case.d))
    elif case.shape == "mirrored":  # rows differ by signs of what the first directions leave out
        x = np.hstack([10 * x[:, :1], np.where(x[:, 1:] < 0, -1.0, 1.0)])
    return x * {"tiny": 1e-40 if case.dtype == np.float32 else 1e-160, "huge": 1e18}.get(case.shape, 1.0)


def walk(case: Case) -> tuple[np.ndarray, list[np.ndarray]]:
    """Rows, and the centroids of every step."""
    rng = np.random.default_rng(case.seed)
    x = rows_of(case, rng).astype(case.dtype)
    spread = float(np.abs(x - np.median(x, axis=0)).max()) or 1.0
    c = x[rng.integers(0, case.n, case.k)].astype(np.float64)
    path = [c.astype(case.dtype)]
    for step in case.steps:
        c, j = path[-1].astype(np.float64), rng.integers(0, case.k, 2)
        if step == "creep":
            c += 1e-6 * spread * rng.normal(size=c.shape)
        elif step == "nudge":
            c += 0.03 * spread * rng.normal(size=c.shape)
        elif step == "one":
            c[j[0]] += 0.1 * spread * rng.normal(size=case.d)
        elif step == "jump":
            c[j[0]] = x[rng.integers(0, case.n)]
        elif step == "leave":
            c[j[0]] += 100 * spread
        elif step == "swap":
            c[j] = c[j[::-1]]
        elif step == "copy":
            c[j[0]] = c[j[1]]
        elif step == "row":  # where rows are in the middle of two
            middle = x[rng.integers(0, case.n)].astype(np.float64)
            c[j[0]] = 2 * middle - c[j[1]]
        elif step == "back":
            c = path[0].astype(np.float64)
        path.append(c.astype(case.dtype))
    return x, path


def frame_of(x: np.ndarray) -> Frame:
    """The frame of a fit of these rows."""
    center = np.median(x, axis=0).astype(x.dtype).astype(np.float64)
    return Frame(center, float(np.abs(x - center).max()))
