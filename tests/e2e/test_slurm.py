"""Workers as jobs of a real SLURM of one node."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpukm.errors import ExecutorError
from gpukm.executors.dask.clusters import open_cluster
from gpukm.executors.dask.preflight import preflight
from tests.e2e.conftest import Gpukm
from tests.slurm import running_slurm

pytestmark = pytest.mark.slow
PROFILE = f"""
cores = 1
memory = "500MB"
jobs = 1
gpus = 1
partition = "gpu"
walltime = "00:05:00"
python = "{sys.executable}"
scheduler_host = "127.0.0.1"
local_directory = "WHERE"
log_directory = "WHERE/logs"
wait_seconds = 60
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    with running_slurm(tmp_path_factory.mktemp("slurm")) as variables:
        yield variables


@pytest.fixture
def profile(tmp_path: Path, slurm: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "slurm.toml"
    path.write_text(PROFILE.replace("WHERE", str(tmp_path)))
    return path


def jobs() -> list[str]:
    """Names of jobs that run or wait."""
    done = subprocess.run(["squeue", "-h", "-o", "%j %T"], capture_output=True, text=True, timeout=20, check=True)
    return [line for line in done.stdout.splitlines() if "COMPLETING" not in line]


def test_workers_are_jobs_that_end_with_the_fit(profile: Path) -> None:
    with open_cluster(f"slurm:{profile}") as client:
        [worker] = preflight(client, needs={"GPU": 1}, paths=[str(profile)]).workers
        assert worker.threads == 1 and dict(worker.resources) == {"GPU": 1.0}
        assert [line.split()[1] for line in jobs()] == ["RUNNING"]
        assert client.submit(sum, [1, 2], resources={"GPU": 1}).result(30) == 3
    for _ in range(100):
        if not jobs():
            return
        time.sleep(0.2)
    pytest.fail(f"jobs are left: {jobs()}")


def test_what_slurm_refuses_is_told_in_its_words(profile: Path) -> None:
    profile.write_text(profile.read_text().replace('"gpu"', '"nowhere"'))
    with pytest.raises(ExecutorError, match="invalid partition specified: nowhere"), open_cluster(f"slurm:{profile}"):
        pass
    assert not jobs()


def test_doctor_lists_them(profile: Path, gpukm: Gpukm) -> None:
    done = gpukm("doctor", "--cluster", f"slurm:{profile}", "--json")
    assert done.code == 0, done.err
    assert [worker["resources"] for worker in json.loads(done.out)["data"]["cluster"]["workers"]] == [{"GPU": 1.0}]
    assert "waiting up to 60 s for a worker of slurm:" in done.err
