"""What ``--cluster`` may say, and what becomes of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gpukm.errors import BackendUnavailableError, ConfigError, ExecutorError
from gpukm.executors.dask import clusters, schedulers
from gpukm.executors.dask.clusters import open_cluster, parse_cluster
from gpukm.executors.dask.preflight import preflight
from gpukm.executors.dask.tls import Tls, tls_of
from tests.unit.executors.conftest import make_certificates


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("local", ("local", "")),
        (" local:12 ", ("local", "12")),
        ("cuda", ("cuda", "")),
        ("cuda:0,1", ("cuda", "0,1")),
        ("cuda:GPU-1a2b,MIG-3c", ("cuda", "GPU-1a2b,MIG-3c")),
        ("tcp://10.0.0.1:8786", ("address", "tcp://10.0.0.1:8786")),
        ("tls://[::1]:8786/", ("address", "tls://[::1]:8786")),
        ("file:a/scheduler.json", ("file", "a/scheduler.json")),
        ("file:///a/scheduler.json", ("file", "/a/scheduler.json")),
        ("slurm:gpu.toml", ("slurm", "gpu.toml")),
        ("kubernetes:k.yaml", ("kubernetes", "k.yaml")),
    ],
)
def test_kinds(text: str, found: tuple[str, str]) -> None:
    assert parse_cluster(text) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected local"),
        ("locl:3", "did you mean local"),
        ("kubernetes", "kubernetes:PATH"),
        ("file:", "names no file"),
        ("local:0", "number of processes"),
        ("local:", "number of processes"),
        ("local:two", "number of processes"),
        ("cuda:0;1", "cuda:0,1"),
        ("10.0.0.1:8786", "did you mean tcp://10.0.0.1:8786"),
        ("tcp://host", "tcp://host:port"),
        ("tcp://host:99999", "tcp://host:port"),
        ("http://host:8786", "expected local"),
    ],
)
def test_other_texts_are_refused_with_what_is_near(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_cluster(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["tcp://me:hunter2@host:8786", "https://me:hunter2@host/x?token=hunter2"])
def test_no_message_shows_a_secret(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_cluster(text)
    assert "hunter2" not in str(caught.value)


def test_local_workers_have_equal_threads_and_listen_on_loopback(client: Any) -> None:
    info = client.scheduler_info(n_workers=-1)
    assert [worker["nthreads"] for worker in info["workers"].values()] == [2, 2]  # of five
    assert all(address.startswith("tcp://127.0.0.1:") for address in [info["address"], *info["workers"]])
    pids = set(client.run(os.getpid).values())
    assert len(pids) == 2 and os.getpid() not in pids


def test_threads_are_set_for_workers_and_not_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> tuple[str | None, int]:
        from gpukm_kernels import native

        return os.environ.get("OMP_NUM_THREADS"), native().max_threads()

    # Dask's own nannies would set both to 1.
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with open_cluster("local:1", threads=3) as other:
        assert list(other.run(threads).values()) == [("3", 3)]
        assert "OMP_NUM_THREADS" not in os.environ


def test_without_a_number_all_cores_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def note(stack: Any, kind: Any, options: dict[str, Any], *rest: Any) -> None:
        seen.append(options)
        raise ExecutorError("enough")

    monkeypatch.setattr(clusters, "_started", note)
    monkeypatch.setattr(clusters, "usable_cores", lambda: 8)
    for text in ("local", "local:3", "local:20"):
        with pytest.raises(ExecutorError, match="enough"), open_cluster(text):
            pass
    shares = [(options["n_workers"], options["threads_per_worker"]) for options in seen]
    assert shares == [(4, 2), (3, 2), (20, 1)]


def test_an_error_within_closes_what_was_started() -> None:
    pids: list[int] = []
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), open_cluster("local:1", threads=1) as client:
        pids += client.run(os.getpid).values()
        raise ZeroDivisionError
    assert pids and not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert client.status == "closed"
    assert threading.active_count() <= before + 4  # pools of Dask that stay


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text(
        "import os, sys, time\n"
        "from gpukm.executors.dask.clusters import open_cluster\n"
        "if __name__ == '__main__':\n"
        "    with open_cluster('local:2', threads=2) as client:\n"
        "        client.wait_for_workers(2)\n"
        "        print(*client.run(os.getpid).values(), flush=True)\n"
        "        time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, start_new_session=True, text=True)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
    process.wait(20)
    process.stdout.close()
    assert len(pids) == 2 and process.returncode not in (0, None)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_scheduler_that_runs_is_used_and_left_running(client: Any) -> None:
    address = client.scheduler.address
    with open_cluster(address) as other:
        assert other.submit(sum, [1, 2]).result(10) == 3
        assert other.id != client.id
    assert len(client.scheduler_info(n_workers=-1)["workers"]) == 2


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedulers, "CONNECT_SECONDS", 0.5)
    began = time.monotonic()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(ExecutorError, match=f"{address}: nobody listens there.*dask scheduler"),
            open_cluster(address),
        ):
            pass
    assert time.monotonic() - began < 3


def test_an_unknown_host() -> None:
    words = r"host of tcp://nowhere\.invalid:8786 is not known"
    with pytest.raises(ExecutorError, match=words), open_cluster("tcp://nowhere.invalid:8786"):
        pass


def test_something_else_listens_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedulers, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        words = r"does not answer as a Dask scheduler within 0\.3 s"
        with pytest.raises(ExecutorError, match=words), open_cluster(address):
            pass


def test_the_address_of_a_worker(client: Any) -> None:
    address = next(iter(client.scheduler_info(n_workers=-1)["workers"]))
    with pytest.raises(ExecutorError, match="address of a Worker"), open_cluster(address):
        pass


def test_a_scheduler_file_that_is_not_there_or_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedulers, "CONNECT_SECONDS", 0.3)
    path = tmp_path / "scheduler.json"
    for content, words in (
        (None, "does not exist"),
        ("{", "is not JSON"),
        ("[]", "no address"),
        ('{"address": "http://x"}', "no address"),
    ):
        if content is not None:
            path.write_text(content)
        with (
            pytest.raises(ExecutorError, match=f"{words}.*dask scheduler --scheduler-file"),
            open_cluster(f"file:{path}"),
        ):
            pass


def test_a_scheduler_file_that_comes_late(tmp_path: Path, client: Any) -> None:
    path = tmp_path / "scheduler.json"
    later = threading.Timer(0.3, lambda: path.write_text(json.dumps({"address": client.scheduler.address})))
    later.start()
    with open_cluster(f"file:{path}") as other:
        assert other.scheduler.address == client.scheduler.address
    later.join()


@pytest.fixture(scope="module")
def secured(dask: Callable[..., Any], tls: Tls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``dask scheduler`` and ``dask worker`` with certificates, the worker offering a GPU that is none."""
    path = tmp_path_factory.mktemp("secured") / "scheduler.json"
    files = ("--tls-ca-file", tls.ca, "--tls-cert", tls.cert, "--tls-key", str(tls.key))
    options = ("--protocol", "tls", "--host", "127.0.0.1", "--no-dashboard", *files)
    dask("scheduler", "--scheduler-file", str(path), "--port", "0", *options)
    dask("worker", "--scheduler-file", str(path), "--nthreads", "1", "--no-nanny", "--resources", "GPU=1", *options)
    yield path


