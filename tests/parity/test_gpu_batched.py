"""Many problems in one launch have the bits of fits of their own, from a kernel that tests/emulator.py runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from gpukm import kmeans, kmeans_batched
from gpukm.backends import gpu_batch
from gpukm.backends.batch import Fits, Problems
from gpukm.backends.gpu import GpuBackend
from gpukm.core.seeding import trials
from gpukm.errors import DataError
from tests.emulated import as_cupy  # noqa: F401
from tests.parity.test_batched_bits import K, bits, hard, weights

Check = Callable[..., Any]


@pytest.fixture
def check(as_cupy: GpuBackend, monkeypatch: pytest.MonkeyPatch) -> Check:  # noqa: F811
    """Fit problems by the kernel alone, and compare each with the reference."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a problem was left to the engine")

    def compare(
        parts: Sequence[np.ndarray],
        k: int,
        weight: Sequence[np.ndarray] | None = None,
        init: Any = "auto",
        **rules: Any,
    ) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr("gpukm.batched.kmeans", refuse)
            many = kmeans_batched(list(parts), k, sample_weight=weight, init=init, backend="cupy", **rules)
        rules.pop("seed", None)
        for b, x in enumerate(parts):
            start = init[b] if isinstance(init, np.ndarray) else init
            w, seed = None if weight is None else weight[b], int(many.seeds[b])
            alone = kmeans(x, k, init=start, sample_weight=w, seed=seed, backend="numpy", watched=True, **rules)
            assert bits(many[b]) == bits(alone), b
        return many

    return compare


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("weight", ["none", "plain", "zeros", "wide"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hard_cases(check: Check, dtype: type, weight: str, metric: str) -> None:
    rng = np.random.default_rng(3)
    for name, values in hard(rng):
        x = values.astype(dtype)
        if metric == "cosine" and (not x.any(axis=1).all() or name in ("huge", "tiny")):
            continue
        w = weights(rng, len(x), weight)
        # Ragged, the larger not first.
        parts, ws = (x[: -len(x) // 3], x), None if w is None else (w[: -len(w) // 3], w)
        if min(len(part) for part in parts) < K or (ws and not all(v.any() for v in ws)):
            parts, ws = parts[1:], ws and ws[1:]
        check(parts, K, ws, "k-means++", metric=metric, seed=11)
        check(parts, K, ws, "random", n_init=2, metric=metric, seed=11)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_given_starts_that_leave_clusters_empty(check: Check, dtype: type, metric: str) -> None:
    rng = np.random.default_rng(5)
    x = np.repeat(rng.normal(size=(40, 3)), 4, axis=0).astype(dtype)
    start = np.concatenate([x[:20:4], x[:4], 1e3 + rng.normal(size=(6, 3))]).astype(dtype)
    w = rng.uniform(0, 1, len(x)) * (rng.uniform(size=len(x)) > 0.3)
    # The larger comes second.
    for weight in (None, [w[8:], w[::-1]]):
        many = check([x[8:], x], len(start), weight, np.stack([start, start[::-1]]), metric=metric)
        assert min(history[0, 3] for history in many.history) > 0


def test_directions_that_cancel_leave_a_cluster_empty(check: Check) -> None:
    x = np.array([[1, 0, 0], [-1, 0, 0], [0, 0, -1], [0, 0.6, -0.8], [0, -0.6, -0.8]])
    many = check([x], 2, init=np.array([[[0, 0, 1.0], [0, 0, -1.0]]]), metric="cosine")
    assert many.history[0][0, 3] == 1


def test_scores_settle_rows_that_lie_clearly(check: Check) -> None:
    rng = np.random.default_rng(0)
    x = (10 * np.eye(6)[rng.integers(0, 6, 200)] + rng.normal(size=(200, 6))).astype(np.float32)
    assert check([x], 6, init=(10 * np.eye(6, dtype=np.float32))[None]).n_rechecked.tolist() == [0]


def test_clusters_that_lose_all_rows_on_the_way(check: Check) -> None:
    rng = np.random.default_rng(0)
    x, start = [], []
    for _ in range(32):
        part = np.concatenate([rng.normal(size=(40, 1)), 3 + rng.normal(size=(4, 1))]).astype(np.float32)
        x.append(part)
        start.append(part[rng.integers(0, 44, 20)] + rng.normal(size=(20, 1)).astype(np.float32))
    many = check(x, 20, init=np.stack(start))
    assert any(history[2:, 3].any() for history in many.history)


@pytest.mark.parametrize(
    "max_iter, tol, stop", [(1, 1e-4, "MAX_ITER"), (300, 0.0, "CONVERGED"), (300, 0.3, "TOLERANCE")]
)
@pytest.mark.parametrize("k", [1, 2, 13, 130])
def test_any_number_of_clusters_and_every_reason_to_stop(
    check: Check, k: int, max_iter: int, tol: float, stop: str
) -> None:
    x = np.random.default_rng(k).normal(size=(3, 160, 4)).astype(np.float32)
    many = check(x, k, init="k-means++", max_iter=max_iter, tol=tol, seed=2**64 - 1)
    assert stop in [found.name for found in many.stop] or (k in (1, 130) and stop == "TOLERANCE")


def test_without_a_tolerance_a_shift_that_underflows_is_no_end(check: Check) -> None:
    x = 1e-170 * np.random.default_rng(0).normal(size=(1, 40, 2))
    many = check(x, 3, tol=0.0)
    assert many.history[0][0, 1] == 0 and many.n_iter[0] > 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_centroids_that_shared_memory_does_not_hold_at_once(
    check: Check, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(2).integers(-2, 3, size=(2, 130, 3)).astype(dtype)
    monkeypatch.setattr(gpu_batch, "_TILE_BYTES", 5 * 3 * x.itemsize)
    check(x, 17, n_init=2, init="random")


def test_the_best_of_several_starts(check: Check) -> None:
    x = np.random.default_rng(6).normal(size=(6, 70, 2))
    assert len(set(check(x, 5, n_init=6, init="k-means++").best_init.tolist())) > 2


def test_a_long_fit_keeps_its_whole_history(
    check: Check, as_cupy: GpuBackend, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr(gpu_batch, "_HISTORY", 4)
    x = np.random.default_rng(0).normal(size=(4, 120, 3))
    assert check(x, 5, tol=0.0).n_iter.max() > 4
    assert as_cupy.device.launched["batch.solve"] == 2


def test_as_many_problems_at_a_time_as_there_is_memory_for(check: Check, as_cupy: GpuBackend) -> None:  # noqa: F811
    x = [
        part.astype(np.float32)
        for part in np.split(np.random.default_rng(1).normal(size=(400, 3)), [90, 130, 260, 330])
    ]
    together = [r.digest() for r in check(x, 4)]
    assert as_cupy.device.launched["batch.solve"] == 1
    as_cupy.device.free = 2 * int(gpu_batch._bytes(np.array([130]), 3, 4, 4, 128)[0])
    assert [r.digest() for r in check(x, 4)] == together
    assert as_cupy.device.launched["batch.solve"] == 1 + 3


@pytest.mark.parametrize("rest", [[], [2.0**-53], [2.0**-53, 2.0**-53, 2.0**-53], [2.0**-53, 2.0**-200], [2.0**-300]])
def test_totals_are_rounded_once(check: Check, rest: list[float]) -> None:
    x = np.random.default_rng(0).normal(size=(1, 6, 2))
    many = check(x, 2, [np.array([1.0, *rest, *[0.0] * (5 - len(rest))])])
    assert many.total_weight[0] == math.fsum([1.0, *rest])


def test_what_the_kernel_leaves_to_the_engine(as_cupy: GpuBackend) -> None:  # noqa: F811
    """Beside problems that it solves all the same."""
    rng = np.random.default_rng(4)
    good = rng.normal(size=(40, 3))
    bad = [good.copy() for _ in range(5)]
    bad[0][7, 1], bad[1][0, 0], bad[2][39, 2], bad[3][3] = np.nan, -np.inf, 1e141, 1e139
    bad[4] = bad[4][:4]
    parts = [good, *bad, good, good]
    w = [np.ones(len(part)) for part in parts]
    w[4][3], w[6][:] = 1e50, 0
    problems = Problems(
        dtype=np.dtype(np.float64),
        x=np.concatenate(parts), weight=np.concatenate(w), offsets=np.cumsum([0, *map(len, parts)]),
        seeds=np.full(len(parts), 7, np.uint64), start=None, n_clusters=5, trials=trials(5), n_init=2, max_iter=20,
        tol=1e-4, spherical=False,
    )  # fmt: skip
    fits = Fits.empty(problems)
    history = as_cupy.solve(problems, np.array([0, 1, 2, 3, 4, 5, 6, 7]), fits)
    assert fits.solved.tolist() == [1, 0, 0, 0, 0, 0, 0, 1]
    assert [len(lines) for lines in history] == [n if s else 0 for n, s in zip(fits.n_iter, fits.solved, strict=True)]
    expected = kmeans(good, 5, init="k-means++", n_init=2, seed=7, max_iter=20, backend="numpy", sample_weight=w[0])
    for b, rows in ((0, slice(0, 40)), (7, slice(-40, None))):
        assert fits.centroids[b].tobytes() == expected.centroids.tobytes()
        assert fits.labels[rows].tobytes() == expected.labels.tobytes()
        assert (fits.inertia[b], fits.n_iter[b]) == (expected.inertia, expected.n_iter)


def test_bad_rows_are_named_by_the_engine(as_cupy: GpuBackend, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(as_cupy, "name", "cupy")
    x = np.random.default_rng(0).normal(size=(4, 30, 3))
    x[2, 7, 1] = np.nan
    with pytest.raises(DataError, match=r"problem 2: Input contains NaN or infinity: 1 values, .* in row 7"):
        kmeans_batched(x, 3, backend="cupy")
    assert as_cupy.device.launched["batch.solve"]


def test_groups_between_which_others_are_too_large(as_cupy: GpuBackend, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(as_cupy, "name", "cupy")
    monkeypatch.setattr(gpu_batch, "_SMALL_DISTANCES", 300)
    rng = np.random.default_rng(1)
    groups, x = rng.permutation(np.repeat([4, 5, 6, 7, 8], [30, 130, 60, 60, 99])), rng.normal(size=(379, 3))
    w = rng.uniform(size=379)
    found, expected = (
        kmeans_batched(x, 3, groups=groups, sample_weight=w, seed=5, backend=name) for name in ("cupy", "numpy")
    )
    assert [bits(a) for a in found] == [bits(b) for b in expected]
    assert found.labels.tobytes() == expected.labels.tobytes()
    assert as_cupy.device.launched["batch.solve"] == 1


def test_a_single_small_problem_is_one_launch(as_cupy: GpuBackend) -> None:  # noqa: F811
    x = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    x[:, 3] = 0
    found, expected = (kmeans(x, 7, backend=name) for name in ("cupy", "numpy"))
    assert bits(found) == bits(expected) and found.warnings
    assert as_cupy.device.launched == {"batch.solve": 1}


def test_which_problems_are_small(as_cupy: GpuBackend) -> None:  # noqa: F811
    def takes(n: int, d: int, k: int, others: int = 1000) -> bool:
        return bool(as_cupy.takes(np.array([n] * (1 + others)), d, k)[0])

    assert takes(1 << 16, 16, 64) and takes(1 << 10, 4, 1 << 10) and takes(256, 1 << 12, 4)
    assert not takes((1 << 16) + 1, 16, 64) and not takes(1 << 16, 16, 65) and not takes(1 << 11, 4, (1 << 10) + 1)
    assert not takes(255, (1 << 12) + 1, 4) and not takes(3, 16, 4)
    # A few large ones are better shared among all processors.
    assert takes(1 << 13, 16, 16, 0) and not takes(1 << 13, 16, 17, 0)
    as_cupy.device.free = 1 << 19
    assert takes(1 << 10, 4, 8) and not takes(1 << 16, 4, 8)
