"""Where checkpoints are kept: folders and object stores alike."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from gpukm.checkpoint import Checkpoint, decode
from gpukm.core.result import IterationRecord
from gpukm.errors import ConfigError, SnapshotCorruptError
from gpukm.pipeline.checkpoints import Checkpoints
from gpukm.snapshots.files import Files, LocalFiles, RemoteFiles, open_files
from tests.s3 import make_bucket, needs_s3, s3_options

_names = itertools.count()


def state(iteration: int) -> Checkpoint:
    """A fit after so many iterations."""
    import numpy as np

    history = tuple(IterationRecord(i + 1, 1.0 / (i + 1), 0.5, 1, 0) for i in range(iteration))
    return Checkpoint({"seed": 1}, {"fingerprint": "ab"}, 0, np.full((3, 2), float(iteration)), history)


class CheckpointsConformance:
    """What holds wherever they are."""

    @pytest.fixture(params=["", "jobs/17/checkpoint"])
    def place(self, files: Files, request: pytest.FixtureRequest) -> Checkpoints:
        return Checkpoints(files, request.param)

    def test_none_is_there_at_first(self, place: Checkpoints) -> None:
        place.check()
        assert not place.exist() and place.newest() is None
        place.clear()

    def test_the_newest_counts_and_two_are_kept(self, place: Checkpoints, files: Files) -> None:
        for iteration in (1, 2, 3, 4):
            place.save(state(iteration))
            found = place.newest()
            assert found is not None and found.iteration == iteration
            assert len(place._numbers()) == min(iteration, 2)
        again = Checkpoints(files, place._prefix)
        again.check()
        assert again.exist()
        found = again.newest()
        assert found is not None and found.centroids.tobytes() == state(4).centroids.tobytes()

    def test_a_damaged_one_is_passed_over_and_goes_first(self, place: Checkpoints, files: Files) -> None:
        place.save(state(1))
        place.save(state(2))
        [whole, last] = place._numbers()
        files.remove(place._path(last))
        assert files.create(place._path(last), [b"half"])
        said: list[str] = []
        found = place.newest(said.append)
        assert found is not None and found.iteration == 1
        assert len(said) == 1 and place.location in said[0] and "of iteration 1" in said[0]
        place.save(state(5))
        assert place._numbers() == [whole, last + 1]
        assert decode(files.read(place._path(last + 1), 1 << 20), "x").iteration == 5

    def test_all_damaged(self, place: Checkpoints, files: Files) -> None:
        files.create(place._path(1), [b"x"])
        files.create(place._path(2), [b""])
        with pytest.raises(SnapshotCorruptError, match=r"no checkpoint is whole: .*without --resume"):
            place.newest()

    def test_clearing_leaves_what_is_beside_it(self, place: Checkpoints, files: Files) -> None:
        files.create("store.json", [b"{}"])
        place.save(state(1))
        place.save(state(2))
        place.clear()
        assert not place.exist() and not [n for n in files.names(place._prefix) if n.endswith(".safetensors")]
        assert files.read("store.json", 10) == b"{}"

    def test_a_folder_with_other_things_is_refused(self, place: Checkpoints, files: Files) -> None:
        files.create(f"{place._prefix}/photo.jpg".lstrip("/"), [b"x"])
        with pytest.raises(ConfigError, match=r"holds other things: photo\.jpg"):
            place.check()

    def test_two_runs_of_one_fit_do_not_disturb_each_other(self, place: Checkpoints, files: Files) -> None:
        other = Checkpoints(files, place._prefix)
        for iteration in (1, 2, 3):
            place.save(state(iteration))
            other.save(state(iteration))
        found = place.newest()
        assert found is not None and found.iteration == 3

    def test_a_number_that_a_second_run_has_just_taken(
        self, place: Checkpoints, files: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Checkpoints(files, place._prefix).save(state(1))
        monkeypatch.setattr(place, "_numbers", list)  # it looked before
        place.save(state(2))
        found = Checkpoints(files, place._prefix).newest()
        assert found is not None and found.iteration == 2

    def test_removing_what_is_not_there(self, files: Files) -> None:
        files.remove("nothing")
        files.remove_folder("nowhere")


class TestLocal(CheckpointsConformance):
    @pytest.fixture
    def files(self, tmp_path: Path) -> Files:
        return LocalFiles(str(tmp_path / "c"))


class TestMemory(CheckpointsConformance):
    @pytest.fixture
    def files(self) -> Files:
        return open_files(f"memory://checkpoints-{next(_names)}/c")


@needs_s3
class TestS3(CheckpointsConformance):
    @pytest.fixture
    def files(self, s3_endpoint: str) -> Files:
        make_bucket(s3_endpoint, "checkpoints")
        return open_files(f"s3://checkpoints/{next(_names)}", s3_options(s3_endpoint))


def test_a_folder_of_its_own_is_removed_in_the_end(tmp_path: Path) -> None:
    place = Checkpoints.open(str(tmp_path / "a" / "c"))
    place.check()
    assert not (tmp_path / "a").exists()  # looking makes nothing
    place.save(state(1))
    (tmp_path / "a" / "c" / "tmp" / "left by a killed run").write_text("x")
    place.clear()
    assert list((tmp_path / "a").iterdir()) == []


def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("x")
    with pytest.raises(ConfigError, match="c is a file, expected a folder or a URL"):
        Checkpoints.open(str(tmp_path / "c"))


def test_a_place_that_cannot_create_exclusively_is_refused() -> None:
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    with pytest.raises(ConfigError, match="cannot create a file only if it is absent"):
        Checkpoints.open("http://example.invalid/c")


class Full(MemoryFileSystem):
    """A service without room."""

    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False
    full = False

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().pipe_file(path, value, mode)


def test_a_failed_save_leaves_those_before() -> None:
    fs = Full()
    place = Checkpoints(RemoteFiles(fs, "/x", "memory://x"))
    place.save(state(1))
    fs.full = True
    with pytest.raises(ConfigError, match="no room is left"):
        place.save(state(2))
    found = place.newest()
    assert found is not None and found.iteration == 1


SAVES = """
import sys
from tests.unit.pipeline.test_checkpoints import state
from gpukm.pipeline.checkpoints import Checkpoints
place = Checkpoints.open(sys.argv[1])
found = place.newest()
iteration = found.iteration if found else 0
print(iteration, flush=True)
while True:
    iteration += 1
    place.save(state(iteration))
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Any]:
    """Start a process that saves without end."""
    running: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        root = Path(__file__).parents[3]
        code = f"import sys; sys.path.insert(0, {str(root)!r})\n{SAVES}"
        process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "c"], stdout=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_a_kill_while_writing_leaves_a_whole_one(tmp_path: Path, writer: Any) -> None:
    before = 0
    for pause in (0.02, 0.05, 0.11):
        process = writer()
        began = int(process.stdout.readline())
        assert began >= before
        # The process is slow to begin where others work, too.
        end = time.monotonic() + 30
        while (now := Checkpoints.open(str(tmp_path / "c")).newest()) is None or now.iteration <= began:
            assert time.monotonic() < end, "nothing was saved"
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        said: list[str] = []
        found = Checkpoints.open(str(tmp_path / "c")).newest(said.append)
        assert found is not None and found.iteration > before and not said
        assert len(list((tmp_path / "c").glob("*.safetensors"))) <= 3
        before = found.iteration
