"""A worker for each GPU of this machine: the bits of one process on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpukm import assign, kmeans

pytest.importorskip("dask_cuda")
distributed = pytest.importorskip("distributed")
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]
K = 20


def rows(n: int = 20_000, d: int = 24) -> np.ndarray:
    """Overlapping groups."""
    rng = np.random.default_rng(5)
    return (rng.normal(size=(n, d)) + 3 * rng.integers(0, 3, size=(n, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    from gpukm_kernels import cuda_devices

    from gpukm.executors.dask.clusters import open_cluster

    if not cuda_devices():
        pytest.skip("there is no CUDA device")
    with open_cluster("cuda") as client:
        yield client


@pytest.mark.parametrize(
    "settings",
    [{}, {"init": "random", "n_init": 1}, {"metric": "cosine"}, {"quality": "best", "max_iter": 5}],
    ids=str,
)
def test_bits(client: Any, tmp_path: Path, settings: dict[str, Any]) -> None:
    np.save(tmp_path / "rows.npy", rows())
    path = str(tmp_path / "rows.npy")
    alone = kmeans(path, K, device="cpu", **settings)
    there = kmeans(path, K, device="cuda", executor=client, **settings)
    assert there.backend in ("torch", "cupy")
    assert there.digest() == alone.digest()
    found = assign(path, there.centroids, device="cuda", executor=client, metric=settings.get("metric", "euclidean"))
    assert found.labels.tobytes() == alone.labels.tobytes()
