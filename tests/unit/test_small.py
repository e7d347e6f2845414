"""Small problems in memory are solved in one call: which, and that nobody can tell but by the time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gpukm_kernels import native_status
from scipy import sparse

from gpukm import KMeans, kmeans
from gpukm.backends.cpu import CpuBackend
from gpukm.errors import ConfigError, DataError

pytestmark = pytest.mark.skipif(not native_status()[0], reason="the native kernels do not run here")
X = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each problem that was solved in one call."""
    sizes: list[int] = []
    solve = CpuBackend.solve

    def noted(self: CpuBackend, problems: Any, chosen: Any, fits: Any) -> Any:
        sizes.append(len(problems.x))
        return solve(self, problems, chosen, fits)

    monkeypatch.setattr(CpuBackend, "solve", noted)
    return sizes


def whole(found: Any) -> tuple[Any, ...]:
    """All that a result holds, but how many rows screening left to D."""
    arrays = [getattr(found, name).tobytes() for name in ("centroids", "labels", "counts", "weights")]
    return *arrays, replace(found, centroids=None, labels=None, counts=None, weights=None, n_rechecked=0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"init": X[:7], "tol": 0},
        {"init": "auto", "seed": 3},
        {"init": "random", "n_init": 4, "max_iter": 5},
        {"metric": "cosine"},
        {"sample_weight": np.arange(300) % 3},
    ],
)
def test_the_result_is_that_of_the_ordinary_engine(settings: dict[str, Any], solved: list[int]) -> None:
    x = X.copy()
    x[:, 3] = 0  # a warning
    found = kmeans(x, 7, **settings)
    assert solved == [300] and found.warnings
    assert whole(found) == whole(kmeans(x, 7, watched=True, **settings))
    assert solved == [300]


def test_estimators_take_the_same_way_unless_they_print(solved: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    quiet = KMeans(7, random_state=0).fit(X)
    assert solved == [300]
    loud = KMeans(7, random_state=0, verbose=1).fit(X)
    assert solved == [300] and "Iteration 1" in capsys.readouterr().out
    assert quiet.cluster_centers_.tobytes() == loud.cluster_centers_.tobytes()


@pytest.mark.parametrize(
    ("x", "settings"),
    [
        (X, {"quality": "best"}),
        (X, {"init": "pooled"}),
        (X, {"init": lambda x, k, random_state: x[:k]}),
        (X, {"backend": "numpy"}),
        (np.repeat(X, 1000, axis=0), {"max_iter": 1}),
        (sparse.csr_matrix(X), {}),
    ],
)
def test_what_goes_through_the_ordinary_engine(x: Any, settings: dict[str, Any], solved: list[int]) -> None:
    assert len(kmeans(x, 7, **settings).counts) == 7 and solved == []


def test_bad_input_gets_the_errors_of_the_ordinary_engine() -> None:
    bad = X.copy()
    bad[4, 2] = np.nan
    for x, settings, error, words in (
        (bad, {}, DataError, "row 4"),
        (X[:5], {}, DataError, "n_samples=5"),
        (X, {"sample_weight": np.zeros(300)}, DataError, "weights are zero"),
        (X * np.float64(1e150), {}, DataError, "overflow"),
        (X, {"init": X[:3]}, ConfigError, "initial centers"),
        (X, {"init": "best"}, ConfigError, "init is 'best'"),
        (X, {"batch_size": 0}, ConfigError, "batch_size"),
        (X, {"memory_limit": "much"}, ConfigError, "memory"),
    ):
        with pytest.raises(error, match=words):
            kmeans(x, 7, **settings)
