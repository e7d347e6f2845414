"""Rows followed by bounds have the labels of D at every step, wherever centroids go and however close rows lie.

Paths of centroids are made first and rows afterwards, many of them all but midway between two neighbours at one step of
the path: there a bound that is too large by a rounding shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from gpukm_kernels import native, native_status
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpukm import kmeans
from gpukm.backends.base import Frame

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not native_status()[0], reason=native_status()[1]),
]

PLAIN, FILL, FOLLOW = 0, 1, 2  # what a call decides to do, as `enum class Plan` numbers it
INTEGERS = ("avx2", "vnni", "avx512")  # units that screen with integers first
OTHERS = [isa for isa in ("portable", *INTEGERS) if native_status()[0] and isa != native().isa()]
FEW_FEATURES = 8  # up to here float32 rows are screened in difference form, however many centroids there are

SHAPES = ("cloud", "islands", "line", "whole", "twins", "copies")
SCALES = ("one", "offset", "outlier", "tiny", "huge", "denormal", "underflow")
#: What centroids do, one word a step. Who has jumped creeps on, twins and copies part, and what went away comes back.
PHRASES = (
    *("still", "tiny", "small", "nudge", "drift", "swap", "all"),
    *("tiny still tiny", "one creep tiny", "one creep creep", "few creep creep", "few tiny creep", "copy tiny tiny"),
    *("copy nudge creep", "away back tiny", "half back drift_half", "half tiny back drift_half"),
)
BUSY = 12  # centroids with most of the rows: those that jump go there


@dataclass(frozen=True)
class Case:
    """A path of centroids, rows beside it, and how they are followed."""

    shape: str = "cloud"
    scale: str = "one"
    n: int = 300
    d: int = 4
    k: int = 100
    groups: int = 2
    moves: str = ""
    dtype: Any = np.float32
    threads: int = 1
    apart: int = 12  # twins are 2^-apart from each other
    seed: int = 0


def start(case: Case, rng: np.random.Generator) -> np.ndarray:
    """Centroids before any move, about four from the origin, in float64."""
    c = 4 * rng.normal(size=(case.k, case.d))
    if case.shape != "cloud":  # there are fewer places than centroids, far from each other
        c += 40 * rng.normal(size=(case.groups, case.d))[rng.integers(0, case.groups, case.k)]
    if case.shape == "line":  # where all moves are along it, distances change by just as much as centroids move
        c[:, 1:] = 0
    elif case.shape == "twins":
        half = case.k // 2
        c[half : 2 * half] = c[:half] + 2.0**-case.apart * rng.normal(size=(half, case.d))
    elif case.shape == "copies":
        c = c[rng.integers(0, max(1, case.k // 3), case.k)]
    return c


def move(word: str, path: list[np.ndarray], case: Case, rng: np.random.Generator) -> np.ndarray:
    """The centroids that follow those of the path."""
    c = path[-1].copy()
    k, d = c.shape
    along = np.arange(d) == 0 if case.shape == "line" else np.ones(d)
    one, to = rng.integers(0, k), rng.integers(0, min(k, BUSY))
    crowd = np.abs(c - c[one]).sum(axis=1).argsort()[: max(1, k // 32)]  # neighbours, of one group most likely
    high = c[:, 0] >= np.median(c[:, 0])
    step = along * rng.normal(size=d)
    if word == "tiny":
        c += 2.0 ** -rng.integers(6, 30) * along * rng.normal(size=(k, d))
    elif word == "small":
        c += 2.0 ** -rng.integers(1, 6) * along * rng.normal(size=(k, d))
    elif word == "nudge":
        c[to, 0] *= 1 + 2.0**-22
    elif word == "drift":
        c += step * 2.0 ** -rng.integers(1, 12)
    elif word == "drift_half":
        c[high] += step * 2.0 ** -rng.integers(1, 12)
    elif word == "one":
        c[one] = c[to] + step
    elif word == "few":
        c[crowd] = c[to] + along * rng.normal(size=(len(crowd), d))
    elif word == "copy":
        c[rng.integers(0, k, max(1, k // 16))] = c[to]
    elif word == "creep":
        gone = np.abs(c - path[max(len(path) - 2, 0)]).sum(axis=1).argsort()[-len(crowd) :]
        for j in gone[-rng.integers(1, len(crowd) + 1) :]:
            near = np.abs(c[:BUSY] - c[j]).sum(axis=1).argmin()
            c[j] += rng.uniform(0.1, 0.9) * (c[near] - c[j])
    elif word == "swap":
        c[[one, to]] = c[[to, one]]
    elif word == "all":
        c = c[rng.permutation(k)] + step
    elif word == "away":
        c[one] += 2.0 ** rng.integers(3, 14) * step
    elif word == "half":
        c[high] += 2.0 ** rng.integers(3, 14) * step
    elif word == "back":
        c = path[max(len(path) - 2, 0)].copy()
    else:
        assert word == "still"
    return c


def rows_beside(path: list[np.ndarray], case: Case, rng: np.random.Generator) -> np.ndarray:
    """Rows around centroids, and between neighbours among them at some step, as near to the middle as can be."""
    x = np.empty((case.n, case.d))
    at = rng.integers(0, len(path), case.n)
    for step, c in enumerate(path):
        m = int((at == step).sum())
        chosen = rng.integers(0, min(case.k, BUSY) if rng.random() < 0.7 else case.k, m)
        apart = (c * c).sum(axis=1) - 2 * c[chosen] @ c.T
        apart[np.arange(m), chosen] = np.inf
        a, b = c[chosen], c[apart.argmin(axis=1)]
        off = rng.choice([-1, 0, 1], (m, 1)) * 2.0 ** -rng.integers(2, 28, (m, 1))
        around = a + rng.normal(size=(m, case.d)) * (np.arange(case.d) == 0 if case.shape == "line" else 1)
        x[at == step] = np.where(rng.random((m, 1)) < 0.75, around, (a + b) / 2 + off * (b - a))
    if case.shape == "copies":
        x = x[rng.integers(0, max(1, case.n // 10), case.n)]
    return x


def build(case: Case) -> tuple[np.ndarray, list[np.ndarray]]:
    """Rows, and the centroids of every step."""
    rng = np.random.default_rng(case.seed)
    path = [start(case, rng)]
    for word in case.moves.split():
        path.append(move(word, path, case, rng))
    x = rows_beside(path, case, rng)
    if case.scale == "outlier":
        x[-1] = 1e9
    narrow = case.dtype == np.float32
    factor = {
        "tiny": 1e-30,
        "huge": 1e30,
        "denormal": 1e-42 if narrow else 1e-310,
        "underflow": 1e-25 if narrow else 1e-170,
    }.get(case.scale, 1.0)
    offset = 1e6 if case.scale == "offset" else 0.0

    def stored(values: np.ndarray) -> np.ndarray:
        values = np.rint(values) if case.shape == "whole" else values
        return np.ascontiguousarray(values * factor + offset, dtype=case.dtype)

    return stored(x), [stored(c) for c in path]


def frame_of(x: np.ndarray) -> Frame:
    center = np.median(x.astype(np.float64), axis=0).astype(x.dtype).astype(np.float64)
    return Frame(center, float(np.abs(x - center).max()))


def form_of(case: Case, blunt: int) -> str:
    """How rows are scored after so many calls whose bounds left a quarter of the rows open."""
    if case.d <= FEW_FEATURES:
        return "difference" if case.dtype == np.float32 else "product"
    return "integer" if native().isa() in INTEGERS and not blunt else "product"


def check(case: Case) -> Counter[tuple[str, int, bool]]:
    """Follow the rows of a case; returns how often each form, plan and whether with movers came up."""
    from gpukm.backends.cpu import CpuBackend

    x, path = build(case)
    frame, backend = frame_of(x), CpuBackend(case.threads)
    tracker = backend.follow(x, path[0], case.groups)
    labels = np.zeros(len(x), np.int32)
    met: Counter[tuple[str, int, bool]] = Counter()
    blunt = 0
    for step, c in enumerate(path):
        rechecked = backend.track(tracker, x, c, frame, labels)
        expected = backend.cross_distances(x, c).argmin(axis=1)
        where = f"step {step}, plan {tracker.plan}, {tracker.movers} movers, {form_of(case, blunt)}"
        np.testing.assert_array_equal(labels, expected, err_msg=where)
        met[form_of(case, blunt), tracker.plan, tracker.movers > 0] += 1
        blunt += tracker.plan != PLAIN and 4 * rechecked >= len(x)
    return met


@st.composite
def cases(draw: st.DrawFn) -> Case:
    if draw(st.booleans()):  # where bounds pay most of the time
        d, k = draw(st.integers(12, 50)), draw(st.integers(250, 400))
        shape, groups = draw(st.sampled_from(["islands", "twins", "line"])), k // 40
    else:
        d = draw(st.one_of(st.integers(1, 40), st.sampled_from([100, 131, 520])))
        k = draw(st.integers(1, 400 if d < 100 else 100))
        shape, groups = draw(st.sampled_from(SHAPES)), draw(st.sampled_from([1, 2, k // 40, k // 20, k // 8]))
    return Case(
        shape=shape,
        scale=draw(st.one_of(st.just("one"), st.sampled_from(SCALES))),
        n=draw(st.one_of(st.just(130), st.integers(1, 130))),
        d=d,
        k=k,
        groups=max(1, min(k, groups)),
        moves=" ".join(draw(st.lists(st.sampled_from(PHRASES), min_size=1, max_size=6))),
        dtype=draw(st.sampled_from([np.float32, np.float64])),
        threads=draw(st.sampled_from([1, 1, 1, 3])),
        apart=draw(st.integers(4, 30)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def test_rows_followed_have_the_labels_of_d() -> None:
    met: Counter[tuple[str, int, bool]] = Counter()

    @settings(max_examples=300, deadline=None)
    @given(cases())
    @example(Case(shape="twins", n=300, d=100, k=27, groups=1, apart=4, moves="nudge drift still"))
    def follow(case: Case) -> None:
        met.update(check(case))

    follow()
    followed = sum(times for (_, plan, _), times in met.items() if plan == FOLLOW)
    assert followed > met.total() / 50, "hardly any call follows bounds: these cases prove nothing"


#: Paths that leave bounds and follow them, with centroids that stand apart and without, in every form.
FOLLOWED = Case(
    shape="islands",
    n=260,
    k=400,
    groups=10,
    moves="still tiny one creep tiny away back drift_half tiny few creep tiny copy tiny still one creep",
)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("form", "case"),
    [
        ("difference", replace(FOLLOWED, d=8)),
        ("integer", replace(FOLLOWED, d=40)),
        ("product", replace(FOLLOWED, d=40, shape="twins")),
        ("product of float64", replace(FOLLOWED, d=40, shape="twins", apart=22)),
    ],
)
def test_bounds_are_followed_in_every_form(form: str, case: Case, dtype: Any, threads: int) -> None:
    met = check(replace(case, dtype=dtype, threads=threads))
    if form == "difference":
        form = "difference" if dtype == np.float32 else "product"
    else:
        form = "product" if native().isa() not in INTEGERS else form.split()[0]
    assert met[form, FOLLOW, True] and met[form, FOLLOW, False] and met.total() == len(case.moves.split()) + 1


def test_very_many_clusters() -> None:
    path = "still tiny one creep few half back"
    met = check(Case(shape="islands", n=200, d=5, k=20_000, groups=40, moves=path, threads=3))
    assert met["difference", FOLLOW, False] + met["difference", FOLLOW, True] > 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("excursions", [0, 3])
def test_no_bound_has_a_digit_to_spare(excursions: int, dtype: Any) -> None:
    """Half of the centroids come nearer along a line, and the middle passes rows by less and less.

    Excursions beforehand make paths so long that a bound stored against one has lost most of its digits, and the shift
    in the end is so small that it takes those that are left.
    """
    from gpukm.backends.cpu import CpuBackend

    backend, n, k, d = CpuBackend(1), 300, 700, FEW_FEATURES
    for seed in range(10):
        rng = np.random.default_rng(seed)
        start = np.zeros((k, d))
        start[:, 0] = np.sort(np.abs(rng.normal(size=k)) + 1)
        start[: k // 2, 0] = -start[k // 2 :, 0][::-1]
        near, far = start.copy(), start.copy()
        near[k // 2 :, 0] -= rng.uniform(0.1, 0.9) * (2.0**-10 if excursions else 1)
        far[k // 2 :, 0] += 4096 * rng.uniform(1, 2)
        x = np.zeros((n, d))
        x[:, 0] = near[k // 2 - 1 : k // 2 + 1, 0].mean() + 2.0 ** -rng.integers(12, 30, n) * rng.uniform(-1, 1, n)
        x = x.astype(dtype)
        tracker, labels = backend.follow(x, start, 2), np.zeros(n, np.int32)
        for c in (start, start, *(far, start) * excursions, near):
            stored = c.astype(dtype)
            backend.track(tracker, x, stored, frame_of(x), labels)
            np.testing.assert_array_equal(labels, backend.cross_distances(x, stored).argmin(axis=1))
        assert tracker.plan == FOLLOW and tracker.movers == 0 and len(np.unique(labels)) == 2


@dataclass(frozen=True)
class Fit:
    """A whole fit of the rows of a case."""

    case: Case
    init: str = "centroids"
    weight: str = "none"
    max_iter: int = 12
    threads: int = 1


@st.composite
def fits(draw: st.DrawFn) -> Fit:
    many = draw(st.booleans())  # clusters and features, for bounds to pay
    k = draw(st.integers(120, 160) if many else st.integers(1, 60))
    case = Case(
        shape=draw(st.sampled_from(SHAPES)),
        scale=draw(st.sampled_from(["one", "one", "offset", "outlier", "tiny"])),
        n=6 * k if many else k + draw(st.sampled_from([0, 1, 50, 300])),
        d=draw(st.integers(60, 90) if many else st.integers(1, 40)),
        k=k,
        groups=8,
        dtype=draw(st.sampled_from([np.float32, np.float64])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
    return Fit(
        case=case,
        init=draw(st.sampled_from(["centroids", "rows", "far", "copies", "k-means++"])),
        weight=draw(st.sampled_from(["none", "some", "none of many"])),
        max_iter=draw(st.sampled_from([1, 2, 12, 12])),
        threads=draw(st.sampled_from([1, 1, 3])),
    )


def whole(fit: Fit, **how: Any) -> Any:
    """What a fit ends with and how it went; no centroid and no label is left out of the digest."""
    x, [start] = build(fit.case)
    k = len(start)
    rng = np.random.default_rng(fit.case.seed)
    if fit.init == "rows":
        start = x[rng.permutation(len(x))[:k]]
    elif fit.init == "far":  # half of the clusters begin empty
        start[k // 2 :] += 8 * (x.max() - x.min())
    elif fit.init == "copies":
        start = start[rng.integers(0, max(1, k // 4), k)]
    weight = None if fit.weight == "none" else rng.uniform(0, 2, len(x))
    if weight is not None and fit.weight == "none of many":
        weight[rng.permutation(len(x))[1 : len(x) // 2]] = 0
    init = "k-means++" if fit.init == "k-means++" else start
    return kmeans(x, k, init=init, sample_weight=weight, max_iter=fit.max_iter, tol=0.0, seed=7, n_init=1, **how)


def bits(found: Any) -> tuple[object, ...]:
    history = [(r.iteration, r.inertia, r.shift, r.n_empty, r.n_moved) for r in found.history]
    return found.digest(), found.n_iter, found.stop, history, found.counts.tolist(), found.weights.tolist()


def test_whole_fits_have_the_bits_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpukm.backends.cpu import CpuBackend

    met: Counter[str] = Counter()
    track = CpuBackend.track

    def noted(self: CpuBackend, tracker: Any, *args: Any) -> int:
        rechecked = track(self, tracker, *args)
        met["followed"] += tracker.plan == FOLLOW
        return rechecked

    monkeypatch.setattr(CpuBackend, "track", noted)

    @settings(max_examples=30, deadline=None)
    @given(fits())
    @example(Fit(Case(n=1800, d=200, k=300), init="rows", weight="some"))
    @example(Fit(Case(n=1800, d=200, k=300), init="far", weight="none of many"))
    @example(Fit(Case(shape="whole", n=30, d=3, k=30), init="far"))
    def compare(fit: Fit) -> None:
        expected = whole(fit, backend="numpy")
        assert bits(whole(fit, backend="cpu", threads=fit.threads, watched=True)) == bits(expected)
        met["began with empty clusters"] += expected.history[0].n_empty > 0

    compare()
    assert met["followed"] > 0 and met["began with empty clusters"] > 0


@pytest.mark.parametrize("isa", OTHERS)
def test_every_other_instruction_set_of_this_processor(isa: str) -> None:
    """The instruction set is chosen once a process, so the others run in processes of their own."""
    env = dict(os.environ, GPUKM_ISA=isa, OMP_WAIT_POLICY="passive")
    probe = [sys.executable, "-c", "from gpukm_kernels import native_status as s; print(s()[0])"]
    if subprocess.run(probe, env=env, capture_output=True, text=True, check=True).stdout.strip() != "True":
        pytest.skip(f"this processor does not run {isa}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull]
    command += ["--import-mode=importlib", __file__, "-k", "followed_in_every_form or digit_to_spare or near_rows"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_mover_near_rows_that_its_group_is_not_scored_for() -> None:
    """Most rows are scored against a group, so all are; the few others must not forget its mover beside them."""
    from gpukm.backends.cpu import CpuBackend

    rng = np.random.default_rng(0)
    c = np.zeros((700, FEW_FEATURES), np.float32)
    c[:, 0] = (1000 * np.arange(10)[:, None] + np.sort(rng.uniform(0, 3, (10, 70)), axis=1)).ravel()
    c[0, 0] = -100
    x = np.zeros((300, FEW_FEATURES), np.float32)
    x[:, 0] = (c[69, 0] + c[70, 0]) / 2 + rng.uniform(-1e-4, 1e-4, 300)
    x[::7, 0] = -100 + rng.uniform(-0.5, 0.5, len(x[::7]))
    landed = c.copy()
    landed[139::70, 0] += 1e5  # the last of each group but the first leaves it
    landed[139, 0] = -98.5
    crept = landed.copy()
    crept[139, 0] = -100.05
    backend = CpuBackend(1)
    tracker, labels, plans = backend.follow(x, c, 10), np.zeros(len(x), np.int32), []
    for now in (c, c, landed, crept):
        backend.track(tracker, x, now, frame_of(x), labels)
        np.testing.assert_array_equal(labels, backend.cross_distances(x, now).argmin(axis=1))
        plans.append((tracker.plan, tracker.movers > 0))
    assert plans[2:] == [(FOLLOW, True), (FOLLOW, False)] and 139 in labels
