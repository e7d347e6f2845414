"""A problem among many has the bits of a fit of its own, whatever solves it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gpukm_kernels import native_status

from gpukm import kmeans, kmeans_batched
from gpukm.sources.array import ArraySource

native = native_status()[0]
BACKENDS = ("numpy", "cpu") if native else ("numpy",)
K = 7


def hard(rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Data that spoils one step or another."""
    clouds = 3 * rng.normal(size=(K, 5))[rng.integers(0, K, 203)] + rng.normal(size=(203, 5))
    yield "clouds", clouds
    yield "many features", rng.normal(size=(90, 37))
    yield "one feature", rng.normal(size=(64, 1))
    yield "two features, off the panel", rng.normal(size=(33, 2))
    yield "sixteen features", rng.normal(size=(300, 16))
    yield "as many rows as clusters", rng.normal(size=(K, 3))
    yield "duplicates", rng.normal(size=(20, 4))[rng.integers(0, 20, 150)]
    yield "fewer distinct rows than clusters", rng.normal(size=(4, 4))[rng.integers(0, 4, 150)]
    yield "constant", np.full((50, 3), 2.5)
    yield "a constant column", np.column_stack([rng.normal(size=80), np.full(80, -1e-3)])
    yield "zeros and ones", (rng.normal(size=(200, 6)) > 0).astype(float)
    yield "ties on a lattice", np.stack(np.meshgrid(np.arange(9.0), np.arange(9.0)), -1).reshape(-1, 2)
    yield "offset of 1e6", clouds + 1e6
    yield "an outlier of 1e9", np.concatenate([clouds, np.full((1, 5), 1e9)])
    yield "lognormal", np.exp(3 * clouds)
    yield "huge", clouds * 1e30
    yield "tiny", clouds * 1e-30
    yield "negative zeros", np.where(rng.normal(size=(60, 4)) > 0, -0.0, clouds[:60, :4])
    yield "more rows than the head", rng.normal(size=(1100, 3))


def weights(rng: np.random.Generator, n: int, kind: str) -> np.ndarray | None:
    """Sample weights, or none."""
    if kind == "none":
        return None
    w = rng.uniform(0, 2, n)
    if kind == "zeros":
        w[rng.permutation(n)[: n - 5]] = 0
    if kind == "wide":
        w = np.ldexp(w, rng.integers(-60, 60, n).astype(np.int32))
    return w


def bits(result: Any) -> tuple[object, ...]:
    """All that a fit tells, but for how many rows screening left open."""
    arrays = (result.centroids, result.labels, result.counts, result.weights)
    return (
        *[(a.dtype.name, a.shape, a.tobytes()) for a in arrays],
        *[np.float64(v).tobytes() for v in (result.inertia, result.total_weight)],
        repr(result.history),
        (result.n_iter, result.stop, result.n_samples, result.n_init, result.best_init, result.n_scored),
        sorted(result.settings.items()),
        result.warnings,
    )


def compare(backend: str, metric: str, weight: str, dtype: type, inits: Any) -> None:
    """Every hard case among others, against the same alone."""
    rng = np.random.default_rng(3)
    for init, n_init in inits:
        for name, values in hard(rng):
            x = values.astype(dtype)
            if metric == "cosine" and (not x.any(axis=1).all() or name in ("huge", "tiny")):
                continue
            w = weights(rng, len(x), weight)
            settings: dict[str, Any] = {"init": init, "n_init": n_init, "metric": metric, "backend": backend}
            many = kmeans_batched([x[::-1], x], K, sample_weight=None if w is None else [w, w], seed=11, **settings)
            alone = kmeans(x, K, sample_weight=w, seed=int(many.seeds[1]), threads=1, watched=True, **settings)
            assert bits(many[1]) == bits(alone), (name, init)


