"""A SLURM of one node in a folder, where Debian's slurmctld, slurmd, slurm-client and munge are installed."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo", "squeue", "scancel")
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin"])

_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={control}
SlurmdPort={node}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=8000 Gres=gpu:1 State=UNKNOWN
PartitionName=gpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def running_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start the daemons; yields the variables with which the commands find them. Skips where they cannot start."""
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing:
        pytest.skip(f"no SLURM: {', '.join(missing)} not installed (Debian: slurmctld slurmd slurm-client munge)")
    if os.geteuid() != 0:
        pytest.skip("SLURM's node daemon runs as root alone")
    host = socket.gethostname().split(".")[0]
    ports = _free_ports(2)
    text = _CONFIG.format(folder=folder, host=host, control=ports[0], node=ports[1])
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/null\n")
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    variables = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _PATH}
    environment = {**os.environ, **variables}
    processes: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        log = (folder / f"{command[0]}.out").open("wb")
        with log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    try:
        files = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        start("munged", "--foreground", "--force", f"--key-file={key}", *files)
        _wait_for(folder / "munge.socket")
        start("slurmctld", "-D", "-i")
        start("slurmd", "-D", "-N", host)
        _wait_until_idle(environment, folder, processes)
        yield variables
        _drain(environment)
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _drain(environment: dict[str, str]) -> None:
    """End all jobs and wait until they are gone, or their processes would outlive the daemons."""
    subprocess.run(["scancel", "--full", "-u", "root"], env=environment, capture_output=True, timeout=20, check=False)
    for _ in range(100):
        done = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, timeout=20, check=False)
        if not done.stdout.strip():
            return
        time.sleep(0.1)


def _wait_for(path: Path) -> None:
    """Wait until a file is there."""
    for _ in range(100):
        if path.exists():
            return
        time.sleep(0.05)


def _wait_until_idle(environment: dict[str, str], folder: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    """Wait until the node takes jobs."""
    for _ in range(100):
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, timeout=20, check=False
        )
        if done.stdout.strip() == "idle":
            return
        if any(process.poll() is not None for process in processes):
            break
        time.sleep(0.2)
    lines = [
        line
        for name in ("slurmctld.out", "slurmd.out", "munged.out", "slurmctld.log", "slurmd.log")
        if (folder / name).exists()
        for line in (folder / name).read_text(errors="replace").splitlines()
        if "error" in line or "fatal" in line
    ]
    pytest.skip(f"SLURM's daemons do not start here: {' | '.join(lines[-3:])}")


def _free_ports(n: int) -> list[int]:
    """Ports that nobody listens on."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [server.getsockname()[1] for server in taken]
    for server in taken:
        server.close()
    return ports
