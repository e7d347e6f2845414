"""From what a caller names to an executor."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from gpukm.errors import ConfigError
from gpukm.executors.base import Executor
from gpukm.executors.local import LocalExecutor

_SEEN: WeakSet[Any] = WeakSet()


def executor_of(executor: Any, backend: str = "auto", device: str = "auto") -> Executor | None:
    """The executor of work that is done elsewhere; None where it is done in this process.

    Parameters
    ----------
    executor : {"local"}, Executor or distributed.Client
    backend, device : str
        Work that names a GPU goes to workers that offer one, ``GPU=1``.

    Raises
    ------
    ConfigError
        It is something else.
    ExecutorError
        Its workers have other versions, or none of them offers a GPU where one is named.
    """
    if isinstance(executor, Executor):
        return None if isinstance(executor, LocalExecutor) else executor
    if executor == "local":
        return None
    if type(executor).__module__.partition(".")[0] == "distributed" and hasattr(executor, "submit"):
        from gpukm.executors.dask.executor import DaskExecutor
        from gpukm.executors.dask.preflight import preflight

        needs = {"GPU": 1.0} if backend in ("torch", "cupy") or device.startswith("cuda") else {}
        # Once for each client: workers that join later are started as those before them.
        if needs or executor not in _SEEN:
            preflight(executor, needs=needs)
            _SEEN.add(executor)
        return DaskExecutor(executor, needs)
    raise ConfigError(f"executor is {executor!r}, expected 'local' or a distributed.Client")
