"""Scheduler and workers as pods, by the Dask operator that runs in Kubernetes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gpukm.errors import BackendUnavailableError, ExecutorError
from gpukm.executors.dask.manifest import KubernetesCluster

if TYPE_CHECKING:
    from collections.abc import Coroutine

_CLOSE_SECONDS = 60.0


class RunningCluster:
    """A DaskCluster in Kubernetes that this process makes; closing it deletes it.

    Attributes
    ----------
    name : str
    address : str
        Of the scheduler, as seen from here; forwarded where this is not a pod.

    Raises
    ------
    BackendUnavailableError
        dask-kubernetes is not installed.
    ExecutorError
        Kubernetes cannot be reached, the name is taken, or the scheduler does not start in time.
    """

    _cluster: Any = None

    def __init__(self, wanted: KubernetesCluster) -> None:
        kind, mode = _kube_cluster()
        from distributed.utils import LoopRunner

        self.name = str(wanted.manifest["metadata"]["name"])
        self._runner = LoopRunner()
        self._runner.start()
        try:
            self._sync(self._start(kind, mode, wanted), wanted.wait_seconds)
        except TimeoutError:
            self._give_up()
            raise ExecutorError(
                f"the scheduler of DaskCluster {self.name} did not run within {wanted.wait_seconds:g} s, and the "
                "cluster was deleted again; is the Dask operator there, and do its pods start? see: kubectl get pods"
            ) from None
        except Exception as error:  # its clients raise classes of their own
            self._give_up()
            raise ExecutorError(
                f"Kubernetes does not start DaskCluster {self.name}: {_text(error)}; see: kubectl auth whoami, kubectl "
                "get daskclusters"
            ) from error
        except BaseException:
            self._give_up()
            raise
        self.address = str(self._cluster.scheduler_address)

    def close(self) -> None:
        """Delete what was made.

        Raises
        ------
        ExecutorError
            It may be there still.
        """
        try:
            if self._cluster is not None:
                self._sync(self._stop(), _CLOSE_SECONDS)
        except Exception as error:
            raise ExecutorError(
                f"DaskCluster {self.name} may still run: {_text(error)}; run: kubectl delete daskcluster {self.name}"
            ) from error
        finally:
            self._cluster = None
            self._runner.stop()

    def _give_up(self) -> None:
        """Close after an error, which is worth more than another one; the operator ends what stays behind idle."""
        with suppress(ExecutorError):
            self.close()

    async def _start(self, kind: Any, mode: Any, wanted: KubernetesCluster) -> None:
        """Make the resource and wait for its scheduler."""
        self._cluster = kind(
            custom_cluster_spec=wanted.manifest,
            namespace=wanted.namespace,
            create_mode=mode.CREATE_ONLY,
            quiet=True,
            asynchronous=True,
            loop=self._runner.loop,
        )
        # None becomes True once it has made the cluster; one that was there before is not ours to delete.
        self._cluster.shutdown_on_close = None
        await self._cluster
        if wanted.adapt is not None:
            await self._cluster.adapt(minimum=wanted.adapt.minimum, maximum=wanted.adapt.maximum)

    async def _stop(self) -> None:
        """Delete the resource and wait until it is gone."""
        await self._cluster.close(timeout=_CLOSE_SECONDS)

    def _sync(self, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """Run something in the cluster's own loop; TimeoutError after so long."""
        loop = self._runner.loop.asyncio_loop
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, seconds), loop).result()


def _text(error: BaseException) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(": ")


def _kube_cluster() -> tuple[Any, Any]:
    """The class that talks to the operator, and what it does with names that are taken."""
    try:
        from dask_kubernetes.operator.kubecluster.kubecluster import CreateMode, KubeCluster
    except ImportError as error:
        raise BackendUnavailableError(
            f"--cluster kubernetes:FILE needs dask-kubernetes ({error}); run: pip install 'gpukm[kubernetes]'"
        ) from None
    return KubeCluster, CreateMode
