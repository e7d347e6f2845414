"""Values whose squared distances float64 does not hold are refused, wherever they lie and however few they are."""

from __future__ import annotations

import numpy as np
import pytest

from gpukm.errors import DataError
from gpukm.functional import kmeans
from gpukm.minibatch import minibatch_kmeans
from tests.emulated import as_cupy  # noqa: F401


@pytest.mark.parametrize("backend", ["numpy", "auto", "cupy"])
@pytest.mark.parametrize(("n", "large"), [(20, 1), (1000, 1), (1000, 500), (1000, 1000)])
@pytest.mark.parametrize("factor", [1e141, 1e200, -1e300])
def test_large_values(as_cupy, backend, n, large, factor):  # noqa: F811
    x = np.random.default_rng(0).normal(size=(n, 4)) + 2
    x[-large:] *= factor
    for fit in (kmeans, minibatch_kmeans):
        with pytest.raises(DataError, match=r"values reach \S+; squared distances would overflow, so scale the data"):
            fit(x, 3, backend=backend)


def test_the_largest_that_are_taken():
    x = np.random.default_rng(0).normal(size=(1000, 4))
    x *= 1e140 / np.abs(x).max()
    assert np.isfinite(kmeans(x, 3, seed=0).inertia)
