"""Profiles of SLURM and Kubernetes: strictly read, and what becomes of them."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import json
import os
import re
import sys
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gpukm.errors import ConfigError, ExecutorError
from gpukm.executors.dask.clusters import open_cluster
from gpukm.executors.dask.kubernetes import RunningCluster
from gpukm.executors.dask.manifest import KubernetesProfile, manifest_of, read_kubernetes
from gpukm.executors.dask.profiles import read_profile
from gpukm.executors.dask.slurm import SlurmProfile, slurm_options, start_slurm
from gpukm.executors.dask.tls import Tls

SLURM = """
cores = 32
memory = "200GB"
jobs = 2
gpus = 1
partition = "gpu"
account = "science"
walltime = "02:00:00"
directives = ["--constraint=a100", "--exclusive"]
prologue = ["module load cuda", "source ~/venv/bin/activate"]
python = "/opt/python"
log_directory = "LOGS"
scheduler_host = "127.0.0.1"
"""
KUBERNETES = """
name = "gpukm"
image = "registry.example/gpukm:0.1"
namespace = "science"
workers = 8
cpus = 8
memory = "32Gi"
gpus = 1
env = { OMP_PROC_BIND = "close", TOKEN = "hunter2" }
env_from_secrets = ["s3-credentials"]
image_pull_secrets = ["registry"]
service_account = "dask"
node_selector = { "nvidia.com/gpu.product" = "H200" }
tolerations = [{ key = "nvidia.com/gpu", operator = "Exists", effect = "NoSchedule" }]
volumes = [{ claim = "data", path = "/data" }, { claim = "store", path = "/store", read_only = false }]
"""


def write(tmp_path: Path, text: str, name: str = "profile.toml") -> str:
    """A profile's path."""
    path = tmp_path / name
    path.write_text(text.replace("LOGS", str(tmp_path / "logs")))
    return str(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('cores = 4\nmemory = "8GB"\njobs = 1\nqueu = "x"\npartitoin = "hunter2"', "unknown key queu"),
        (
            'cores = 4\nmemory = "8GB"\njobs = 1\npartitoin = "hunter2"',
            "unknown key partitoin; did you mean partition?",
        ),
        ('cores = 4\nmemory = "8GB"\njobs = 1\nzzz = 1', "unknown key zzz; expected one of cores, memory"),
        ('memory = "8GB"\njobs = 1', "the key cores is missing"),
        ('cores = "hunter2"\nmemory = "8GB"\njobs = 1', "cores is text, expected a whole number"),
        ('cores = true\nmemory = "8GB"\njobs = 1', "cores is true or false, expected a whole number"),
        ('cores = 4\nmemory = "8GB"\njobs = 1\nprologue = ["a", 2]', r"prologue\[1\] is a whole number, expected text"),
        ('cores = 4\nmemory = "8GB"\njobs = 1\nwait_seconds = "5"', "wait_seconds is text, expected a number"),
        ('cores = 4\nmemory = "8GB"', "either jobs or adapt"),
        ('cores = 4\nmemory = "8GB"\njobs = 1\nadapt = {maximum = 3}', "either jobs or adapt"),
        ('cores = 4\nmemory = "8GB"\nadapt = {maximum = 3, minimum = 4}', "adapt: expected 0 <= minimum"),
        ('cores = 4\nmemory = "8GB"\nadapt = {maximun = 3}', "unknown key adapt.maximun; did you mean maximum"),
        ('cores = 0\nmemory = "8GB"\njobs = 1', "cores is 0, expected at least 1"),
        ('cores = 4\nmemory = "much"\njobs = 1', "is not an amount of memory"),
        ('cores = 4\nmemory = "8GB"\njobs = 1\nprocesses = 5', "fewer than the 5 workers"),
        ('cores = 4\nmemory = "8GB"\njobs = 1\ngpus = 4\nprocesses = 2', "leave it out"),
        ('cores = 4\nmemory = "8GB"\njobs = 1\ntls_ca = "x"', "tls_cert is missing"),
        ("cores = ", "is not TOML"),
    ],
)
def test_a_wrong_profile_is_told_without_its_values(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=words) as caught:
        read_profile(path, SlurmProfile)
    assert path in str(caught.value) and "hunter2" not in str(caught.value)