@pytest.mark.skipif(not native, reason="needs the native kernels")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("weight", ["none", "plain", "zeros", "wide"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_problem_among_many_has_the_bits_of_one_alone(dtype: type, weight: str, metric: str) -> None:
    compare("cpu", metric, weight, dtype, (("k-means++", 1), ("random", 2)))


def test_on_the_numpy_backend_too() -> None:
    compare("numpy", "euclidean", "plain", np.float32, (("k-means++", 1),))


@pytest.mark.skipif(not native, reason="needs the native kernels")
def test_the_kernel_solves_every_hard_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """No case of this file may pass because the ordinary engine did the work."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a problem was left to the engine")

    monkeypatch.setattr("gpukm.batched.kmeans", refuse)
    rng = np.random.default_rng(3)
    for kind in ("none", "plain", "zeros", "wide"):
        for _, x in hard(rng):
            w = weights(rng, len(x), kind)
            kmeans_batched([x, x.astype(np.float32)[:0:-1].astype(float)], K - 1, backend="cpu",
                           sample_weight=None if w is None else [w, w[:0:-1]])  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_given_starts_that_leave_clusters_empty(dtype: type, backend: str) -> None:
    rng = np.random.default_rng(5)
    x = np.repeat(rng.normal(size=(40, 3)), 4, axis=0).astype(dtype)
    start = np.concatenate([x[:20:4], x[:4], 1e3 + rng.normal(size=(6, 3))]).astype(dtype)
    w = rng.uniform(0, 1, len(x)) * (rng.uniform(size=len(x)) > 0.3)
    for weight in (None, w):
        many = kmeans_batched(
            np.stack([x, x]), len(start), init=np.stack([start, start[::-1]]), backend=backend,
            sample_weight=None if weight is None else np.stack([weight, weight]),
        )  # fmt: skip
        assert many.history[0][0, 3] > 0
        for b, init in enumerate((start, start[::-1])):
            alone = kmeans(
                x, len(start), init=init, sample_weight=weight, seed=int(many.seeds[b]), threads=1, watched=True
            )
            assert bits(many[b]) == bits(alone)


@pytest.mark.parametrize("max_iter, tol", [(1, 1e-4), (5, 0.0), (300, 0.0), (300, 0.3)])
@pytest.mark.parametrize("k", [1, 2, 13, 130])
def test_any_number_of_clusters_and_every_reason_to_stop(k: int, max_iter: int, tol: float) -> None:
    x = np.random.default_rng(k).normal(size=(3, 400, 4)).astype(np.float32)
    many = kmeans_batched(x, k, max_iter=max_iter, tol=tol, seed=2**64 - 1)
    for b in range(3):
        alone = kmeans(x[b], k, max_iter=max_iter, tol=tol, seed=int(many.seeds[b]), threads=1, watched=True)
        assert bits(many[b]) == bits(alone)


@pytest.mark.skipif(not native, reason="needs the native kernels")
def test_a_long_fit_keeps_its_whole_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpukm.backends.cpu._HISTORY", 2)
    x = np.random.default_rng(0).normal(size=(4, 300, 3))
    many = kmeans_batched(x, 5, tol=0.0)
    assert many.n_iter.max() > 2
    for b in range(4):
        assert bits(many[b]) == bits(kmeans(x[b], 5, tol=0.0, seed=int(many.seeds[b]), threads=1, watched=True))


@pytest.mark.skipif(not native, reason="needs the native kernels")
def test_threads_and_neighbours_change_no_bit() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.normal(size=(n, 6)).astype(np.float32) for n in (9, 500, 40, 1000, 9, 77)]
    found = [
        [r.digest() for r in kmeans_batched(parts, 8, seed=np.arange(6), threads=threads)] for threads in (1, 2, 5)
    ]
    assert found[0] == found[1] == found[2]
    swapped = kmeans_batched(parts[::-1], 8, seed=np.arange(6)[::-1])
    assert [r.digest() for r in swapped][::-1] == found[0]


def test_the_hash_is_pinned() -> None:
    """The same on every machine that ever runs this."""
    x = np.random.default_rng(0).normal(size=(3, 100, 4)).astype(np.float32)
    assert [r.digest()[:16] for r in kmeans_batched(x, 5, seed=3)] == PINNED
    assert kmeans(ArraySource(x[0]), 5, seed=3).digest()[:16] == PINNED[0]


PINNED = ["9223412bab605892", "f79f915ee911cab7", "b2dc358fb73efacf"]
