"""Workers that a real SLURM of one node starts as its jobs: its daemons run here, with files of their own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import Gpukm, command, environment
from tests.faults import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
CONFIG = """
ClusterName=gpukm
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
MpiDefault=none
KillWait=1
SchedulerParameters=sched_min_interval=1000,batch_sched_delay=0,sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=8000 Boards=1 SocketsPerBoard=1 CoresPerSocket=8 ThreadsPerCore=1
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which its commands find this SLURM."""
    path = os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin"
    missing = [name for name in DAEMONS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"not run: {', '.join(missing)} are not installed (Debian: slurmctld, slurmd, slurm-client, munge)")
    if os.geteuid() != 0:
        pytest.skip("not run: slurmd starts jobs for others, and needs root")
    folder = tmp_path_factory.mktemp("slurm")
    host = socket.gethostname().partition(".")[0]
    ports = free_ports(2)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(folder=folder, host=host, controller=ports[0], daemon=ports[1]))
    for name in ("spool", "state"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    env = {**environment(), "PATH": path, "SLURM_CONF": str(config)}
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    lines = [
        ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket", *munge],
        ["slurmctld", "-D", "-c", "-f", str(config)],
        ["slurmd", "-D", "-N", host, "-f", str(config)],
    ]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for line in lines:
            with (folder / f"{line[0]}.out").open("wb") as log:
                running.append(subprocess.Popen(line, env=env, stdout=log, stderr=log, start_new_session=True))
            if line[0] == "munged":
                wait_until((folder / "munge.socket").exists, "munged", 10)
        reason = ""
        for _ in range(100):
            state = subprocess.run(["sinfo", "-h", "-o", "%t"], env=env, capture_output=True, text=True, check=False)
            reason = (state.stdout + state.stderr).strip()
            if reason == "idle" or any(process.poll() is not None for process in running):
                break
            time.sleep(0.2)
        if reason != "idle":
            said = {line[0]: (folder / f"{line[0]}.out").read_text()[-200:] for line in lines[1:]}
            pytest.skip(f"not run: SLURM's daemons do not start here: {reason}; {said}")
        yield env
        subprocess.run(["scancel", "--full", "-u", "root"], env=env, capture_output=True, check=False)
        wait_until(lambda: not jobs(env), "jobs to end", 20)
    finally:
        for process in reversed(running):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def free_ports(n: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return found


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
