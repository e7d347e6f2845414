"""How much of the labelling is avoided, and how that is told."""

from __future__ import annotations

import numpy as np
import pytest
from gpukm_kernels import native_status

from gpukm.backends.base import Effort
from gpukm.functional import fit_iter


def efforts(backend: str) -> list[Effort]:
    rng = np.random.default_rng(0)
    centers = 20 * rng.normal(size=(150, 12))
    x = (centers[rng.integers(0, 150, 6000)] + rng.normal(size=(6000, 12))).astype(np.float32)
    steps = fit_iter(x, 150, init=x[:150], tol=0, max_iter=40, backend=backend, n_shards=2)
    return [step.state.effort for step in steps]


@pytest.mark.skipif(not native_status()[0], reason="the native kernels are not installed")
def test_bounds_are_followed_once_little_moves() -> None:
    found = efforts("cpu")
    last = found[-1]
    assert last.plans == {"follow"} and last.n_scored < 0.05 * last.n_pairs
    assert found[0].n_scored == found[0].n_pairs and "scored" in str(last) and "following bounds" in str(last)


def test_a_backend_without_bounds_says_so() -> None:
    assert {str(effort) for effort in efforts("numpy")} == {"without bounds, 100.0% scored"}


def test_parts_are_put_together() -> None:
    both = Effort(frozenset(["plain"]), 100, 100).merge(Effort(frozenset(["follow"]), 0, 300, 16))
    assert both == Effort(frozenset(["plain", "follow"]), 100, 400, 16)
    assert str(both) == "following bounds and without bounds, 25.0% scored, 16 centroids apart"
