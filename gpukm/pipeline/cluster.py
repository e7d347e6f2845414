"""The cluster that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from gpukm.config import Settings
from gpukm.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client


def open_workers(settings: Settings, say: Callable[[str], None]) -> AbstractContextManager[Client]:
    """Connect to ``settings.cluster``, or start it; what was started is closed on leaving.

    Parameters
    ----------
    settings : Settings
        ``cluster`` must be set.
    say : callable
        Told in a line what is waited for.

    Raises
    ------
    ConfigError, BackendUnavailableError, ExecutorError
        As :func:`gpukm.executors.dask.clusters.open_cluster`.
    """
    from gpukm.executors.dask.clusters import open_cluster
    from gpukm.executors.dask.tls import tls_of

    if settings.cluster is None:
        raise ConfigError("no cluster is named; give one with --cluster")
    tls = tls_of(settings.tls_ca, settings.tls_cert, settings.tls_key)
    opened: Any = open_cluster(
        settings.cluster, tls=tls, wait_seconds=settings.cluster_wait, threads=settings.threads, say=say
    )
    return opened  # type: ignore[no-any-return]
