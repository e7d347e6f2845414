"""Contract 3 where the device follows bounds, and when it does."""

import numpy as np
import pytest
from gpukm_kernels.screening import mode

from gpukm.backends import gpu_follow
from gpukm.backends.cascade import Cascade
from gpukm.backends.gpu_rungs import Rungs
from gpukm.backends.matrix_screen import MatrixScreen
from gpukm.functional import fit_iter, kmeans
from tests.emulated import as_cupy  # noqa: F401
from tests.parity.test_bits import bits

pytestmark = pytest.mark.usefixtures("as_cupy")


@pytest.fixture
def always(monkeypatch):
    """Bounds are followed from the first iteration that the device makes by itself."""
    monkeypatch.setattr(gpu_follow, "LEAST_GROUPS", 1)
    monkeypatch.setattr(gpu_follow, "BEGIN_MOVED", 2.0)
    monkeypatch.setattr(gpu_follow, "PLAIN_SHARE", 2.0)


def mixture(n=700, d=3, k=40, apart=6.0, seed=0):
    rng = np.random.default_rng(seed)
    return (apart * rng.normal(size=(k, d)))[rng.integers(0, k, n)] + rng.normal(size=(n, d))


def fit(x, start, backend, **settings):
    return kmeans(x, len(start), init=start, backend=backend, watched=True, **{"max_iter": 12, "tol": 0.0, **settings})


def hard():
    """Name, rows and centroids to begin with."""
    rng = np.random.default_rng(5)
    x = mixture()
    yield "clusters", x, x[:150]
    yield "whole groups", x, x[:128]
    yield "one group", x, x[:20]
    whole = np.rint(rng.normal(size=(700, 3)) * 4)
    yield "ties", whole, whole[:70] + 0.5
    yield "duplicates", np.repeat(rng.normal(size=(400, 3)), 2, axis=0), rng.normal(size=(40, 3))
    yield "offset", x + 1e6, x[:130] + 1e6
    yield "outlier", np.vstack([x, [[1e7, -1e7, 3.0]]]), x[:130]
    yield "tiny", x * 1e-30, x[:130] * 1e-30
    yield "huge", x * 1e17, x[:130] * 1e17
    # Few rows at the start's centroids: others come over a long way, one after another.
    far = np.vstack([x, 300 + rng.normal(size=(50, 3))])
    yield "late jumps", far, np.vstack([x[:128], far[-2:]])


HARD = {name: (x, start) for name, x, start in hard()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", HARD)
def test_one_hash(name, dtype, always, as_cupy):  # noqa: F811
    x, start = (v.astype(dtype) for v in HARD[name])
    weight = np.random.default_rng(2).uniform(0, 2, len(x)) if name in ("clusters", "offset") else None
    expected, result = (fit(x, start, backend, sample_weight=weight) for backend in ("numpy", "cupy"))
    assert as_cupy.device.launched["follow.look"] > 2
    assert bits(result) == bits(expected) and result.history == expected.history


def test_clusters_that_lose_all_rows_on_the_way(always, as_cupy):  # noqa: F811
    """The device leaves an iteration with an empty cluster to the host, and begins to follow again after it."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        x = np.concatenate([rng.normal(size=(60, 2)), 4 + rng.normal(size=(4, 2))]).astype(np.float32)
        start = x[rng.integers(0, 64, 12)] + rng.normal(size=(12, 2)).astype(np.float32)
        expected = fit(x, start, "numpy", max_iter=30)
        late = [r.iteration for r in expected.history[3:] if r.n_empty]
        if late:
            break
    assert late and late[-1] < expected.n_iter
    result = fit(x, start, "cupy", max_iter=30)
    assert bits(result) == bits(expected) and result.history == expected.history
    assert as_cupy.device.launched["follow.look"] > 1


def efforts(x, start, backend="cupy", **settings):
    """What every iteration took, as plans and the share of pairs that was scored."""
    steps = fit_iter(x, len(start), init=start, tol=0.0, backend=backend, **settings)
    return [(*s.state.effort.plans, s.state.effort.n_scored / s.state.effort.n_pairs) for s in steps]


def test_bounds_are_followed_once_little_moves():
    x = mixture(n=2000, k=220, apart=40)
    start = x[np.unique(x.round(-1), axis=0, return_index=True)[1]][:220]
    found = efforts(x, start, max_iter=30)
    plans = [plan for plan, _ in found]
    assert plans[:2] == ["plain", "plain"] and plans.count("fill") == 1 and plans[-1] == "follow"
    assert found[plans.index("fill")][1] == 1.0 and found[-1][1] < 0.3
    assert "following bounds" in str(list(fit_iter(x, 220, init=start, tol=0.0, backend="cupy"))[-1].state.effort)


def test_few_clusters_are_not_followed():
    assert {plan for plan, _ in efforts(mixture(), mixture()[:100])} == {"plain"}


def test_bounds_that_do_not_pay_are_given_up(monkeypatch, always):
    monkeypatch.setattr(gpu_follow, "PLAIN_SHARE", 0.0)
    x = np.random.default_rng(1).normal(size=(700, 6))
    plans = [plan for plan, _ in efforts(x, x[:150], max_iter=14)]
    # The first two are made before anything is known, and it takes two looks to give up.
    assert plans[:6] == ["plain", "plain", "fill", "follow", "follow", "plain"]
    assert bits(fit(x, x[:150], "cupy")) == bits(fit(x, x[:150], "numpy"))


def test_beside_matrix_units(monkeypatch, always, as_cupy):  # noqa: F811
    monkeypatch.setattr(gpu_follow, "MATRIX_SHARE", 2.0)
    device = as_cupy.device
    as_cupy._rungs = Rungs(device, Cascade(device, MatrixScreen(device, mode("fp16", device.capability))))
    x, start = (v.astype(np.float32) for v in HARD["clusters"])
    assert bits(fit(x, start, "cupy", max_iter=6)) == bits(fit(x, start, "numpy", max_iter=6))
    assert device.launched["matrix.label"] > 1 and device.launched["follow.score"] > 1


@pytest.mark.parametrize("known", [True, False])
def test_no_memory_no_bounds(known, always, as_cupy, monkeypatch):  # noqa: F811
    def none_left(*_):
        raise MemoryError

    if known:
        as_cupy._limit_bytes = 150_000
    else:
        monkeypatch.setattr(gpu_follow.Follow, "__init__", none_left)
    x = mixture()
    assert {plan for plan, _ in efforts(x, x[:150], max_iter=6)} == {"plain"}
    # All but the first: nothing had to be made again.
    assert as_cupy.device.launched["loop.commit"] == 5
