"""The cluster that the settings name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gpukm.config import Settings
from gpukm.errors import BackendUnavailableError, ConfigError

if TYPE_CHECKING:
    from distributed import Client

    from gpukm.executors import Executor
    from gpukm.executors.dask.executor import DaskExecutor


@contextmanager
def open_workers(settings: Settings, say: Callable[[str], None], profile: bool = False) -> Iterator[Client]:
    """Connect to ``settings.cluster``, or start it; what was started is closed on leaving.

    Parameters
    ----------
    settings : Settings
        ``cluster`` must be set.
    say : callable
        Told in a line what is waited for.
    profile : bool
        As of :func:`gpukm.executors.dask.clusters.open_cluster`, which also says what is raised.

    Raises
    ------
    ConfigError, BackendUnavailableError, ExecutorError
        As there.
    """
    from gpukm.executors.dask.clusters import open_cluster
    from gpukm.executors.dask.tls import tls_of

    if settings.cluster is None:
        raise ConfigError("no cluster is named; give one with --cluster")
    tls = tls_of(settings.tls_ca, settings.tls_cert, settings.tls_key)
    opened = open_cluster(
        settings.cluster,
        tls=tls,
        wait_seconds=settings.cluster_wait,
        threads=settings.threads,
        watched=profile,
        say=say,
    )
    with _quiet(), opened as client:
        yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's log from the terminal: what it says, with tracebacks, of a lost connection comes as an error of ours.

    A log that the user has configured elsewhere goes on.
    """
    import distributed  # makes the loggers  # noqa: F401

    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    before = [logger.handlers[:] for logger in loggers]
    for logger, handlers in zip(loggers, before, strict=True):
        logger.handlers = [h for h in handlers if type(h) is not logging.StreamHandler] or [logging.NullHandler()]
    try:
        yield
    finally:
        for logger, handlers in zip(loggers, before, strict=True):
            logger.handlers = handlers


@contextmanager
def open_executor(
    settings: Settings,
    paths: Sequence[str],
    say: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = lambda text: None,
    profile: str | None = None,
) -> Iterator[Executor | None]:
    """Workers that have been looked at and are fit for the job; None where the settings name no cluster.

    Parameters
    ----------
    settings : Settings
    paths : sequence of str
        Files, folders, globs or URLs that workers will read.
    say, warn : callable
        Told in a line what is waited for and who works, and what is doubtful of them.
    profile : str or None
        File for Dask's report on what was done when and where, an HTML page.

    Raises
    ------
    ConfigError, BackendUnavailableError, ExecutorError
        As :func:`open_workers` and :func:`gpukm.executors.dask.preflight.preflight`.
    """
    if settings.cluster is None:
        if profile is not None:
            raise ConfigError("--profile reports on a cluster; name one with --cluster")
        yield None
        return
    if profile is not None:
        from gpukm.pipeline.files import check_writable

        check_writable(profile, "the profile")
        if find_spec("bokeh") is None:
            raise BackendUnavailableError("--profile needs bokeh; install it by: pip install 'gpukm[profile]'")
    with open_workers(settings, say, profile is not None) as client:
        executor = executor_on(client, settings, paths, say, warn)
        with client.as_current(), nullcontext() if profile is None else _report(profile):
            yield executor


def _report(path: str) -> AbstractContextManager[Any]:
    """Dask's own report on what happens within."""
    from distributed import performance_report

    report: AbstractContextManager[Any] = performance_report(path)
    return report


def executor_on(
    client: Client,
    settings: Settings,
    paths: Sequence[str],
    say: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = lambda text: None,
    watch: Callable[[], None] = lambda: None,
) -> DaskExecutor:
    """Look at all workers, and take those that are fit for the job.

    Parameters
    ----------
    client : distributed.Client
    settings, paths, say, warn
        As of :func:`open_executor`.
    watch : callable
        As of :class:`gpukm.executors.dask.executor.DaskExecutor`.

    Raises
    ------
    ExecutorError
        As of :func:`gpukm.executors.dask.preflight.preflight`.
    """
    from gpukm.executors.dask.executor import ROUND_SECONDS, DaskExecutor
    from gpukm.executors.dask.preflight import preflight

    named = settings.backend in ("torch", "cupy") or settings.device.startswith("cuda")
    found = preflight(client, needs={"GPU": 1} if named else None, paths=paths)
    free = settings.backend == "auto" and settings.device == "auto"
    # A worker with a GPU takes one task at a time only if the task asks for it.
    on_gpu = named or (free and bool(found.offering({"GPU": 1})))
    for text in found.warnings:
        warn(text)
    workers = found.offering({"GPU": 1}) if on_gpu else found.workers
    say(f"{len(workers)} workers with {sum(worker.threads for worker in workers)} threads at {found.scheduler}")
    # What is to be saved more often than that has to be brought here.
    seconds = min(ROUND_SECONDS, settings.checkpoint_seconds)
    return DaskExecutor(client, {"GPU": 1} if on_gpu else None, watch=watch, round_seconds=seconds)
