"""``gpukm doctor``: what this machine has, and what gpukm makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpukm.cli._errors import FINDING, OK, UNAVAILABLE
from gpukm.cli._io import Output, output, table
from gpukm.cli._options import Cluster, ClusterWait, ConfigFile, Json, TlsCa, TlsCert, TlsKey, given

if TYPE_CHECKING:
    from gpukm.config import Settings
    from gpukm.executors.dask.preflight import Workforce

#: Distributions whose versions matter, in the order they are shown.
_LIBRARIES = (
    "numpy", "scipy", "scikit-learn", "pyarrow", "safetensors", "fsspec", "typer", "rich", "pydantic", "jinja2",
    "threadpoolctl", "dask", "distributed", "dask-cuda", "dask-jobqueue", "dask-kubernetes", "torch", "triton",
    "cupy-cuda12x", "cupy-cuda13x", "s3fs",
)  # fmt: skip


def doctor(
    ctx: typer.Context,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Solve small problems on every usable backend and compare all bits; takes seconds, and more where a "
            "GPU's kernels are compiled first.",
        ),
    ] = False,
    cluster: Cluster = None,
    cluster_wait: ClusterWait = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Print devices, backends with the reason where one cannot be used, threads, memory and versions.

    With --check also whether all backends give the same bits here; exits with 1 where one does not. With --cluster also
    the workers of a Dask cluster, what they offer and whether they fit; exits with 6 when not all can be used.
    """
    with output("doctor", as_json) as out:
        found, fits = None, True
        if cluster is not None:
            from gpukm.config import load

            loaded = load(given(ctx), file=config)
            for warning in loaded.warnings:
                out.warn(warning)
            found, fits = _workers(out, loaded.settings)
        data = {**_examine(out), "cluster": None if found is None else _cluster_data(found, fits)}
        same = _check(out, data["backends"]) if check else True
        workers = "" if found is None else "\n\n" + table(found.lines()[1:], found.lines()[0])
        code = UNAVAILABLE if not fits else OK if same else FINDING
        out.result(data, lambda: _render(data) + workers, code)


def _check(out: Output, backends: list[dict[str, Any]]) -> bool:
    """Add to each usable backend what came of its check; whether all have the same bits."""
    from gpukm.selfcheck import check

    by_name, same = {b["name"]: b for b in backends}, True
    for found in check([b["name"] for b in backends if b["usable"] and b["name"] != "numpy"]):
        by_name[found.backend]["check"] = {
            "same_bits": found.problem is None,
            "problem": found.problem,
            "reason": found.reason,
            "seconds": round(found.seconds, 3),
        }
        if found.problem is not None:
            same = False
            out.warn(f"backend {found.backend} failed its check on {found.problem}: {found.reason}")
    return same


def _workers(out: Output, settings: Settings) -> tuple[Workforce, bool]:
    """The workers of a cluster, and whether their versions fit ours."""
    from gpukm.errors import ExecutorError
    from gpukm.executors.dask.preflight import check_versions, survey
    from gpukm.pipeline.cluster import open_workers

    with open_workers(settings, out.note) as client:
        found = survey(client)
    for warning in found.warnings:
        out.warn(warning)
    try:
        check_versions(found)
    except ExecutorError as error:
        out.warn(str(error))
        return found, False
    return found, True


def _cluster_data(found: Workforce, fits: bool) -> dict[str, Any]:
    """What the JSON object holds of a cluster."""
    return {"scheduler": found.scheduler, "fits": fits, "threads": found.threads, "workers": found.workers}


def _examine(out: Output) -> dict[str, Any]:
    """Look at everything; a part that cannot be looked at becomes a warning."""
    import os
    import platform

    from gpukm.backends.select import probe, select, usable_cores
    from gpukm.cli.version import installed_version
    from gpukm.sources.memory import available_bytes

    found = probe()
    chosen = select().backend.name
    backends = [
        {"name": name, "usable": usable, "chosen": name == chosen, "reason": reason, "check": None}
        for name, usable, reason in found
    ]
    if chosen == "numpy":
        out.warn("no compiled kernels: gpukm runs on the slow numpy backend; install a C++ compiler and gpukm again")
    return {
        "gpukm": installed_version(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "devices": _devices(),
        "backends": backends,
        "threads": {"usable_cpus": usable_cores(), "omp_num_threads": os.environ.get("OMP_NUM_THREADS")},
        "memory": {"available_bytes": available_bytes()},
        "kernel_cache": _kernel_cache(),
        "versions": _versions(),
    }


def _devices() -> list[dict[str, str]]:
    """The processor, and NVIDIA devices as the driver lists them; no GPU library is loaded for that."""
    import platform
    from pathlib import Path

    from gpukm.backends.select import gpus

    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    devices = [{"name": "cpu", "model": name}]
    devices += [{"name": f"cuda:{number}", "model": found} for number, found in enumerate(gpus())]
    return devices


def _kernel_cache() -> dict[str, Any]:
    """Where compiled CUDA kernels are kept, and how many are there."""
    from gpukm.backends.select import kernel_cache

    folder = kernel_cache()
    return {"folder": folder and str(folder), "entries": len(list(folder.iterdir())) if folder else 0}


def _versions() -> dict[str, str | None]:
    """Versions from the installed metadata, so that nothing heavy is imported."""
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def _render(data: dict[str, Any]) -> str:
    """For people."""
    threads, memory, cache = data["threads"], data["memory"], data["kernel_cache"]
    general = [
        ("gpukm", data["gpukm"]),
        ("python", data["python"]),
        ("system", data["system"]),
        *((device["name"], device["model"]) for device in data["devices"]),
        ("threads", f"{threads['usable_cpus']} (OMP_NUM_THREADS {threads['omp_num_threads'] or 'not set'})"),
        ("memory", f"{memory['available_bytes'] / 2**30:.1f} GiB free"),
        ("CUDA kernels", f"{cache['entries']} compiled, in {cache['folder'] or 'a folder that others can write to'}"),
    ]
    backends = [
        (b["name"], "chosen" if b["chosen"] else "usable" if b["usable"] else "no", _checked(b), b["reason"] or "-")
        for b in data["backends"]
    ]
    versions = [(name, version or "not installed") for name, version in data["versions"].items()]
    return "\n\n".join([table(general), table(backends, ("BACKEND", "STATE", "CHECK", "REASON")), table(versions)])


def _checked(backend: dict[str, Any]) -> str:
    """What came of a backend's check, for people."""
    found = backend["check"]
    if found is None:
        return "-"
    return f"{'same bits' if found['same_bits'] else 'failed'}, {found['seconds']:.1f} s"