def _readme(name: str) -> str:
    """The profile that the README shows."""
    text = (Path(__file__).parents[3] / "README.md").read_text()
    found = re.search(rf"`{name}`:\n\n```toml\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_profiles_of_the_readme_are_read(tmp_path: Path) -> None:
    slurm = read_profile(write(tmp_path, _readme("slurm.toml")), SlurmProfile)
    assert (slurm.workers, slurm.jobs, slurm.wait_seconds) == (4, 8, 3600)
    made = read_kubernetes(write(tmp_path, _readme("kubernetes.toml")))
    assert made.manifest["spec"]["worker"]["replicas"] == 8
    text = (Path(__file__).parents[3] / "README.md").read_text()
    for kind in (SlurmProfile, KubernetesProfile):
        for field in dataclasses.fields(kind):
            assert re.search(rf"(`|^|or: ){field.name}(`| = )", text, re.MULTILINE), field.name


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no profile"), open_cluster(f"slurm:{tmp_path}/none.toml"):
        pass


def _jobs() -> Any:
    """dask-jobqueue, where it is installed."""
    return pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")


def script_of(tmp_path: Path, text: str, tls: Tls | None = None) -> str:
    """The job that a profile submits, as text."""
    cluster = _jobs().SLURMCluster(**slurm_options(read_profile(write(tmp_path, text), SlurmProfile), tls))
    try:
        return str(cluster.job_script())
    finally:
        cluster.close()


def test_a_slurm_job(tmp_path: Path) -> None:
    lines = script_of(tmp_path, SLURM).splitlines()
    for wanted in (
        "#SBATCH -p gpu",
        "#SBATCH -A science",
        "#SBATCH --cpus-per-task=32",
        "#SBATCH --mem=187G",
        "#SBATCH -t 02:00:00",
        "#SBATCH --gres=gpu:1",
        "#SBATCH --constraint=a100",
        "#SBATCH --exclusive",
        "module load cuda",
        "source ~/venv/bin/activate",
    ):
        assert wanted in lines
    worker = lines[-1] or lines[-2]
    assert worker.startswith("/opt/python -m distributed.cli.dask_worker tcp://127.0.0.1:")
    assert "--nthreads 32" in worker and "--resources GPU=1" in worker and "--nworkers" not in worker


def test_a_slurm_job_of_four_gpus_is_a_worker_each(tmp_path: Path) -> None:
    script = script_of(tmp_path, SLURM.replace("gpus = 1", "gpus = 4"))
    assert "#SBATCH --gres=gpu:4" in script
    assert "/opt/python -m dask_cuda.cli tcp://" in script and "--nthreads 8" in script and "GPU=1" in script


def test_a_slurm_job_of_processes(tmp_path: Path) -> None:
    script = script_of(tmp_path, 'cores = 8\nmemory = "8GB"\njobs = 1\nprocesses = 4\nscheduler_host = "127.0.0.1"')
    assert "--nworkers 4" in script and "--nthreads 2" in script and "gpu" not in script.lower()


@pytest.mark.parametrize("place", ["flags", "profile"])
def test_a_slurm_job_with_certificates(tmp_path: Path, tls: Tls, place: str) -> None:
    own = f'tls_ca = "{tls.ca}"\ntls_cert = "{tls.cert}"\ntls_key = "{tls.key}"\n' if place == "profile" else ""
    script = script_of(tmp_path, SLURM + own, tls if place == "flags" else None)
    assert (
        f"--tls-ca-file {tls.ca}" in script and f"--tls-cert {tls.cert}" in script and f"--tls-key {tls.key}" in script
    )
    assert "-m distributed.cli.dask_worker tls://127.0.0.1:" in script


def test_without_sbatch_slurm_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _jobs()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExecutorError, match="has no sbatch"):
        start_slurm(read_profile(write(tmp_path, SLURM), SlurmProfile))


def _slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    """Put scripts where the commands of SLURM would be."""
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)


def test_a_job_that_slurm_refuses_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _jobs()
    _slurm(tmp_path, monkeypatch, sbatch="echo sbatch: error: invalid partition >&2\nexit 1", scancel="")
    opened = open_cluster(f"slurm:{write(tmp_path, SLURM)}")
    with pytest.raises(ExecutorError, match="SLURM takes no such job: sbatch: error: invalid partition"), opened:
        pass


