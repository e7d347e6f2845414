"""What is loaded when: next to nothing by ``import gpukm``, NumPy and little else by a fit of an array."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "cupy", "dask", "distributed", "numba", "sklearn", "pyarrow", "pandas", "scipy", "polars", "numpy"}
OUTER = {"pyarrow", "fsspec", "pydantic", "rich", "jinja2", "dask", "distributed", "sklearn", "pandas", "typer"}


def run(code: str) -> str:
    """Standard output of a Python of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_gpukm_loads_no_library() -> None:
    loaded = run("import sys, gpukm; print(*{m.split('.')[0] for m in sys.modules})").split()
    assert "gpukm" in loaded
    assert not HEAVY & set(loaded)


def test_the_estimator_loads_scikit_learn_and_no_more() -> None:
    loaded = run("import sys; from gpukm import KMeans; print(*{m.split('.')[0] for m in sys.modules})").split()
    assert "sklearn" in loaded
    assert not {"torch", "cupy", "dask", "distributed", "numba", "fsspec", "pydantic"} & set(loaded)


@pytest.mark.parametrize("source", ["x", "path"])
def test_the_engine_runs_without_the_outer_rooms(source: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "x.npy"
    out = run(
        f"import sys\nfor name in {sorted(OUTER)!r}: sys.modules[name] = None\n"
        f"import numpy as np\nfrom gpukm import assign, kmeans, minibatch_kmeans\npath = {str(path)!r}\n"
        "x = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)\nnp.save(path, x)\n"
        f"for init in ('k-means++', 'pooled', 'random'): result = kmeans({source}, 4, init=init)\n"
        f"result = minibatch_kmeans({source}, 4)\n"
        "assert (assign(x, result.centroids).labels == result.labels).all()\nprint(result.counts.sum())"
    )
    assert out.strip() == "500"
