"""Fits that are stopped anywhere and gone on with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpukm.checkpoint import Checkpoint
from gpukm.config import Settings
from gpukm.core.result import FitResult
from gpukm.errors import ConfigError
from gpukm.functional import FitProgress
from gpukm.pipeline import fitting
from gpukm.pipeline.checkpoints import Checkpoints
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


def run(
    reading: Reading, planned: TrainPlan, settings: Settings, place: Checkpoints | None = None, resume: bool = False
) -> tuple[FitResult, int, tuple[str, ...]]:
    """Fit the rows of a reading."""
    assert reading.held is not None
    return fitting.fit_with_checkpoints(
        reading.held.packed(), settings, {"seed": settings.seed}, reading, planned,
        checkpoints=place, resume=resume, progress=Progress(),
    )  # fmt: skip


def newest(place: Checkpoints) -> Checkpoint:
    """What a resumed fit begins with."""
    found = place.newest()
    assert found is not None
    return found


def fields(result: FitResult) -> object:
    """What must not depend on a stop: the bits, and the history but for rows moved."""
    records = [(r.iteration, r.inertia, r.shift, r.n_empty) for r in result.history]
    return result.digest(), records, result.n_init, result.best_init, result.stop, result.counts.tolist()


def test_a_fit_stopped_after_any_iteration_ends_with_the_same_bits(
    tmp_path: Path, reading: Reading, planned: TrainPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _, _ = run(reading, planned, SETTINGS)
    place = Checkpoints.open(str(tmp_path / "c"))
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
            run(reading, planned, SETTINGS, place)
        except Stopped:
            found = newest(place)
            at_end = seen[-1][1] == 8  # the state after a loop's end is not kept, the one before is
            assert (found.init, found.iteration) == (seen[-1][0], seen[-1][1] - at_end)
            assert (found.best is None) == (found.init == 0)
            seen.clear()
            seen.extend([(0, 0)] * 200)  # do not stop again
            resumed, iteration, warnings = run(reading, planned, SETTINGS, place, resume=True)
            assert iteration == found.iteration and not warnings
            assert fields(resumed) == fields(wanted)
            place.clear()
        else:
            total = stop_after - 1
            break
    assert total >= 3 * 5


def test_a_fit_may_be_stopped_again_and_again(
    tmp_path: Path, reading: Reading, planned: TrainPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _, _ = run(reading, planned, SETTINGS)
    place = Checkpoints.open(str(tmp_path / "c"))
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
            result, _, _ = run(reading, planned, SETTINGS, place, resume=stops > 0)
            break
        except Stopped:
            stops += 1
    assert stops >= 5
    assert fields(result) == fields(wanted)


def test_a_state_of_another_fit_is_refused(tmp_path: Path, reading: Reading, planned: TrainPlan) -> None:
    place = Checkpoints.open(str(tmp_path / "c"))
    run(reading, planned, SETTINGS, place)
    before = {path.name: path.read_bytes() for path in (tmp_path / "c").glob("*.safetensors")}
    with pytest.raises(ConfigError, match="seed was 4 and is 5"):
        run(reading, planned, SETTINGS.model_copy(update={"seed": 5}), place, resume=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "c").glob("*.safetensors")} == before


@pytest.mark.parametrize("damage", [b"", b"half"])
def test_a_damaged_state_is_said_and_the_one_before_taken(
    tmp_path: Path, reading: Reading, planned: TrainPlan, damage: bytes
) -> None:
    settings = SETTINGS.model_copy(update={"checkpoint_seconds": 0.0})
    wanted, _, _ = run(reading, planned, settings)
    place = Checkpoints.open(str(tmp_path / "c"))
    run(reading, planned, settings, place)
    last = max((tmp_path / "c").glob("*.safetensors"))
    last.write_bytes(damage)
    resumed, _, warnings = run(reading, planned, settings, place, resume=True)
    assert fields(resumed) == fields(wanted)
    assert len(warnings) == 1 and last.name in warnings[0] and "going on from the one before" in warnings[0]


class Costly(Checkpoints):
    """A place where saving takes ten seconds and sometimes fails; the fit itself takes one an iteration."""

    def __init__(self, fails: tuple[int, ...] = ()) -> None:
        self.now, self.saved, self.tries, self.fails = 0.0, [], 0, fails  # type: ignore[var-annotated]

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    def newest(self, warn: object = None) -> Checkpoint | None:
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        self.now += 10.0
        self.tries += 1
        if self.tries in self.fails:
            raise ConfigError("the service is away")
        self.saved.append((checkpoint.init, checkpoint.iteration, self.now))


@pytest.mark.parametrize(("every", "expected"), [(0.0, 2), (1000.0, 2)])
def test_saving_takes_little_of_the_time(
    reading: Reading, planned: TrainPlan, monkeypatch: pytest.MonkeyPatch, every: float, expected: int
) -> None:
    place = Costly()
    monkeypatch.setattr(fitting.time, "monotonic", place.tick)
    run(reading, planned, SETTINGS.model_copy(update={"checkpoint_seconds": every}), place)
    assert len(place.saved) == expected  # the first state, and the newest at the end


def test_saving_heeds_the_interval(reading: Reading, planned: TrainPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_SHARE", 1e9)  # as if it cost nothing
    counts = []
    for every in (0.0, 5.0):
        place = Costly()
        monkeypatch.setattr(fitting.time, "monotonic", place.tick)
        run(reading, planned, SETTINGS.model_copy(update={"checkpoint_seconds": every}), place)
        counts.append(len(place.saved))
        gaps = np.diff([at for _, _, at in place.saved[:-1]])
        assert (gaps >= every + 10.0).all()
    assert counts[0] == 3 * 7 > counts[1] > 3


def test_a_place_that_fails_at_once_is_an_error_and_later_a_warning(
    reading: Reading, planned: TrainPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _, _ = run(reading, planned, SETTINGS)
    monkeypatch.setattr(fitting, "_SHARE", 1e9)
    settings = SETTINGS.model_copy(update={"checkpoint_seconds": 0.0})
    with pytest.raises(ConfigError, match="the service is away"):
        run(reading, planned, settings, Costly(fails=(1,)))
    place = Costly(fails=(2, 4))
    result, _, warnings = run(reading, planned, settings, place)
    assert fields(result) == fields(wanted)
    assert warnings == ("2 checkpoints were not saved: the service is away",)
    assert place.saved[-1][:2] == (2, 7)
