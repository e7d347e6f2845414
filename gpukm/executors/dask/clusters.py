"""How a Dask client is obtained from what ``--cluster`` says.

::

    local[:N]               N processes of this machine
    cuda[:DEVICES]          a process for each GPU of this machine, by dask-cuda
    tcp://host:port         a scheduler that runs; tls:// with certificates
    file:scheduler.json     the same, by the file that ``dask scheduler --scheduler-file`` writes
    slurm:PROFILE           jobs, by dask-jobqueue
    kubernetes:PROFILE      pods, by the Dask operator

Whatever is started here is closed here, and nothing else is.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, filterwarnings

from gpukm.backends.select import usable_cores
from gpukm.errors import BackendUnavailableError, ConfigError, ExecutorError
from gpukm.executors.dask.kubernetes import RunningCluster
from gpukm.executors.dask.manifest import read_kubernetes
from gpukm.executors.dask.profiles import read_profile
from gpukm.executors.dask.schedulers import ADDRESS, close, greet, in_a_line, reach, scheduler_of
from gpukm.executors.dask.slurm import SlurmProfile, start_slurm
from gpukm.executors.dask.tls import Tls, security
from gpukm.sources.location import shown

if TYPE_CHECKING:
    from distributed import Client

KINDS = "local[:N], cuda[:DEVICES], tcp://host:port, tls://host:port, file:PATH, slurm:PROFILE or kubernetes:PROFILE"
#: How long the first worker is waited for, where nothing else is said.
WAIT_SECONDS = 60.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: Dask's processes look at themselves a hundred times a second, at 3% of a core each: for a dashboard, which these
#: clusters have not, and for a performance report.
_QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500 ms",
    "distributed.admin.system-monitor.interval": "2 s",
    "distributed.admin.system-monitor.disk": False,
}
_SEND_SECONDS = 0.001
_DEVICES = re.compile(r"[A-Za-z0-9-]+(,[A-Za-z0-9-]+)*")


@contextmanager
def open_cluster(
    text: str,
    *,
    tls: Tls | None = None,
    wait_seconds: float | None = None,
    threads: int | None = None,
    memory_limit: int | str = "auto",
    watched: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Client]:
    """Connect to a cluster, or start one, and wait for its first worker.

    Parameters
    ----------
    text : str
        As at the head of this module.
    tls : Tls or None
        Certificates; None leaves it to the profile and to Dask's configuration.
    wait_seconds : float or None
        How long to wait for the first worker; None takes 60, or what the profile says.
    threads : int or None
        Threads of all local workers together; None takes the cores that this process may use.
    memory_limit : int or str
        Bytes at which Dask ends a local worker; ``"auto"`` is its share of what there is.
    watched : bool
        Have the processes of a cluster that is started here keep the statistics of a performance report.
    say : callable
        Told in a line what is waited for.

    Yields
    ------
    distributed.Client
        It is not made Dask's default client.

    Raises
    ------
    ConfigError
        ``text``, the profile or the certificates are wrong.
    BackendUnavailableError
        What starts such a cluster is not installed, or there is no GPU.
    ExecutorError
        The cluster cannot be reached or started, or no worker comes.
    """
    kind, rest = parse_cluster(text)
    wait = WAIT_SECONDS if wait_seconds is None else wait_seconds
    with ExitStack() as stack:
        if kind == "local":
            started = _local(stack, int(rest) if rest else None, threads, memory_limit, tls, watched)
            client = _client(stack, started, near=True)
        elif kind == "cuda":
            client = _client(stack, _cuda(stack, rest or None, threads, memory_limit, tls, watched), near=True)
        elif kind == "slurm":
            profile = read_profile(rest, SlurmProfile)
            wait = profile.wait_seconds if wait_seconds is None else wait
            client = _client(stack, stack.enter_context(start_slurm(profile, tls)))
        elif kind == "kubernetes":
            if tls is not None:
                raise ConfigError(
                    "kubernetes:FILE takes no certificates; the operator's clusters speak tcp within pods"
                )
            wanted = read_kubernetes(rest)
            wait = wanted.wait_seconds if wait_seconds is None else wait
            running = RunningCluster(wanted)
            stack.callback(running.close)
            client = _client(stack, running.address)
        else:
            client = _client(stack, scheduler_of(rest) if kind == "file" else rest, tls)
        _wait_for_worker(client, wait, shown(text), say)
        yield client


def parse_cluster(text: str) -> tuple[str, str]:
    """The kind of a cluster and what follows it.

    Raises
    ------
    ConfigError
        It is none of the kinds.

    Examples
    --------
    >>> parse_cluster("local:4")
    ('local', '4')
    >>> parse_cluster("tcp://10.0.0.1:8786")
    ('address', 'tcp://10.0.0.1:8786')
    """
    text = text.strip()
    if re.match(r"(tcp|tls):", text):
        found = ADDRESS.fullmatch(text)
        if found is None or not 0 < int(found["port"]) < 2**16:
            raise ConfigError(
                f"cluster {shown(text)!r} is no address of a scheduler; expected tcp://host:port, or tls://"
            )
        return "address", text.rstrip("/")
    kind, colon, rest = text.partition(":")
    if kind in ("file", "slurm", "kubernetes"):
        path = rest.removeprefix("//") if kind == "file" else rest
        if not path:
            raise ConfigError(f"cluster {text!r} names no file; expected {kind}:PATH")
        return kind, path
    if kind == "local" and (not colon or re.fullmatch(r"[1-9][0-9]{0,3}", rest)):
        return kind, rest
    if kind == "cuda" and (not colon or _DEVICES.fullmatch(rest)):
        return kind, rest
    if kind in ("local", "cuda"):
        example = "local:4, with a number of processes" if kind == "local" else "cuda:0,1, with devices"
        raise ConfigError(f"cluster is {text!r}, expected {kind} or {example}")
    near = difflib.get_close_matches(kind.lower(), ["local", "cuda", "file", "slurm", "kubernetes"], n=1)
    if not near and re.fullmatch(r"[^\s/:]+:[0-9]+", text):
        near = [f"tcp://{text}"]
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ConfigError(f"cluster is {shown(text)!r}{hint}, expected {KINDS}")


def _local(
    stack: ExitStack, n_workers: int | None, threads: int | None, memory: int | str, tls: Tls | None, watched: bool
) -> Any:
    """Processes of this machine, with equal threads: rows are shared out equally, and the slowest decides."""
    from distributed import LocalCluster
    from distributed.deploy.utils import nprocesses_nthreads

    cores = threads or usable_cores()
    n_workers = n_workers or nprocesses_nthreads(cores)[0]
    options = {"n_workers": n_workers, "threads_per_worker": max(1, cores // n_workers), "processes": True}
    return _started(stack, LocalCluster, options, memory, tls, watched)


def _cuda(
    stack: ExitStack, devices: str | None, threads: int | None, memory: int | str, tls: Tls | None, watched: bool
) -> Any:
    """A process for each GPU of this machine."""
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise BackendUnavailableError(
            f"--cluster cuda needs dask-cuda ({error}); run: pip install 'gpukm[cuda12]', or cuda13 for CUDA 13"
        ) from None
    from gpukm.backends.select import gpus, kernels

    usable, reason = kernels()["gpu"]
    if not usable:
        raise BackendUnavailableError(f"--cluster cuda finds no GPU: {reason}")
    n_devices = len(devices.split(",")) if devices else len(gpus())
    options: dict[str, Any] = {
        "threads_per_worker": max(1, (threads or usable_cores()) // n_devices),
        "resources": {"GPU": 1},
    }
    if devices:
        options["CUDA_VISIBLE_DEVICES"] = devices
    return _started(stack, LocalCUDACluster, options, memory, tls, watched)


def _started(
    stack: ExitStack, kind: Any, options: dict[str, Any], memory: int | str, tls: Tls | None, watched: bool
) -> Any:
    """A cluster of this machine, on loopback, without a dashboard that others could look at."""
    import dask

    if memory != "auto":
        options["memory_limit"] = memory
    # Dask serves its health by HTTP also without a dashboard, and would warn that port 8787 is taken.
    scheduler = {"dashboard_address": "127.0.0.1:0"}
    # A nanny would set these to 1 for its worker, and for us: it lives in this process.
    threads = dict.fromkeys(_THREADS, str(options["threads_per_worker"]))
    name = "distributed.nanny.pre-spawn-environ"
    # The C library returns to the system what a thread frees, at once, unless all threads share the memory of the main
    # one: then it is kept for the rows of the next fit.
    spawn = {name: {**dask.config.get(name), **dict.fromkeys(_THREADS), "MALLOC_ARENA_MAX": 1}}
    # A nanny whose worker is being started again would else be given up, if it so happens 15 s after an earlier loss.
    patient = {"distributed.deploy.lost-worker-timeout": "1 h"}
    checked = security(tls)
    stack.enter_context(dask.config.set({**spawn, **patient, **({} if watched else _QUIET)}))
    try:
        cluster = kind(
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs=scheduler,
            security=checked,
            env=threads,
            **options,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ExecutorError(f"no cluster can be started on this machine: {in_a_line(error)}") from error
    return stack.enter_context(cluster)


def _client(stack: ExitStack, target: Any, tls: Tls | None = None, near: bool = False) -> Client:
    """A client of an address or a cluster, closed with the stack; ``near`` if its workers are on this machine."""
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    checked = None
    if isinstance(target, str):
        checked = security(tls, target)
        reach(target)
        greet(target, checked)
    with catch_warnings():
        # What differs in a way that matters is found by the preflight, with the workers' names.
        filterwarnings("ignore", category=VersionMismatchWarning)
        try:
            # From workers on this machine values need not come by way of the scheduler.
            client = Client(
                target, security=checked, set_as_default=False, name="gpukm", direct_to_workers=near or None
            )
        except (OSError, ValueError, RuntimeError) as error:
            where = target if isinstance(target, str) else "the cluster that was started"
            raise ExecutorError(f"{where} takes no client: {in_a_line(error)}") from error
    stack.callback(close, client)
    # A client holds back for 10 ms what it sends so soon after something else, to send it together. A fit sends little,
    # and mostly its workers wait for it.
    if (sender := getattr(client, "scheduler_comm", None)) is not None:
        sender.interval = _SEND_SECONDS
    return client


def _wait_for_worker(client: Client, seconds: float, shown_text: str, say: Callable[[str], None]) -> None:
    """Return once there is a worker."""
    if client.scheduler_info(n_workers=-1)["workers"]:
        return
    say(f"waiting up to {seconds:g} s for a worker of {shown_text}")
    try:
        client.wait_for_workers(1, timeout=seconds)
    except TimeoutError:
        raise ExecutorError(
            f"{shown_text} has no worker after {seconds:g} s; start some by: dask worker "
            f"{shown(client.scheduler.address)}, see what jobs or pods are waiting for, or raise --cluster-wait"
        ) from None
