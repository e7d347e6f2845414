"""What the benchmarks' figures rest on: inertia, starts, the choice of contenders, and the comparison."""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

import gpukm


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).integers(-3, 4, (701, 5)).astype(np.float32)


def test_inertia_is_that_of_all_pairs(x: np.ndarray) -> None:
    verify, c = load("verify"), x[[3, 50, 400]] + np.float32(0.25)
    every = ((x[:, None].astype(np.float64) - c[None].astype(np.float64)) ** 2).sum(axis=2)
    assert verify.inertia(x, c) == pytest.approx(every.min(axis=1).sum(), rel=1e-14)
    np.testing.assert_array_equal(every[np.arange(len(x)), verify.nearest(x, c)], every.min(axis=1))


def test_inertia_far_from_the_origin(x: np.ndarray) -> None:
    verify = load("verify")
    far = x.astype(np.float64) + 2.0**30
    assert verify.inertia(far, far[:4]) == verify.inertia(x, x[:4])


def test_inertia_of_several_blocks(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    verify = load("verify")
    whole = verify.inertia(x, x[:4])
    monkeypatch.setattr(verify, "_BLOCK_VALUES", 100)
    assert verify.inertia(x, x[:4]) == pytest.approx(whole, rel=1e-14)


def test_starting_rows_are_distinct(x: np.ndarray) -> None:
    data = load("data")
    few = np.repeat(x[:30], 20, axis=0)
    rows = data.starting_rows(few, 25)
    assert len(np.unique(few[rows], axis=0)) == 25
    np.testing.assert_array_equal(rows[:5], data.starting_rows(few, 5))
    with pytest.raises(SystemExit, match="too few for 31 clusters"):
        data.starting_rows(few, 31)


def test_problems_are_named() -> None:
    data = load("data")
    made = data.problem("5000-3-7")
    assert made.x.shape == (5000, 3) and made.k == 7 and made.x.dtype == np.float32
    small = data.problem("digits-100", max_rows=200)
    assert small.x.shape == (200, 64) and small.k == 20
    with pytest.raises(SystemExit, match="no data is named 'nothing'"):
        data.problem("nothing")
    with pytest.raises(SystemExit, match="--embeddings"):
        data.problem("embeddings")


def test_embeddings_are_read_from_the_path(tmp_path, x: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(1100, 4)).astype(np.float16))
    made = load("data").problem("embeddings", tmp_path / "e.npy")
    assert made.x.dtype == np.float32 and made.k == 1000 and "e.npy" in made.origin


def test_unknown_and_absent_contenders(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = load("peers")
    absent = replace(peers.CONTENDERS["faiss"], module="no_such_module")
    monkeypatch.setitem(peers.CONTENDERS, "faiss", absent)
    assert peers.chosen("scikit-learn,faiss") == (
        ["gpukm", "scikit-learn"],
        {"faiss": "faiss-cpu is not installed: pip install faiss-cpu"},
    )
    with pytest.raises(SystemExit, match="no contender is named fiass"):
        peers.chosen("fiass")


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (10, [1, 6, 7, 0, 5, 9, 8, 2, 3, 4]),
        (11, [4, 7, 2, 10, 8, 5, 1, 9, 6, 0]),
        (65_535, [62_975, 49_266, 14_830, 16_855, 60_348]),
        (65_536, [37_384, 53_608, 43_891, 25_566, 61_703]),
    ],
)
def test_shuffle_of_the_standard_library(n: int, expected: list[int]) -> None:
    # Expected values are what a C++ program printed with libstdc++.
    found = load("peers")._shuffled(n, 42)
    assert found[: len(expected)].tolist() == expected
    np.testing.assert_array_equal(np.sort(found), np.arange(n))


def test_a_wrong_inertia_of_gpukm_ends_the_run(x: np.ndarray) -> None:
    turns, peers, data = load("turns"), load("peers"), load("data")
    given = data.Problem("test", "drawn", x, np.arange(4))
    fit = gpukm.kmeans(x, 4, init=x[:4], max_iter=3, tol=0)
    right = peers.Fit(fit.centroids, fit.n_iter, fit.inertia)
    assert turns.check("gpukm", given, right, None).inertia == pytest.approx(fit.inertia, rel=1e-12)
    with pytest.raises(SystemExit, match="gpukm reports inertia"):
        turns.check("gpukm", given, replace(right, inertia=fit.inertia * (1 + 1e-6)), None)


def test_the_ratio_is_to_the_fastest_that_makes_lloyds_iterations() -> None:
    turns, whole = load("turns"), load("whole")

    def took(*seconds: float, training: tuple[float, ...] = ()) -> object:
        return turns.Measured(5, 1.0, None, list(seconds), list(training))

    measured = {
        "gpukm": took(1, 2, 9),
        "scikit-learn": took(7, 8, 30),
        "faiss": took(6, 6, 6),
        "superkmeans": took(3, 3, 3, training=(2.5, 3, 2)),
    }
    assert whole.ratio(measured) == (3.0, "faiss")
    assert whole.ratio({name: measured[name] for name in ("gpukm", "superkmeans")}) == (1.25, "superkmeans")
    assert whole.ratio({"gpukm": measured["gpukm"]}) is None


def test_time_to_quality_is_the_quickest_fit_that_is_good_enough() -> None:
    reached = load("quality").reached
    points = [{"seconds": 1, "inertia": 9}, {"seconds": 3, "inertia": 5}, {"seconds": 2, "inertia": 6}]
    assert (reached(points, 9), reached(points, 6), reached(points, 4)) == (1, 2, None)
