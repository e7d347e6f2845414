"""A client of the cluster that this process is a worker of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from distributed import Client, Security, get_worker, secede

from gpukm.executors.dask.schedulers import close

if TYPE_CHECKING:
    from distributed import Worker


@contextmanager
def client_within() -> Iterator[Client]:
    """Within a task that runs long: connect to the worker's own scheduler, and let the worker take other tasks too.

    The client is the task's own. When it ends, with the task or the process, the scheduler forgets what it had asked
    for; a client that a worker shares among its tasks would keep that.
    """
    worker = get_worker()
    secede()
    client = Client(worker.scheduler.address, security=_of(worker), set_as_default=False, name="gpukm-driver")
    try:
        yield client
    finally:
        close(client)


def _of(worker: Worker) -> Security:
    """The worker's certificates in the role of a client, for which it was given none of its own."""
    theirs = worker.security
    if theirs is None or theirs.tls_ca_file is None or theirs.tls_client_cert is not None:
        return theirs or Security()
    return Security(
        require_encryption=theirs.require_encryption,
        tls_ca_file=theirs.tls_ca_file,
        tls_client_cert=theirs.tls_worker_cert,
        tls_client_key=theirs.tls_worker_key or theirs.tls_worker_cert,
        tls_worker_cert=theirs.tls_worker_cert,
        tls_worker_key=theirs.tls_worker_key or theirs.tls_worker_cert,
    )
