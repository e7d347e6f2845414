"""Rows compared by their first directions have the labels of D in every iteration, whatever centroids do."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from gpukm_kernels import native_status
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpukm.functional import fit_iter
from tests.property.walks import SHAPES, STEPS, WIDE, Case, frame_of, walk

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not native_status()[0], reason=native_status()[1]),
]
HEADS = 4  # as `enum class Plan` numbers it


@st.composite
def cases(draw: st.DrawFn) -> Case:
    return Case(
        shape=draw(st.sampled_from(SHAPES + WIDE)),
        steps=tuple(draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=8))),
        n=draw(st.sampled_from([1, 2, 17, 64, 300])),
        d=draw(st.sampled_from([2, 2, 3, 4, 9, 31, 64, 130])),
        k=draw(st.sampled_from([1, 2, 3, 12, 40, 200])),
        dtype=draw(st.sampled_from([np.float32, np.float64])),
        threads=draw(st.sampled_from([1, 1, 3])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def test_rows_by_heads_have_the_labels_of_d() -> None:
    from gpukm.backends.cpu import CpuBackend

    met: Counter[str] = Counter()

    @settings(max_examples=300, deadline=None)
    @given(cases())
    # More centroids than a row keeps are as near as its own one.
    @example(Case("cloud", ("creep", "still", "nudge"), n=300, d=130, k=200))
    @example(Case("mirrored", ("creep", "still", "nudge", "copy"), n=300, d=9, k=40))
    @example(Case("cloud", ("creep", "row", "row", "row", "back"), n=300, d=2, k=12))
    @example(Case("cloud", ("leave", "leave", "one", "copy", "swap"), n=300, d=64, k=40, dtype=np.float64))
    def follow(case: Case) -> None:
        x, path = walk(case)
        backend, frame = CpuBackend(case.threads), frame_of(x)
        tracker, labels = backend.follow(x, path[0], 0, "never", "always"), np.zeros(len(x), np.int32)
        for step, c in enumerate(path):
            backend.track(tracker, x, c, frame, labels)
            expected = backend.cross_distances(x, c).argmin(axis=1)
            np.testing.assert_array_equal(labels, expected, err_msg=f"step {step}, plan {tracker.plan}")
            met["by heads"] += tracker.plan == HEADS
            met["little compared"] += tracker.plan == HEADS and tracker.scored < tracker.pairs / 4
            met["rows left"] += tracker.plan == HEADS and tracker.scored > tracker.pairs / 2 and case.k == 200

    follow()
    assert met["by heads"] > 150 and met["little compared"] > 50 and met["rows left"] >= 3, met


@pytest.mark.parametrize("d", [8, 64, 200])
def test_rows_in_the_middle_of_two_centroids(d: int) -> None:
    """Float32 cannot tell which is nearer."""
    from gpukm.backends.cpu import CpuBackend

    rng = np.random.default_rng(d)
    x, c = rng.normal(size=(3000, d)), np.zeros((12, d))
    x[:, 0] *= 1e-7
    c[:2, 0] = 3.0, -3.0
    c[2:, 0] = 40.0 + np.arange(10)
    x, c = x.astype(np.float32), c.astype(np.float32)
    backend, labels = CpuBackend(1), np.zeros(len(x), np.int32)
    tracker = backend.follow(x, c, 0, "never", "always")
    for _ in range(3):
        backend.track(tracker, x, c, frame_of(x), labels)
        np.testing.assert_array_equal(labels, backend.cross_distances(x, c).argmin(axis=1))
        c[:2] = c[1::-1].copy()
    assert tracker.plan == HEADS and len(np.unique(labels)) == 2


def test_centroids_next_to_the_origin() -> None:
    """Their heads are longer than they are, by what covers underflow."""
    from gpukm.backends.base import Frame
    from gpukm.backends.cpu import CpuBackend

    rng = np.random.default_rng(0)
    x, c = np.zeros((1024, 64)), np.zeros((60, 64))
    x[:, :48] = rng.normal(size=(1024, 48)) * np.where(np.arange(48) < 8, 0.4, 0.04)
    x[1::2] = 0
    x[1::2, :8] = 1e-9 * rng.choice([-1.0, 1.0], size=(512, 8))
    x[1::2, 50] = 0.6e-9
    c[1:40, :8] = 1.2e-15 * np.sign(x[1:79:2, :8])
    c[40:, :48] = rng.normal(size=(20, 48))
    expected = CpuBackend(1).cross_distances(x, c).argmin(axis=1)
    assert len(np.unique(expected[1::2])) > 10
    backend, labels = CpuBackend(1), np.zeros(len(x), np.int32)
    tracker = backend.follow(x, c, 0, "never", "always")
    for _ in range(3):
        labels[:] = 0
        backend.track(tracker, x, c, Frame(np.zeros(64), 1.5), labels)
        np.testing.assert_array_equal(labels, expected)
    assert tracker.plan == HEADS


def test_a_centroid_so_far_out_that_its_norm_overflows() -> None:
    from gpukm.backends.base import Frame
    from gpukm.backends.cpu import CpuBackend

    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(500, 64)).astype(np.float32), rng.normal(size=(20, 64)).astype(np.float32)
    x[7], c[3] = 0, 0
    x[7, 0], c[3, 0] = 1.44e20, 2.16e20
    backend, labels = CpuBackend(1), np.zeros(len(x), np.int32)
    tracker = backend.follow(x, c, 0, "never", "always")
    for far in (2.16e20, 2.16e20, 0.0, 2.16e20):
        c[3, 0] = far
        backend.track(tracker, x, c, Frame(np.zeros(64), 4.0), labels)
        np.testing.assert_array_equal(labels, backend.cross_distances(x, c).argmin(axis=1))
        assert (tracker.plan == HEADS) == (far == 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [20, 64, 300])
def test_a_fit_by_heads_has_the_bits_of_one_without(d: int, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpukm.backends.cpu import CpuBackend

    rng = np.random.default_rng(d)
    spectrum = 1 / np.sqrt(np.arange(d) + 2.0)
    x = (rng.normal(size=(6000, d)) + 2 * rng.normal(size=(60, d))[rng.integers(0, 60, 6000)]) * spectrum
    x, follow, plans = x.astype(dtype), CpuBackend.follow, set()

    def run(heads: str) -> list[tuple[Any, ...]]:
        def made(self: CpuBackend, x: Any, c: Any, groups: int, *_: str) -> Any:
            return follow(self, x, c, groups, "never", heads)

        monkeypatch.setattr(CpuBackend, "follow", made)
        states = list(fit_iter(x, 60, init=x[:60], max_iter=60, tol=0.0))
        plans.update(plan for s in states for plan in s.state.effort.plans)
        return [(s.state.record, s.state.centroids.tobytes()) for s in states]

    assert run("always") == run("never") and "heads" in plans


def test_where_heads_pay_and_where_not() -> None:
    """Asked in the second call of a fit, where directions differ in what they hold."""
    rng = np.random.default_rng(0)
    plans = {}
    for name, n, d, k, power in (
        ("steep", 20_000, 128, 512, 1.0),
        ("even", 20_000, 128, 512, 0.0),
        ("narrow", 20_000, 48, 512, 1.0),
        ("few clusters", 20_000, 128, 20, 1.0),
    ):
        x = rng.normal(size=(n, d)) * (np.arange(d) + 1.0) ** -power
        x = np.ascontiguousarray(x @ np.linalg.qr(rng.normal(size=(d, d)))[0], np.float32)
        steps = fit_iter(x, k, init=x[:k], max_iter=4, tol=0.0)
        plans[name] = [sorted(s.state.effort.plans) for s in steps]
    assert plans["steep"][1] == ["heads"] and plans["steep"][0] != ["heads"], plans
    assert ["heads"] not in plans["even"] + plans["narrow"] + plans["few clusters"], plans
