"""Fits whose workers a real SLURM of one node starts as its jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import Gpukm, command, environment
from tests.faults import wait_until
from tests.slurm import running_slurm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which its commands find a SLURM."""
    with running_slurm(tmp_path_factory.mktemp("slurm")) as variables:
        yield {**environment(), **variables}


def jobs(env: dict[str, str]) -> list[str]:
    """Numbers of SLURM's jobs."""
    done = subprocess.run(["squeue", "-h", "-o", "%i"], env=env, capture_output=True, text=True, check=True)
    return done.stdout.split()


def profile(folder: Path, **more: object) -> str:
    """A profile of two small jobs."""
    keys = {"cores": 1, "memory": "1GB", "jobs": 2, "scheduler_host": "127.0.0.1", "python": sys.executable}
    keys |= {"log_directory": str(folder), "local_directory": str(folder), "wait_seconds": 60, **more}
    lines = [f"{k} = {v}" if isinstance(v, int) else f"{k} = {v!r}" for k, v in keys.items()]
    # A test's interpreter may find gpukm by a path that jobs are not given.
    lines.append(f"prologue = ['export PYTHONPATH={os.environ.get('PYTHONPATH', '')}']")
    (folder / "slurm.toml").write_text("\n".join(lines))
    return f"slurm:{folder}/slurm.toml"


FIT = ("train", "x.npy", "-k", "64", "--init", "random", "--n-init", "1", "--tol", "0", "--max-iter")


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20_000, 6), np.float32))
    return tmp_path / "x.npy"


def test_jobs_are_workers(tmp_path: Path, numbers: Path, slurm: dict[str, str], gpukm: Gpukm) -> None:
    alone = gpukm(*FIT, "10", "--json").data
    found = gpukm(*FIT, "10", "--json", "--cluster", profile(tmp_path), env=slurm)
    assert found.code == 0, found.err
    assert found.data["id"] == alone["id"]
    assert "workers with" in found.err
    wait_until(lambda: not jobs(slurm), "jobs to end with the program", 20)


def test_a_job_that_is_cancelled_costs_no_bit(
    tmp_path: Path, numbers: Path, slurm: dict[str, str], gpukm: Gpukm
) -> None:
    alone = gpukm(*FIT, "200", "--json").data
    kept = ("--checkpoint", "c", "--checkpoint-seconds", "0", "--json", "--cluster", profile(tmp_path))
    line, pipe = command(*FIT, "200", *kept), subprocess.PIPE
    process = subprocess.Popen(line, cwd=tmp_path, env=slurm, stdout=pipe, stderr=pipe, text=True)
    try:
        wait_until(lambda: any((tmp_path / "c").glob("*.safetensors")) or process.poll() is not None, "a state", 90)
        wait_until(lambda: len(jobs(slurm)) == 2 or process.poll() is not None, "both jobs", 30)
        assert process.poll() is None, process.communicate()[1]
        subprocess.run(["scancel", "--signal=KILL", "--full", jobs(slurm)[0]], env=slurm, check=True)
        out, err = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert f'"id": "{alone["id"]}"' in out
    wait_until(lambda: not jobs(slurm), "jobs to end with the program", 20)


def test_a_job_that_slurm_has_no_room_for(tmp_path: Path, numbers: Path, slurm: dict[str, str], gpukm: Gpukm) -> None:
    found = gpukm(*FIT, "3", "--cluster", profile(tmp_path, cores=64), env=slurm)
    assert found.code == 6, found.err
    assert "SLURM takes no such job" in found.err and "Traceback" not in found.err
