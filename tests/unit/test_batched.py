"""kmeans_batched at its door: how problems are told apart, seeds, errors, what comes back."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
from gpukm_kernels import native_status

from gpukm import BatchedResult, kmeans, kmeans_batched
from gpukm.batched import problem_seeds
from gpukm.core.rng import Purpose, raw
from gpukm.errors import ConfigError, DataError

X = np.random.default_rng(0).normal(size=(4, 60, 3)).astype(np.float32)


def test_all_ways_to_bring_problems_give_the_same() -> None:
    cube = kmeans_batched(X, 3)
    long = X.reshape(-1, 3)
    ragged = kmeans_batched(long, 3, offsets=[0, 60, 120, 180, 240])
    parts = kmeans_batched(list(X), 3)
    assert cube.labels.shape == (4, 60) and ragged.labels.shape == parts.labels.shape == (240,)
    for other in (ragged, parts):
        assert [r.digest() for r in other] == [r.digest() for r in cube]
        assert other.labels.tobytes() == cube.labels.tobytes()


def test_groups_are_put_together_and_labels_go_back() -> None:
    rng = np.random.default_rng(1)
    groups = rng.permutation(np.repeat(["b", "a", "c", "d"], [30, 90, 60, 60]))
    x, w = X.reshape(-1, 3), rng.uniform(0, 1, 240)
    found = kmeans_batched(x, 3, groups=groups, sample_weight=w, seed=5)
    assert found.groups is not None and found.groups.tolist() == ["a", "b", "c", "d"]
    assert found.n_samples.tolist() == [90, 30, 60, 60]
    for b, group in enumerate("abcd"):
        mine = groups == group
        alone = kmeans(x[mine], 3, sample_weight=w[mine], seed=int(found.seeds[b]), watched=True)
        assert found[b].digest() == alone.digest()
        assert (found.labels[mine] == alone.labels).all()


def test_seeds_are_documented_and_may_be_given() -> None:
    seeds = problem_seeds(7, 5)
    assert seeds[0] == 7 and seeds[1:].tolist() == raw(7, Purpose.PROBLEM, 0, 5)[1:].tolist()
    assert problem_seeds(7, 3).tolist() == seeds[:3].tolist()
    assert (kmeans_batched(X, 3, seed=7).seeds == seeds[:4]).all()
    same = kmeans_batched(np.stack([X[0], X[0]]), 3, seed=[9, 9])
    assert same[0].digest() == same[1].digest() == kmeans(X[0], 3, seed=9, watched=True).digest()


def test_large_problems_go_through_the_engine_and_mix_with_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [r.digest() for r in kmeans_batched(list(X), 3)]
    monkeypatch.setattr("gpukm.backends.cpu._SMALL_DISTANCES", 100)
    parts = [X[0][:20], X[1], X[2][:33], X[3]]
    found = kmeans_batched(parts, 3)
    assert [r.digest() for r in found] == [
        kmeans(p, 3, seed=int(s), watched=True).digest() for p, s in zip(parts, found.seeds, strict=True)
    ]
    assert [r.digest() for r in kmeans_batched(list(X), 3)] == before


@pytest.mark.parametrize("init", ["auto", "pooled", "random", lambda x, k, random_state: x[:k]])
def test_every_init_of_kmeans(init: Any) -> None:
    found = kmeans_batched(X, 4, init=init)
    alone = kmeans(X[2], 4, init=init, seed=int(found.seeds[2]), watched=True)
    assert found[2].digest() == alone.digest() and found[2].settings == alone.settings


def test_one_start_for_all_or_one_each() -> None:
    assert kmeans_batched(X, 5, init=X[0, :5])[3].digest() == kmeans(X[3], 5, init=X[0, :5], watched=True).digest()
    assert kmeans_batched(X, 5, init=X[:, :5])[3].digest() == kmeans(X[3], 5, init=X[3, :5], watched=True).digest()


def test_the_result_reads_like_a_sequence_of_fits() -> None:
    found = kmeans_batched(X, 3)
    assert isinstance(found, BatchedResult) and len(found) == 4 and len(list(found)) == 4
    assert found[-1].digest() == found[3].digest()
    with pytest.raises(IndexError):
        found[4]
    assert (found.n_scored == 60 * (found.n_iter + 1)).all()
    assert (found.counts.sum(axis=1) == 60).all()


def test_warnings_are_those_of_each_problem() -> None:
    x = X.copy()
    x[1, :, 2] = 1
    x[2] = x[2, :1]
    found = kmeans_batched(x, 3, names=("a", "b", "c"))
    assert found.warnings[0] == () and "constant columns tell clusters nothing: c" in found.warnings[1][0]
    assert "Number of distinct clusters (1)" in found.warnings[2][1]


def test_the_callers_arrays_stay_as_they_are() -> None:
    x = X.copy()
    kmeans_batched(x, 3, metric="cosine")
    assert x.tobytes() == X.tobytes()


def bad(value: float) -> np.ndarray:
    """Data with one value in problem 2."""
    x = X.copy()
    x[2, 7, 1] = value
    return x


@pytest.mark.parametrize(
    "x, settings, error, words",
    [
        (bad(np.nan), {}, DataError, "problem 2: Input contains NaN or infinity: 1 values, the first .NaN. in row 7"),
        (bad(np.inf), {}, DataError, "problem 2: .*infinity"),
        (list(bad(np.nan)), {"keys": "wxyz"}, DataError, "^y: "),
        (X.reshape(-1, 3), {"offsets": [0, 2, 238, 240]}, DataError, "problem 0: n_samples=2 .*2 of 3 problems"),
        (X.reshape(-1, 3), {}, ConfigError, "offsets or groups"),
        (X.reshape(-1, 3), {"offsets": [0, 9]}, ConfigError, "from 0 to 240"),
        (X.reshape(-1, 3), {"offsets": [0, 100, 50, 240]}, ConfigError, "ascending"),
        (X.reshape(-1, 3), {"groups": [1, 2]}, ConfigError, "a value for each row"),
        (X.reshape(-1, 3), {"groups": np.r_[np.nan, np.ones(239)]}, DataError, "groups holds NaN"),
        (X, {"offsets": [0, 4]}, ConfigError, "leave out offsets"),
        (X[0, 0], {}, DataError, "expected .problems, rows, features."),
        ([X[0], X[1, :, :2]], {}, DataError, "the same for all"),
        ([X[0], X[1].astype(float)], {}, DataError, "float32 and 3 features of float64"),
        ([], {}, DataError, "no problems"),
        (X, {"sample_weight": np.ones(60)}, DataError, "expected .4, 60."),
        (X, {"sample_weight": -np.ones((4, 60))}, DataError, "problem 0: .*negative"),
        (X, {"sample_weight": np.r_[np.ones((3, 60)), np.zeros((1, 60))]}, DataError, "problem 3: all sample weights"),
        (X * (np.arange(4) != 1)[:, None, None], {"metric": "cosine"}, DataError, "problem 1: 60 rows are zero"),
        (X, {"init": np.zeros((2, 2))}, ConfigError, "init has shape"),
        (X, {"init": "best"}, ConfigError, "expected one of"),
        (X, {"seed": -1}, ConfigError, "seed"),
        (X, {"seed": [1, 2]}, ConfigError, "one for each problem"),
        (X, {"max_iter": 0}, ConfigError, "max_iter"),
        (X, {"tol": -1}, ConfigError, "tol"),
        (X, {"metric": "cityblock"}, ConfigError, "metric"),
        (X, {"n_init": 0}, ConfigError, "n_init"),
        (X, {"keys": ["a"]}, ConfigError, "1 keys for 4 problems"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(x: Any, settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        kmeans_batched(x, 3, **settings)


@pytest.mark.skipif(not native_status()[0], reason="needs the native kernels")
def test_an_interrupt_ends_it_soon() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5000, 8))
    # A shell's background jobs begin with interrupts ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        began = time.monotonic()
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            kmeans_batched(x, 100, n_init=10_000, tol=0.0, threads=2)
        assert time.monotonic() - began < 20
    finally:
        signal.signal(signal.SIGINT, handler)