def test_jobs_are_submitted_and_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SLURM of two scripts: a job is a process."""
    _jobs()
    _slurm(
        tmp_path,
        monkeypatch,
        sbatch='[ "$1" = --test-only ] && exit 0\ncp "$1" job.sh\nsetsid sh job.sh > job.log 2>&1 &\necho "Job $!"',
        scancel='echo "$@" >> cancelled\nkill -KILL -- -"$1"',
    )
    profile = 'cores = 1\nmemory = "1GB"\njobs = 1\ngpus = 1\nscheduler_host = "127.0.0.1"\n'
    said: list[str] = []
    with open_cluster(f"slurm:{write(tmp_path, profile)}", say=said.append) as client:
        assert client.submit(sum, [1, 2], resources={"GPU": 1}).result(20) == 3
    assert said and said[0].startswith("waiting up to 600 s for a worker of slurm:")
    assert (tmp_path / "cancelled").read_text().split()


_CRD = ("deployment", "helm", "dask-kubernetes-operator", "crds", "daskcluster.yaml")


def _schema() -> dict[str, Any]:
    """The operator's own description of a DaskCluster, where it is installed."""
    import yaml

    found = importlib.util.find_spec("dask_kubernetes")
    if found is None or not found.submodule_search_locations:
        pytest.skip("dask-kubernetes is not installed")
    pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    path = Path(found.submodule_search_locations[0], "operator", *_CRD)
    schema: dict[str, Any] = yaml.safe_load(path.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return _closed(schema)


def _closed(schema: Any) -> Any:
    """Kubernetes prunes keys it does not know; a test had rather see them. Whole numbers or texts are its own type."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = {key: _closed(item) for key, item in schema.items()}
    kept = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not kept:
        found["additionalProperties"] = False
    return found


@pytest.mark.parametrize(
    "changes",
    [
        (),
        (("gpus = 1", "gpus = 4"),),
        (("gpus = 1", ""),),
        (("workers = 8", "adapt = { minimum = 1, maximum = 16 }"),),
        "the README's",
    ],
)
def test_a_manifest_is_what_the_operator_expects(tmp_path: Path, changes: tuple[tuple[str, str], ...] | str) -> None:
    schema = _schema()
    import jsonschema

    text = _readme("kubernetes.toml") if isinstance(changes, str) else KUBERNETES
    for old, new in () if isinstance(changes, str) else changes:
        text = text.replace(old, new)
    made = read_kubernetes(write(tmp_path, text))
    manifest = json.loads(json.dumps(made.manifest))
    schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
    jsonschema.Draft7Validator(schema).validate(manifest)
    manifest["spec"]["worker"]["spec"]["containers"][0]["resurces"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(manifest)


def test_a_manifest(tmp_path: Path) -> None:
    made = read_kubernetes(write(tmp_path, KUBERNETES))
    assert made.namespace == "science" and made.adapt is None and made.wait_seconds == 600
    spec = made.manifest["spec"]
    worker, scheduler = (spec[part]["spec"]["containers"][0] for part in ("worker", "scheduler"))
    assert spec["worker"]["replicas"] == 8 and spec["idleTimeout"] == 3600
    assert worker["resources"]["limits"] == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"}
    assert worker["args"][:2] == ["dask", "worker"] and worker["args"][-2:] == ["--resources", "GPU=1"]
    assert worker["args"][worker["args"].index("--nthreads") + 1] == "8"
    assert "nvidia.com/gpu" not in scheduler["resources"]["limits"]
    assert spec["worker"]["spec"]["nodeSelector"] and "nodeSelector" not in spec["scheduler"]["spec"]
    for container in (worker, scheduler):
        assert {"name": "TOKEN", "value": "hunter2"} in container["env"]
        assert container["envFrom"] == [{"secretRef": {"name": "s3-credentials"}}]
        assert [m["mountPath"] for m in container["volumeMounts"]] == ["/data", "/store"]
    four = manifest_of(read_profile(write(tmp_path, KUBERNETES.replace("gpus = 1", "gpus = 4")), KubernetesProfile))
    arguments = four["spec"]["worker"]["spec"]["containers"][0]["args"]
    assert arguments[:3] == ["python", "-m", "dask_cuda.cli"] and arguments[arguments.index("--nthreads") + 1] == "2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (KUBERNETES.replace('"gpukm"', '"GPUKM"'), "name is no name"),
        (KUBERNETES + 'replicas = 3\nTOKEN = "hunter2"', "unknown key replicas"),
        (KUBERNETES.replace('path = "/data"', 'pth = "hunter2"'), r"unknown key volumes\[0\]\.pth; did you mean path"),
        (KUBERNETES.replace('"hunter2"', "5"), "env.TOKEN is a whole number, expected text"),
        (KUBERNETES.replace("workers = 8", ""), "either workers or adapt"),
        (KUBERNETES.replace("gpus = 1", "gpus = 9"), "fewer than the 9 gpus"),
    ],
)
def test_a_wrong_profile_of_kubernetes(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read_kubernetes(write(tmp_path, text))
    assert "hunter2" not in str(caught.value)


def test_a_manifest_of_ones_own(tmp_path: Path) -> None:
    text = "apiVersion: kubernetes.dask.org/v1\nkind: DaskCluster\nmetadata: {name: mine, namespace: here}\nspec: {}\n"
    made = read_kubernetes(write(tmp_path, text, "mine.yaml"))
    assert made.manifest["metadata"]["name"] == "mine" and made.namespace == "here"
    for wrong, words in (
        (text.replace("DaskCluster", "Pod"), "no manifest of a DaskCluster"),
        (text.replace("name: mine, ", ""), "metadata.name is missing"),
        ("a: [hunter2", r"not one document of YAML \(line 1\)"),
        (text + "---\n" + text, "not one document"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            read_kubernetes(write(tmp_path, wrong, "wrong.yml"))
        assert "hunter2" not in str(caught.value)


_HOME = "dask_kubernetes.operator.kubecluster.kubecluster"


class FakeKubernetes:
    """What stands for an operator: a scheduler that is there, or pods that never start."""

    def __init__(self, address: str, fails: str = "") -> None:
        self.address, self.fails = address, fails
        self.given: dict[str, Any] = {}
        self.adapted: dict[str, int] = {}
        self.closed = 0
        self.shutdown_on_close: bool | None = True  # as its configuration has it

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType(_HOME)
        module.KubeCluster = self  # type: ignore[attr-defined]
        module.CreateMode = Enum("CreateMode", "CREATE_ONLY")  # type: ignore[attr-defined]
        for parts in range(1, _HOME.count(".") + 1):
            name = ".".join(_HOME.split(".")[:parts])
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, _HOME, module)

    def __call__(self, **given: Any) -> FakeKubernetes:
        self.given = given
        return self

    def __await__(self) -> Any:
        return self._start().__await__()

    async def _start(self) -> None:
        if self.fails == "taken":
            raise ValueError("Cluster gpukm already exists")
        self.shutdown_on_close = True if self.shutdown_on_close is None else self.shutdown_on_close
        if self.fails == "no scheduler":
            await asyncio.sleep(3600)

    @property
    def scheduler_address(self) -> str:
        return self.address

    async def adapt(self, **bounds: int) -> None:
        self.adapted = bounds

    async def close(self, timeout: float) -> None:
        self.closed += 1
        self.deleted = bool(self.shutdown_on_close)


def test_a_cluster_in_kubernetes_is_made_used_and_deleted(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeKubernetes(client.scheduler.address)
    fake.install(monkeypatch)
    text = KUBERNETES.replace("workers = 8", "adapt = { minimum = 1, maximum = 16 }")
    with open_cluster(f"kubernetes:{write(tmp_path, text)}") as other:
        assert other.submit(sum, [1, 2]).result(10) == 3
        assert fake.given["namespace"] == "science" and fake.given["create_mode"].name == "CREATE_ONLY"
        assert fake.given["custom_cluster_spec"]["spec"]["worker"]["replicas"] == 1
        assert fake.adapted == {"minimum": 1, "maximum": 16} and not fake.closed
    assert fake.closed == 1 and fake.deleted


@pytest.mark.parametrize(
    ("fails", "words"),
    [("no scheduler", r"did not run within 0\.2 s"), ("taken", "ValueError: Cluster gpukm already exists")],
)
def test_a_cluster_in_kubernetes_that_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, words: str
) -> None:
    fake = FakeKubernetes("tcp://127.0.0.1:1", fails)
    fake.install(monkeypatch)
    with pytest.raises(ExecutorError, match=words):
        RunningCluster(read_kubernetes(write(tmp_path, KUBERNETES + "wait_seconds = 0.2\n")))
    assert fake.closed == 1
    assert fake.deleted == (fails != "taken")  # what was there before stays


def test_kubernetes_takes_no_certificates(tmp_path: Path, tls: Tls) -> None:
    opened = open_cluster(f"kubernetes:{write(tmp_path, KUBERNETES)}", tls=tls)
    with pytest.raises(ConfigError, match="takes no certificates"), opened:
        pass
