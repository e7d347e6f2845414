"""Fits that are stopped anywhere and gone on with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from gpukm.checkpoint import load
from gpukm.config import Settings
from gpukm.core.result import FitResult
from gpukm.errors import ConfigError
from gpukm.functional import FitProgress
from gpukm.pipeline import fitting
from gpukm.pipeline.progress import Progress
from gpukm.pipeline.reading import Reading, read
from gpukm.plan import TrainPlan
from gpukm.sources.array import ArraySource

SETTINGS = Settings(n_clusters=6, n_init=3, init="random", max_iter=8, tol=0.0, seed=4, backend="numpy")


class Stopped(Exception):
    """Stands for whatever stops a fit."""


@pytest.fixture
def reading() -> Reading:
    """A few hundred rows without structure, held in memory."""
    x = np.random.default_rng(0).random((300, 3), np.float32)
    return read(ArraySource(x), 100, 1000, Progress())


@pytest.fixture
def planned() -> TrainPlan:
    """Only the batch size matters."""
    return TrainPlan("x", 300, 3, 6, "float32", True, 3600, 1 << 30, 1 << 20, 100, 1000, (), 1.0)


def run(reading: Reading, planned: TrainPlan, settings: Settings, resume: bool = False) -> tuple[FitResult, int]:
    """Fit the rows of a reading."""
    assert reading.held is not None
    return fitting.fit_with_checkpoints(
        reading.held.packed(), settings, {"seed": settings.seed}, reading, planned, resume=resume, progress=Progress()
    )


def fields(result: FitResult) -> object:
    """What must not depend on a stop: the bits, and the history but for rows moved."""
    records = [(r.iteration, r.inertia, r.shift, r.n_empty) for r in result.history]
    return result.digest(), records, result.n_init, result.best_init, result.stop, result.counts.tolist()


def test_a_fit_stopped_after_any_iteration_ends_with_the_same_bits(
    tmp_path: Path, reading: Reading, planned: TrainPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _ = run(reading, planned, SETTINGS)
    settings = SETTINGS.model_copy(update={"checkpoint": str(tmp_path / "c")})
    seen: list[tuple[int, int]] = []
    see = fitting._Keeper.see

    def see_and_stop(self: fitting._Keeper, step: FitProgress) -> None:
        see(self, step)
        seen.append((step.init, step.state.record.iteration))
        if len(seen) == stop_after:
            raise Stopped

    monkeypatch.setattr(fitting._Keeper, "see", see_and_stop)
    total = 0
    for stop_after in range(1, 100):
        seen.clear()
        try:
            run(reading, planned, settings)
        except Stopped:
            found = load(tmp_path / "c")
            at_end = seen[-1][1] == 8  # the state after a loop's end is not kept, the one before is
            assert (found.init, found.iteration) == (seen[-1][0], seen[-1][1] - at_end)
            assert (found.best is None) == (found.init == 0)
            seen.clear()
            seen.extend([(0, 0)] * 200)  # do not stop again
            resumed, iteration = run(reading, planned, settings, resume=True)
            assert iteration == found.iteration
            assert fields(resumed) == fields(wanted)
            (tmp_path / "c").unlink()
        else:
            total = stop_after - 1
            break
    assert total >= 3 * 5


def test_a_fit_may_be_stopped_again_and_again(
    tmp_path: Path, reading: Reading, planned: TrainPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _ = run(reading, planned, SETTINGS)
    settings = SETTINGS.model_copy(update={"checkpoint": str(tmp_path / "c")})
    see = fitting._Keeper.see
    seen: list[FitProgress] = []

    def see_and_stop(self: fitting._Keeper, step: FitProgress) -> None:
        see(self, step)
        seen.append(step)
        if len(seen) == 3:  # two steps on each time, as one may be a repetition
            seen.clear()
            raise Stopped

    monkeypatch.setattr(fitting._Keeper, "see", see_and_stop)
    stops = 0
    while stops < 50:
        try:
            result, _ = run(reading, planned, settings, resume=stops > 0)
            break
        except Stopped:
            stops += 1
    assert stops >= 5
    assert fields(result) == fields(wanted)


def test_a_state_of_another_fit_is_refused(tmp_path: Path, reading: Reading, planned: TrainPlan) -> None:
    settings = SETTINGS.model_copy(update={"checkpoint": str(tmp_path / "c")})
    run(reading, planned, settings)
    shutil.copy(tmp_path / "c", tmp_path / "d")
    with pytest.raises(ConfigError, match="seed was 4 and is 5"):
        run(reading, planned, settings.model_copy(update={"seed": 5}), resume=True)
    assert (tmp_path / "c").read_bytes() == (tmp_path / "d").read_bytes()


def test_saving_takes_little_of_the_time(
    tmp_path: Path, reading: Reading, planned: TrainPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(update={"checkpoint": str(tmp_path / "c")})
    now, saved = [0.0], []

    def tick() -> float:
        now[0] += 1.0
        return now[0]

    def slow_save(path: object, checkpoint: object) -> None:
        now[0] += 10.0
        saved.append(checkpoint)

    monkeypatch.setattr(fitting, "save", slow_save)
    monkeypatch.setattr(fitting.time, "monotonic", tick)
    run(reading, planned, settings)
    assert len(saved) == 2  # the first state, and the newest at the end
