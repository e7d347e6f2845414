"""What a DaskCluster in Kubernetes is made of: a profile, or the manifest itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from gpukm.errors import ConfigError
from gpukm.executors.dask.profiles import Adapt, at_least, read_profile, read_text
from gpukm.sources.memory import parse_bytes

API_VERSION = "kubernetes.dask.org/v1"
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Volume:
    """A claim mounted into scheduler and workers.

    Attributes
    ----------
    claim : str
        Name of the PersistentVolumeClaim.
    path : str
        Where it is mounted.
    read_only : bool
    """

    claim: str
    path: str
    read_only: bool = True


@dataclass(frozen=True)
class KubernetesProfile:
    """What pods are made of, and how many there are.

    Attributes
    ----------
    name : str
        Of the DaskCluster, which is made and deleted again.
    image : str
        With the same gpukm, Python and Dask as here.
    workers : int or None
        Pods to start; this or ``adapt``.
    adapt : Adapt or None
        Or from so many to so many, by the work there is.
    cpus : int
        Processors a worker pod.
    memory : str
        Memory a worker pod, such as ``"16Gi"``.
    gpus : int
        GPUs a worker pod. Each gets a worker that offers the resource ``GPU=1``; more than one need dask-cuda in the
        image.
    scheduler_cpus : int
    scheduler_memory : str
    namespace, service_account : str or None
    env : dict of str to str
        Variables of scheduler and workers. Passwords belong in ``env_from_secrets``.
    env_from_secrets, image_pull_secrets : tuple of str
        Names of Secrets.
    node_selector : dict of str to str
    tolerations : tuple of dict
        As in a pod.
    volumes : tuple of Volume
    wait_seconds : float
        How long to wait for the scheduler, and for the first worker.
    idle_timeout_seconds : int
        The operator deletes a cluster that is idle for so long: what stays behind when this process is killed.
    """

    name: str
    image: str
    cpus: int
    memory: str
    workers: int | None = None
    adapt: Adapt | None = None
    gpus: int = 0
    scheduler_cpus: int = 1
    scheduler_memory: str = "4Gi"
    namespace: str | None = None
    service_account: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    env_from_secrets: tuple[str, ...] = ()
    image_pull_secrets: tuple[str, ...] = ()
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()
    volumes: tuple[Volume, ...] = ()
    wait_seconds: float = 600.0
    idle_timeout_seconds: int = 3600

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError("name is no name of Kubernetes; expected up to 63 lower-case letters, digits and '-'")
        at_least(1, cpus=self.cpus, scheduler_cpus=self.scheduler_cpus, workers=self.workers)
        at_least(0, gpus=self.gpus, wait_seconds=self.wait_seconds, idle_timeout_seconds=self.idle_timeout_seconds)
        parse_bytes(self.memory)
        parse_bytes(self.scheduler_memory)
        if (self.workers is None) == (self.adapt is None):
            raise ConfigError("give either workers or adapt: how many pods to start, or from how many to how many")
        if self.gpus > self.cpus:
            raise ConfigError(f"cpus is {self.cpus}, fewer than the {self.gpus} gpus; raise it")


@dataclass(frozen=True)
class KubernetesCluster:
    """A DaskCluster to be made.

    Attributes
    ----------
    manifest : dict
        The resource, as ``kubectl apply`` takes it.
    namespace : str or None
    adapt : Adapt or None
    wait_seconds : float
    """

    manifest: dict[str, Any]
    namespace: str | None
    adapt: Adapt | None = None
    wait_seconds: float = 600.0


def read_kubernetes(path: str) -> KubernetesCluster:
    """Read a profile (``.toml``), or the manifest of a DaskCluster (``.yaml``, ``.yml``) as it is.

    Raises
    ------
    ConfigError
        It is neither, or not as expected.
    """
    if path.endswith((".yaml", ".yml")):
        manifest = _read_manifest(path)
        return KubernetesCluster(manifest, manifest["metadata"].get("namespace"))
    profile = read_profile(path, KubernetesProfile)
    return KubernetesCluster(manifest_of(profile), profile.namespace, profile.adapt, profile.wait_seconds)


def manifest_of(profile: KubernetesProfile) -> dict[str, Any]:
    """The DaskCluster that a profile describes."""
    threads = profile.cpus // max(profile.gpus, 1)
    command = ["python", "-m", "dask_cuda.cli"] if profile.gpus > 1 else ["dask", "worker"]
    arguments = [*command, "--name", "$(DASK_WORKER_NAME)", "--nthreads", str(threads), "--no-dashboard"]
    if profile.gpus:
        arguments += ["--resources", "GPU=1"]
    limits: dict[str, str] = {"cpu": str(profile.cpus), "memory": profile.memory}
    if profile.gpus:
        limits["nvidia.com/gpu"] = str(profile.gpus)
    worker = _container(profile, "worker", arguments, limits)
    scheduler = _container(
        profile,
        "scheduler",
        ["dask", "scheduler", "--host", "0.0.0.0"],
        {"cpu": str(profile.scheduler_cpus), "memory": profile.scheduler_memory},
    )
    health = {"httpGet": {"port": "http-dashboard", "path": "/health"}, "periodSeconds": 5, "timeoutSeconds": 60}
    ports = (("tcp-comm", 8786), ("http-dashboard", 8787))
    scheduler |= {
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports],
        "readinessProbe": health,
        "livenessProbe": {**health, "initialDelaySeconds": 30},
    }
    service = {
        "type": "ClusterIP",
        "selector": {"dask.org/cluster-name": profile.name, "dask.org/component": "scheduler"},
        "ports": [{"name": name, "port": port, "targetPort": name, "protocol": "TCP"} for name, port in ports],
    }
    n_workers = profile.workers if profile.adapt is None else profile.adapt.minimum
    gpu_nodes = {"nodeSelector": profile.node_selector} if profile.node_selector else {}
    return {
        "apiVersion": API_VERSION,
        "kind": "DaskCluster",
        "metadata": {"name": profile.name},
        "spec": {
            "idleTimeout": profile.idle_timeout_seconds,
            "worker": {"replicas": n_workers, "spec": {**_pod(profile), **gpu_nodes, "containers": [worker]}},
            "scheduler": {"spec": {**_pod(profile), "containers": [scheduler]}, "service": service},
        },
    }


def _container(
    profile: KubernetesProfile, name: str, arguments: list[str], resources: dict[str, str]
) -> dict[str, Any]:
    """A container that asks for what it may use, so that nothing else is promised the same."""
    mounts = [
        {"name": f"volume-{i}", "mountPath": volume.path, "readOnly": volume.read_only}
        for i, volume in enumerate(profile.volumes)
    ]
    found = {
        "name": name,
        "image": profile.image,
        "args": arguments,
        "resources": {"limits": resources, "requests": resources},
        "env": [{"name": key, "value": value} for key, value in profile.env.items()],
        "envFrom": [{"secretRef": {"name": secret}} for secret in profile.env_from_secrets],
        "volumeMounts": mounts,
    }
    return {key: value for key, value in found.items() if value}


def _pod(profile: KubernetesProfile) -> dict[str, Any]:
    """What pods of both kinds have in common."""
    volumes = [
        {"name": f"volume-{i}", "persistentVolumeClaim": {"claimName": volume.claim, "readOnly": volume.read_only}}
        for i, volume in enumerate(profile.volumes)
    ]
    found = {
        "serviceAccountName": profile.service_account,
        "imagePullSecrets": [{"name": name} for name in profile.image_pull_secrets],
        "tolerations": list(profile.tolerations),
        "volumes": volumes,
    }
    return {key: value for key, value in found.items() if value}


def _read_manifest(path: str) -> dict[str, Any]:
    """A manifest from YAML, looked at from far; Kubernetes checks it against the operator's schema."""
    import yaml

    try:
        found = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""  # the error's own text would quote the file
        raise ConfigError(f"{path} is not one document of YAML{where}; correct it") from None
    if not isinstance(found, dict) or found.get("kind") != "DaskCluster" or found.get("apiVersion") != API_VERSION:
        raise ConfigError(
            f"{path} is no manifest of a DaskCluster; expected kind: DaskCluster, apiVersion: {API_VERSION}"
        )
    if not isinstance(found.get("metadata"), dict) or not isinstance(found["metadata"].get("name"), str):
        raise ConfigError(f"{path}: metadata.name is missing; add it")
    return found
