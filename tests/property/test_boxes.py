"""Rows sorted into boxes have the labels of D in every iteration, whatever centroids do."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from gpukm_kernels import native_status
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpukm.backends.base import Frame
from gpukm.functional import fit_iter
from tests.property.walks import SHAPES, STEPS, Case, frame_of, walk

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not native_status()[0], reason=native_status()[1]),
]
BOXES = 3  # as `enum class Plan` numbers it


@st.composite
def cases(draw: st.DrawFn) -> Case:
    return Case(
        shape=draw(st.sampled_from(SHAPES)),
        steps=tuple(draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=20))),
        n=draw(st.sampled_from([1, 2, 3, 5, 64, 65, 130, 500, 1500])),
        d=draw(st.integers(1, 8)),
        k=draw(st.sampled_from([1, 2, 3, 5, 12, 40])),
        dtype=draw(st.sampled_from([np.float32, np.float64])),
        threads=draw(st.sampled_from([1, 1, 3])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def test_rows_in_boxes_have_the_labels_of_d() -> None:
    from gpukm.backends.cpu import CpuBackend

    met: Counter[str] = Counter()

    @settings(max_examples=400, deadline=None)
    @given(cases())
    @example(Case("cloud", ("still", "row", "back"), n=1500, d=1))  # a leaf is scored, all one label, and scored again
    @example(Case("cloud", ("still", "creep", "leave", "creep", "back", "leave", "leave", "still"), n=1500, k=5))
    @example(Case("cloud", ("still", "creep", "one", "one", "row", "row", "row", "copy", "creep", "swap"), n=1500, k=5))
    def follow(case: Case) -> None:
        x, path = walk(case)
        backend = CpuBackend(case.threads)
        frame = frame_of(x)
        tracker, labels = backend.follow(x, path[0], 0, "always"), np.zeros(len(x), np.int32)
        for step, c in enumerate(path):
            backend.track(tracker, x, c, frame, labels)
            expected = backend.cross_distances(x, c).argmin(axis=1)
            np.testing.assert_array_equal(labels, expected, err_msg=f"step {step}, plan {tracker.plan}")
            met["in boxes"] += tracker.plan == BOXES
            met["rows left out"] += tracker.plan == BOXES and tracker.scored < tracker.pairs / 2
            met["nothing scored"] += tracker.plan == BOXES and tracker.scored == 0

    follow()
    assert min(met[name] for name in ("in boxes", "rows left out", "nothing scored")) > 100


@pytest.mark.parametrize("counts", [(1, 3), (3, 1), (1, 2, 8)])
def test_the_number_of_threads_may_change(counts: tuple[int, ...]) -> None:
    """Walks begin at another level then, and what was settled above or below must be known there."""
    from gpukm.backends.cpu import CpuBackend

    rng = np.random.default_rng(0)
    x = rng.uniform(size=(8000, 2)).astype(np.float32)
    backends = [CpuBackend(threads) for threads in counts]
    tracker, labels = backends[0].follow(x, x[:6], 0, "always"), np.zeros(len(x), np.int32)
    frame, starts = Frame(np.zeros(2), 10.0), [x[rng.permutation(8000)[:6]] for _ in range(3)]
    for step in range(60):
        # A few places, again and again, by other centroids: whole parts of the plane change hands.
        c = np.ascontiguousarray(starts[rng.integers(0, 3)][rng.permutation(6)])
        c[: rng.integers(0, 5)] += 100
        backend = backends[step % len(backends)]
        backend.track(tracker, x, c, frame, labels)
        np.testing.assert_array_equal(labels, backend.cross_distances(x, c).argmin(axis=1), err_msg=f"step {step}")


def test_paths_among_denormals() -> None:
    """Float32 denormals hold no digits to compare paths by."""
    from gpukm.backends.cpu import CpuBackend

    rng = np.random.default_rng(0)
    x = (1e-44 * rng.normal(size=(2000, 1))).astype(np.float64)
    backend, c = CpuBackend(1), 1e-44 * rng.normal(size=(4, 1))
    tracker, labels = backend.follow(x, c, 0, "always"), np.zeros(len(x), np.int32)
    for step in range(200):
        backend.track(tracker, x, c, Frame(np.zeros(1), 1e-43), labels)
        expected = backend.cross_distances(x, c).argmin(axis=1)
        np.testing.assert_array_equal(labels, expected, err_msg=f"step {step}")
        c = c + 6e-46 * rng.normal(size=c.shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 2, 3, 5, 8])
def test_a_fit_in_boxes_has_the_bits_of_one_without(d: int, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until nothing moves: in late iterations leaves are left alone for what their rows were last apart."""
    from gpukm.backends.cpu import CpuBackend

    rng = np.random.default_rng(d)
    x = (rng.normal(size=(20_000, d)) + 3 * rng.normal(size=(30, d))[rng.integers(0, 30, 20_000)]).astype(dtype)
    follow, plans = CpuBackend.follow, set()

    def run(boxes: str) -> list[tuple[Any, ...]]:
        def made(self: CpuBackend, x: Any, c: Any, groups: int, *_: str) -> Any:
            return follow(self, x, c, groups, boxes)

        monkeypatch.setattr(CpuBackend, "follow", made)
        states = list(fit_iter(x, 30, init=x[:30], max_iter=200, tol=0.0))
        plans.update(plan for s in states for plan in s.state.effort.plans)
        return [(s.state.record, s.state.centroids.tobytes()) for s in states]

    assert run("always") == run("never") and "boxes" in plans


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_that_nine_of_ten_rows_share_again_and_again(d: int, dtype: Any) -> None:
    """Cuts near the median are far from halving them: some leaves hold next to nothing, or nothing."""
    from gpukm.backends.cpu import CpuBackend

    rng = np.random.default_rng(0)
    x = (rng.geometric(0.9, size=(100_000, d)) ** 2).astype(dtype)
    x[:2000] += rng.normal(size=(2000, d)).astype(dtype)
    backend, c = CpuBackend(3), x[rng.integers(0, len(x), 9)] + rng.normal(size=(9, d)).astype(dtype)
    tracker, labels = backend.follow(x, c, 0, "always"), np.zeros(len(x), np.int32)
    for _ in range(5):
        backend.track(tracker, x, c, Frame(np.zeros(d), float(x.max())), labels)
        np.testing.assert_array_equal(labels, backend.cross_distances(x, c).argmin(axis=1))
        c = (c + 0.1 * rng.normal(size=c.shape)).astype(dtype)


def test_where_boxes_pay_and_where_not() -> None:
    """Asked in the second call of a fit that is large enough."""
    rng = np.random.default_rng(0)
    plans = {}
    for name, n, d, k in (("plane", 100_000, 2, 64), ("small", 5_000, 2, 64), ("wide", 30_000, 8, 20)):
        x = rng.uniform(size=(n, d)).astype(np.float32)
        steps = fit_iter(x, k, init=x[:k], max_iter=4, tol=0.0)
        plans[name] = [sorted(s.state.effort.plans) for s in steps]
    assert plans["plane"][1:] == [["boxes"]] * 3 and plans["plane"][0] != ["boxes"]
    assert ["boxes"] not in plans["small"] + plans["wide"]