def test_scheduler_file_certificates_and_resources(secured: Path, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedulers, "CONNECT_SECONDS", 20.0)
    said: list[str] = []
    with open_cluster(f"file:{secured}", tls=tls, say=said.append) as client:
        assert client.scheduler.address.startswith("tls://")
        found = preflight(client, needs={"GPU": 1})
        assert [dict(worker.resources) for worker in found.workers] == [{"GPU": 1.0}]
        assert client.submit(sum, [1, 2], resources={"GPU": 1}).result(10) == 3
    assert not said or "waiting up to 60 s for a worker of file:" in said[0]


def test_certificates_of_dasks_own_configuration(
    secured: Path, tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask
    import distributed  # noqa: F401  its defaults must be there before they are changed

    monkeypatch.setattr(schedulers, "CONNECT_SECONDS", 20.0)
    files = {"ca-file": tls.ca, "client.cert": tls.cert, "client.key": tls.key}
    settings = {f"distributed.comm.tls.{name}": path for name, path in files.items()}
    with dask.config.set(settings), open_cluster(f"file:{secured}") as client:
        assert client.submit(sum, [1, 2]).result(10) == 3


def test_certificates_of_another_authority_are_told(secured: Path, tmp_path: Path, tls: Tls) -> None:
    deadline = time.monotonic() + 20
    while not secured.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    began = time.monotonic()
    with (
        pytest.raises(ExecutorError, match="signed by tls_ca"),
        open_cluster(f"file:{secured}", tls=make_certificates(tmp_path)),
    ):
        pass
    assert time.monotonic() - began < 10


def test_without_certificates_tls_is_refused() -> None:
    with pytest.raises(ConfigError, match="--tls-ca"), open_cluster("tls://127.0.0.1:1"):
        pass


def test_certificates_are_not_ignored_by_plain_tcp(tls: Tls) -> None:
    with pytest.raises(ConfigError, match="not encrypted"), open_cluster("tcp://127.0.0.1:1", tls=tls):
        pass


def test_certificates_of_local_workers(tls: Tls) -> None:
    with open_cluster("local:1", threads=1, tls=tls) as client:
        assert client.scheduler.address.startswith("tls://")
        assert client.submit(sum, [1, 2]).result(10) == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("ca", None, None), "tls_cert is missing"),
        ((None, "cert", "key"), "tls_ca is missing"),
    ],
)
def test_half_of_the_certificates(given: tuple[str | None, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tls_of(*given)


def test_certificates_that_are_none(tls: Tls, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("secret")
    for files, words in (
        (Tls(str(tmp_path / "none"), tls.cert, tls.key), "no such file"),
        (Tls(str(other), tls.cert, tls.key), "holds no certificate"),
        (Tls(tls.ca, tls.cert, str(other)), "cannot be used"),
        (Tls(tls.ca, tls.cert), "in the same file"),
    ):
        with pytest.raises(ConfigError, match=words), open_cluster("local:1", tls=files):
            pass


def test_a_cluster_without_workers_is_waited_for_and_given_up(dask: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    dask("scheduler", "--scheduler-file", str(path), "--port", "0", "--host", "127.0.0.1", "--no-dashboard")
    said: list[str] = []
    for _ in range(20):
        if path.exists():
            break
        time.sleep(0.5)
    words = r"has no worker after 0\.3 s.*dask worker tcp://127.0.0.1:.*--cluster-wait"
    waiting = open_cluster(f"file:{path}", wait_seconds=0.3, say=said.append)
    with pytest.raises(ExecutorError, match=words), waiting:
        pass
    assert said == [f"waiting up to 0.3 s for a worker of file:{path}"]


@pytest.mark.parametrize(("text", "devices"), [("cuda", None), ("cuda:0", "0")])
def test_a_worker_for_each_gpu(monkeypatch: pytest.MonkeyPatch, text: str, devices: str | None) -> None:
    """What dask-cuda is asked for; two GPUs that are none."""
    from distributed import LocalCluster

    class OnGpus(LocalCluster):
        def __init__(self, CUDA_VISIBLE_DEVICES: str | None = None, **options: Any) -> None:
            assert devices == CUDA_VISIBLE_DEVICES
            super().__init__(n_workers=1 if devices else 2, **options)

    library = ModuleType("dask_cuda")
    library.LocalCUDACluster = OnGpus  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", library)
    backends = import_module("gpukm.backends.select")
    monkeypatch.setattr(backends, "gpus", lambda: ["one", "two"])
    monkeypatch.setattr(backends, "kernels", lambda: {"gpu": (True, "")})
    with open_cluster(text, threads=6) as client:
        client.wait_for_workers(1 if devices else 2, timeout=20)
        found = preflight(client, needs={"GPU": 1})
        assert [worker.threads for worker in found.workers] == ([6] if devices else [3, 3])
        assert len(found.offering({"GPU": 1})) == len(found.workers) and not found.offering({"GPU": 2})


def test_without_a_gpu_there_is_no_such_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("dask_cuda")
    library.LocalCUDACluster = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", library)
    monkeypatch.setattr(import_module("gpukm.backends.select"), "kernels", lambda: {"gpu": (False, "no driver")})
    with pytest.raises(BackendUnavailableError, match="finds no GPU: no driver"), open_cluster("cuda"):
        pass


def test_leaving_a_scheduler_that_has_gone_takes_no_time(dask: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    options = ("--scheduler-file", str(path), "--host", "127.0.0.1", "--no-dashboard")
    scheduler = dask("scheduler", "--port", "0", *options)
    dask("worker", "--no-nanny", *options)
    for _ in range(40):
        if path.exists():
            break
        time.sleep(0.5)
    with open_cluster(f"file:{path}") as client:
        scheduler.kill()
        scheduler.wait()
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert client.status == "closed"


def test_what_is_not_installed_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile = tmp_path / "slurm.toml"
    profile.write_text('cores = 4\nmemory = "8GB"\njobs = 1\n')
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with (
        pytest.raises(BackendUnavailableError, match=r"dask-cuda.*pip install 'gpukm\[cuda12\]'"),
        open_cluster("cuda"),
    ):
        pass
    with (
        pytest.raises(BackendUnavailableError, match=r"pip install 'gpukm\[slurm\]'"),
        open_cluster(f"slurm:{profile}"),
    ):
        pass
