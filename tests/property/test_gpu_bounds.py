"""Rows whose bounds a device follows have the labels of D at every step, on the paths of ``test_bounds.py``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gpukm_kernels.screening import PLAIN
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukm.backends import cascade, gpu_follow
from gpukm.backends.cascade import Cascade
from gpukm.backends.gpu_follow import Follow
from gpukm.backends.plain_screen import PlainScreen
from gpukm.core.exact import row_distances
from tests.conformance.backend import fast_distances
from tests.emulator import Emulated
from tests.property.test_bounds import PHRASES, SCALES, SHAPES, Case, build, frame_of


class Tampered(Emulated):
    """Arguments of some kernels become what a function makes of them; None leaves the launch out."""

    changed: dict[str, Any]

    def launch(self, kernel: str, row: Any, blocks: int, threads: int, *args: Any, shared: int = 0) -> None:
        if kernel in self.changed:
            args = self.changed[kernel](self, args)
            if args is None:
                return
        super().launch(kernel, row, blocks, threads, *args, shared=shared)


def follow(case: Case, **changed: Any) -> tuple[int, list[float], int]:
    """Labels that are wrong along a path, the share of pairs that was scored at each step, and rows decided by D."""
    x, path = build(case)
    frame, n, k = frame_of(x), len(x), case.k
    device = Tampered(seed=1 + case.seed % 5, processors=2)
    device.changed = {name.replace("__", "."): change for name, change in changed.items()}
    screened = Cascade(device, PlainScreen(device, PLAIN))
    packed, rows = screened.pack(path[0], frame), device.place(x)
    bounds, lists = Follow(device, rows, packed, path[0], frame), screened.lists(n)
    # Any labels do to begin with.
    before = device.place(np.random.default_rng(case.seed).integers(0, k, n).astype(np.int32))
    labels, counters, stop = device.empty(n, np.int32), device.zeros(2, np.uint64), device.zeros(1, np.int32)
    wrong, shares, scored = 0, [], 0
    for step, c in enumerate(path):
        shifts = row_distances(c.astype(np.float64), path[max(step - 1, 0)].astype(np.float64))
        device.place(c, packed.centroids)
        bounds.assign(rows, before, labels, device.place(shifts), lists, counters, stop)
        found = device.fetch(labels)
        wrong += int((found != fast_distances(x, c).argmin(axis=1)).sum())
        device.place(found, before)
        shares.append((bounds.scored() - scored) / (n * gpu_follow.groups_of(k)))
        scored = bounds.scored()
    return wrong, shares, int(device.fetch(counters)[1])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    return Case(
        shape=draw(st.sampled_from(SHAPES)),
        scale=draw(st.one_of(st.just("one"), st.sampled_from(SCALES))),
        n=draw(st.one_of(st.just(130), st.integers(1, 130))),
        d=draw(st.sampled_from([1, 2, 5, 16, 23])),
        k=draw(st.integers(1, 300)),
        groups=draw(st.sampled_from([1, 2, 5, 12])),
        moves=" ".join(draw(st.lists(st.sampled_from(PHRASES), min_size=1, max_size=5))),
        dtype=draw(st.sampled_from([np.float32, np.float64])),
        apart=draw(st.integers(4, 30)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@settings(max_examples=120, deadline=None)
@given(cases())
def test_rows_followed_have_the_labels_of_d(case: Case) -> None:
    assert follow(case)[0] == 0


#: A path on which most rows stay where they are, and some do not.
FOLLOWED = Case(
    shape="islands",
    n=200,
    d=6,
    k=300,
    groups=10,
    moves="still tiny one creep tiny away back drift_half tiny copy tiny still",
)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_pairs_are_scored(dtype: Any, scale: str) -> None:
    wrong, shares, rechecked = follow(replace(FOLLOWED, scale=scale, dtype=dtype))
    assert wrong == 0 and shares[0] == 1.0
    # Where D has few digits left, nothing is ruled out.
    if scale != "denormal" and (scale, dtype) != ("underflow", np.float64):
        assert min(shares) < 0.05 and np.mean(shares) < 0.3 and 0 < rechecked < len(shares) * FOLLOWED.n / 3


def test_nothing_is_done_once_it_is_over() -> None:
    x, (c,) = build(replace(FOLLOWED, moves=""))
    frame, n, device = frame_of(x), len(x), Emulated()
    screened = Cascade(device, PlainScreen(device, PLAIN))
    packed, rows = screened.pack(c, frame), device.place(x)
    bounds, labels = Follow(device, rows, packed, c, frame), device.place(np.full(n, 77, np.int32))
    counters, stop = device.zeros(2, np.uint64), device.place(np.ones(1, np.int32))
    shifts, before = device.zeros(len(c), np.float64), device.zeros(n, np.int32)
    bounds.assign(rows, before, labels, shifts, screened.lists(n), counters, stop)
    assert (device.fetch(labels) == 77).all() and not bounds.scored() and not device.fetch(counters).any()


@pytest.mark.parametrize("limit", ["chunks", "survivors", "pairs"])
def test_lists_that_are_too_short(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected, _ = follow(FOLLOWED)
    if limit == "chunks":
        for module in (cascade, gpu_follow):
            monkeypatch.setattr(module, "CHUNK_ROWS", 70)
    elif limit == "survivors":
        monkeypatch.setattr(gpu_follow, "_SURVIVORS", 0)
    else:
        monkeypatch.setattr(cascade, "_PAIRS", 0)
        monkeypatch.setattr(cascade, "_LEAST_PAIRS", 3)
    wrong, shares, _ = follow(FOLLOWED)
    assert wrong == 0 and (shares == expected) == (limit != "survivors")


def halved_steps(_: Any, args: Any) -> Any:
    return (*args[:2], args[2] / 2, *args[3:])


def no_errors(device: Any, args: Any) -> Any:
    """Nothing is lost in scores, nor when rows and centroids are rounded."""
    args = list(args)
    args[4], args[8] = (device.zeros(len(args[i]), np.float32) for i in (4, 8))
    args[10:14] = [0.0] * 4
    return args


def halved_own(_: Any, args: Any) -> Any:
    return (*args[:7], args[7] / 2, *args[8:])


@pytest.mark.parametrize(
    ("name", "change", "case"),
    [
        ("follow__steps", halved_steps, Case(k=200, d=2, n=300, moves="all small drift small drift half back")),
        ("follow__look", halved_own, Case(k=200, d=2, n=300, moves="small small")),
        (
            "follow__leave",
            lambda *_: None,
            Case(shape="islands", k=200, groups=8, d=3, n=300, moves="one tiny back tiny"),
        ),
        ("follow__score", no_errors, Case(shape="twins", k=130, apart=20, d=16, n=300, scale="outlier", moves="tiny")),
    ],
)
def test_less_than_the_bounds_is_found_out(name: str, change: Any, case: Case) -> None:
    found = [follow(replace(case, seed=seed), **{name: change})[0] for seed in range(4)]
    assert any(found)
    assert follow(replace(case, seed=int(np.argmax(found))))[0] == 0
