"""Snapshots to report on, small and hostile, large, and odd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

EVIL = '<script>alert("x")</script>&|`'


def make_snapshot(
    k: int = 4,
    names: Sequence[str] = ("dep_delay", "distance", "hour"),
    counts: np.ndarray | None = None,
    model: str = "flights",
    scale: float = 1.0,
    offset: float = 0.0,
) -> SimpleNamespace:
    """What a store would load: plain numbers, of shapes and names as the statistics pass gives them."""
    rng = np.random.default_rng(3)
    d = len(names)
    centroids = rng.normal(size=(k, d)).astype(np.float32)
    counts = rng.integers(5, 500, k) if counts is None else np.asarray(counts)
    weights = counts.astype(np.float64)
    mean = (weights[:, None] * centroids).sum(axis=0) / weights.sum()
    within = np.full((k, d), 0.25)
    between = (weights[:, None] * (centroids - mean) ** 2).sum(axis=0) / weights.sum()
    edges = np.sort(rng.normal(size=(d, 19)), axis=1)
    radius = np.sort(rng.uniform(0.1, 3, (k, 5)), axis=1) * (counts > 0)[:, None]
    fitted = SimpleNamespace(feature_names=tuple(names), input_names=tuple(names), inverse=lambda x: x * scale + offset)
    return SimpleNamespace(
        centroids=centroids,
        tensors={
            "counts": counts,
            "weights": weights,
            "inertia": weights * 0.25 * d,
            "silhouette": np.where(counts > 0, 0.6, 0.0),
            "radius_quantiles": radius,
            "mean": mean,
            "variance": between + 0.25,
            "minimum": centroids.min(axis=0) - 2.0,
            "maximum": centroids.max(axis=0) + 2.0,
            "cluster_variance": within,
            "histogram_edges": edges,
            "histogram": rng.integers(0, 50, (d, 20)),
        },
        settings={"n_clusters": k, "metric": "euclidean", "seed": 0},
        data={"n_rows": int(counts.sum()), "n_samples": int(counts.sum()), "total_weight": float(counts.sum())},
        preprocessing={"format": 1},
        fitted=fitted,
        result={
            "inertia": float(weights.sum() * 0.25 * d),
            "n_iter": 3,
            "stop": "converged",
            "n_init": 1,
            "warnings": [],
            "notes": [],
            "history": [{"iteration": i, "inertia": 100.0 / i, "shift": 1.0 / i, "n_empty": 0} for i in range(1, 4)],
        },
        model=model,
        number=7,
        id="ab" * 32,
        provenance={"source": "flights.parquet", "seconds": {"fit": 1.5}, "empty": None},
    )


@pytest.fixture
def snapshot() -> Callable[..., Any]:
    """Maker of snapshots."""
    return make_snapshot


@pytest.fixture
def hostile() -> SimpleNamespace:
    """A snapshot whose every name tries to be markup."""
    made = make_snapshot(names=(EVIL, "a|b", "x\x1b[31m\n# y"), model=EVIL)
    made.provenance = {EVIL: EVIL, "source": f"/data/{EVIL}"}
    made.settings = {**made.settings, EVIL: [EVIL]}
    made.result["warnings"] = [f"column {EVIL} is constant"]
    made.result["notes"] = [EVIL]
    return made
