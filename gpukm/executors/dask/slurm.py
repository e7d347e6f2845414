"""Workers as SLURM jobs, by dask-jobqueue; the scheduler runs in this process."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpukm.errors import BackendUnavailableError, ConfigError, ExecutorError
from gpukm.executors.dask.profiles import Adapt, at_least
from gpukm.executors.dask.tls import Tls, security, tls_of
from gpukm.sources.memory import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class SlurmProfile:
    """What a job asks for, and how many there are.

    Attributes
    ----------
    cores : int
        A job's processors, shared out over its workers.
    memory : str
        A job's memory, such as ``"64GB"``, likewise.
    jobs : int or None
        Jobs to submit; this or ``adapt``.
    adapt : Adapt or None
        Or from so many to so many, by the work there is.
    processes : int
        Workers a job; with ``gpus`` one a GPU.
    gpus : int
        GPUs a job. Each gets a worker that offers the resource ``GPU=1``; more than one need dask-cuda on the nodes.
    partition, account, walltime : str or None
        As ``sbatch -p``, ``-A`` and ``-t``; without a walltime 30 minutes.
    directives : tuple of str
        Further options of sbatch, such as ``"--constraint=a100"``.
    prologue : tuple of str
        Shell lines that run before the worker: modules, environments.
    python : str or None
        Python on the nodes; by default the path of this one.
    interface : str or None
        Network interface of scheduler and workers, such as ``"ib0"``.
    scheduler_interface, scheduler_host : str or None
        That of the scheduler where it differs, or its address.
    scheduler_port : int
        0 takes any.
    local_directory, log_directory : str or None
        For what workers write aside, and for what jobs print.
    wait_seconds : float
        How long to wait for the first worker: jobs queue.
    tls_ca, tls_cert, tls_key : str or None
        Certificates, in files that the nodes can read.
    """

    cores: int
    memory: str
    jobs: int | None = None
    adapt: Adapt | None = None
    processes: int = 1
    gpus: int = 0
    partition: str | None = None
    account: str | None = None
    walltime: str | None = None
    directives: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    python: str | None = None
    interface: str | None = None
    scheduler_interface: str | None = None
    scheduler_host: str | None = None
    scheduler_port: int = 0
    local_directory: str | None = None
    log_directory: str | None = None
    wait_seconds: float = 600.0
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    def __post_init__(self) -> None:
        at_least(1, cores=self.cores, jobs=self.jobs, processes=self.processes)
        at_least(0, gpus=self.gpus, wait_seconds=self.wait_seconds, scheduler_port=self.scheduler_port)
        if (self.jobs is None) == (self.adapt is None):
            raise ConfigError("give either jobs or adapt: how many jobs to submit, or from how many to how many")
        if self.gpus > 1 and self.processes not in (1, self.gpus):
            raise ConfigError(f"processes is {self.processes}, but each of {self.gpus} gpus gets one; leave it out")
        if self.workers > self.cores:
            raise ConfigError(f"cores is {self.cores}, fewer than the {self.workers} workers of a job; raise it")
        parse_bytes(self.memory)
        tls_of(self.tls_ca, self.tls_cert, self.tls_key)

    @property
    def workers(self) -> int:
        """Workers a job."""
        return max(self.processes, self.gpus)


def start_slurm(profile: SlurmProfile, tls: Tls | None = None) -> Any:
    """Start a scheduler here and submit jobs; the cluster closes both.

    Raises
    ------
    BackendUnavailableError
        dask-jobqueue is not installed.
    ExecutorError
        Jobs cannot be submitted from this machine.
    """
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise BackendUnavailableError(
            f"--cluster slurm:FILE needs dask-jobqueue ({error}); run: pip install 'gpukm[slurm]'"
        ) from None
    if shutil.which("sbatch") is None:
        raise ExecutorError(
            "this machine has no sbatch, with which --cluster slurm:FILE submits workers; run gpukm on a node from "
            "which jobs are submitted"
        )
    cluster = SLURMCluster(**slurm_options(profile, tls))
    try:
        _test(cluster.job_script())
    except BaseException:
        cluster.close()
        raise
    if profile.adapt is not None:
        cluster.adapt(minimum_jobs=profile.adapt.minimum, maximum_jobs=profile.adapt.maximum)
    else:
        cluster.scale(jobs=profile.jobs)
    return cluster


def _test(script: str) -> None:
    """Ask SLURM whether it would take the job: dask-jobqueue logs a refusal, and then waits for workers."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(["sbatch", "--test-only", file.name], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ExecutorError(f"SLURM takes no such job: {' '.join((done.stderr or done.stdout).split())[:500]}")


def slurm_options(profile: SlurmProfile, tls: Tls | None = None) -> Mapping[str, Any]:
    """A profile as the arguments of :class:`dask_jobqueue.SLURMCluster`; ``tls`` goes before the profile's own."""
    files = tls or tls_of(profile.tls_ca, profile.tls_cert, profile.tls_key)
    scheduler: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "port": profile.scheduler_port}
    if profile.scheduler_interface is not None:
        scheduler["interface"] = profile.scheduler_interface
    if profile.scheduler_host is not None:
        scheduler["host"] = profile.scheduler_host
    directives = [f"--gres=gpu:{profile.gpus}"] if profile.gpus else []
    options: dict[str, Any] = {
        "cores": profile.cores,
        "memory": profile.memory,
        "processes": profile.workers,
        "queue": profile.partition,
        "account": profile.account,
        "walltime": profile.walltime,
        "job_extra_directives": [*directives, *profile.directives],
        "job_script_prologue": list(profile.prologue),
        "python": profile.python,
        "interface": profile.interface,
        "local_directory": profile.local_directory,
        "log_directory": profile.log_directory,
        "worker_extra_args": ["--resources", "GPU=1"] if profile.gpus else [],
        "scheduler_options": scheduler,
        "security": security(files),
    }
    if profile.gpus > 1:
        options["worker_command"] = "dask_cuda.cli"  # a worker a GPU, each bound to its own
    return options
