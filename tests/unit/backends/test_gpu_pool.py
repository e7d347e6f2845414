"""Starts on a GPU, as tests/emulator.py runs them: what the pool does with its memory, and what draws copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpukm.backends import gpu_pool
from gpukm.backends.base import Backend, Frame
from gpukm.backends.numpy import NumpyBackend
from gpukm.backends.select import Selection
from gpukm.core.seeding import kmeans_plus_plus
from gpukm.problem import look_at
from gpukm.sources.array import ArraySource
from tests.emulated import emulated


def mixture(n: int, d: int, k: int) -> np.ndarray:
    """Rows around k centres."""
    rng = np.random.default_rng(0)
    return (4 * rng.normal(size=(k, d))[rng.integers(0, k, n)] + rng.normal(size=(n, d))).astype(np.float32)


def played(backend: Backend, x: np.ndarray, far: float = 1.0) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Three rounds of a pool: the rows chosen, labels, and distances, which are those to one row times ``far``."""
    labels = np.zeros(len(x), np.int32)
    nearest = far * NumpyBackend().distances(x, x[:1], labels)
    frame = Frame(np.zeros(x.shape[1]), float(np.abs(x).max()))
    pool, chosen = backend.pool(x, None, labels, nearest, frame), []
    for start, n in ((0, 3), (1, 7), (2, 2)):
        pool.add(np.arange(start, len(x), 3))
        chosen += pool.choose(n, len(chosen), 40, 1 << 62).tolist()
    return chosen, labels, nearest


def same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    """Bit equality."""
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_more_pairs_than_there_is_room_for() -> None:
    """Lists that grow, and candidates in parts where the device's memory does not hold all pairs."""
    x = np.tile(mixture(225, 3, 9), (2, 1))  # of two rows with the same bits the first is chosen
    expected = played(NumpyBackend(), x, 100.0)
    for free, least in ((1 << 30, 3), (1 << 20, 5), (64, 152)):
        backend = emulated()
        backend.device.free = free
        assert same(played(backend, x, 100.0), expected)
        # The first third of the rows makes more pairs than the 65,536 that there is room for at first.
        assert backend.device.launched["pool.begin"] > backend.device.launched["pool.measure"] >= least
        assert (free == 1 << 30) == (backend.device.launched["pool.measure"] == 3)


@pytest.mark.parametrize("threads", [32, 96, 1024])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_choice_in_turns(threads: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few threads, each with several candidates, and few steps in a launch."""
    x = mixture(300, 4, 9)
    expected = played(NumpyBackend(), x)
    monkeypatch.setattr(gpu_pool, "_CHOOSERS", threads)
    monkeypatch.setattr(gpu_pool, "_STEPS", 3)
    backend = emulated(seed)
    assert same(played(backend, x), expected)
    assert backend.device.launched["pool.choose"] > 12


@pytest.mark.parametrize("steps", [3, 1000])
def test_a_choice_ends_where_enough_is_gained(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_pool, "_STEPS", steps)
    x, zeros = mixture(300, 4, 9), np.zeros(300, np.int32)
    far, frame = NumpyBackend().distances(x, x[:1], zeros), Frame(np.zeros(4), float(np.abs(x).max()))

    def choose(most: int, enough: int) -> tuple[int, int]:
        """How many are chosen, and what they gain."""
        nearest = far.copy()
        pool = emulated().pool(x, None, zeros.copy(), nearest, frame)
        pool.add(np.arange(0, 300, 3))
        n = len(pool.choose(most, 1, 40, enough))
        return n, int((np.rint(np.ldexp(far, 40)) - np.rint(np.ldexp(nearest, 40))).astype(np.int64).sum())

    n, gained = choose(4, 1 << 62)
    assert n == 4
    assert choose(9, gained) == (4, gained)
    assert choose(9, gained + 1)[0] == 5


def test_arrays_of_the_device_change_in_place() -> None:
    x, backend, plain = mixture(200, 4, 9), emulated(), NumpyBackend()
    labels = np.zeros(len(x), np.int32)
    nearest = plain.distances(x, x[:1], labels)
    frame = Frame(np.zeros(4), float(np.abs(x).max()))
    placed = backend.place(labels), backend.place(nearest)
    for pool in (backend.pool(backend.place(x), None, *placed, frame), plain.pool(x, None, labels, nearest, frame)):
        pool.add(np.arange(50))
        pool.choose(5, 1, 40, 1 << 62)
    np.testing.assert_array_equal(backend.fetch(placed[0]), labels)
    np.testing.assert_array_equal(backend.fetch(placed[1]), nearest)


def test_the_screen_leaves_few_pairs() -> None:
    """D is computed for about the pairs that lists are made of."""
    x, backend = mixture(600, 8, 40), emulated()
    labels = np.empty(len(x), np.int32)
    frame = Frame(np.zeros(8), float(np.abs(x).max()))
    backend.assign(x, backend.prepare(x[:100], frame), labels)
    nearest = backend.distances(x, x[:100], labels)
    pool = backend.pool(x, None, labels, nearest, frame)
    pool.add(np.arange(100, 600))
    listed = (NumpyBackend().cross_distances(x, x[100:]) < nearest[:, None]).sum()
    pairs = int(backend.fetch(pool._lists.n_pairs)[0])
    assert listed == backend.fetch(pool._counts).sum()
    assert listed <= pairs < listed + 60


def test_draws_copy_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """k-means++ on rows in memory takes sums of many rows and a few candidates from the device."""
    n, k = 40_000, 5
    x, w = mixture(n, 2, 9), np.random.default_rng(1).exponential(size=n)
    for weight in (None, w):
        backend, starts = emulated(), []
        fetched: list[int] = []
        fetch = backend.device.fetch

        def counted(array: Any, out: Any = None, fetch: Any = fetch, fetched: list[int] = fetched) -> np.ndarray:
            """Fetch, and note how much it was."""
            fetched.append(array.nbytes)
            return fetch(array, out)

        for selection in (Selection(backend, ()), Selection(NumpyBackend(), ())):
            given = look_at(ArraySource(x, weight=weight), selection, k, 10, 0.0, "euclidean", None, None, 1)
            monkeypatch.setattr(backend.device, "fetch", counted)
            starts.append(kmeans_plus_plus(given, k, 3))
        np.testing.assert_array_equal(*starts)
        assert backend.device.launched["draws.locate"] >= k - 1
        assert fetched and max(fetched) < 1024 and sum(fetched) < n
