"""A cluster of two processes that all tests here share, and what is run beside it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpukm.executors.dask.clusters import open_cluster
from gpukm.executors.dask.tls import Tls


@pytest.fixture(scope="session")
def client() -> Iterator[Any]:
    with open_cluster("local:2", threads=5) as client:
        client.wait_for_workers(2, timeout=30)
        yield client


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """An authority, and a certificate for 127.0.0.1 that it signed."""
    folder = tmp_path_factory.mktemp("tls")
    return make_certificates(folder)


def make_certificates(folder: Path) -> Tls:
    """By the openssl command."""

    def openssl(*arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca")
    openssl("req", *key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=127.0.0.1")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl("x509", "-req", "-in", "request.pem", *sign, "-out", "cert.pem")
    return Tls(str(folder / "ca.pem"), str(folder / "cert.pem"), str(folder / "key.pem"))


@pytest.fixture(scope="session")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Start ``dask scheduler`` or ``dask worker`` as a user does; all are killed in the end, so no nannies."""
    running = []
    folder = tmp_path_factory.mktemp("dask")

    def start(*arguments: str, **options: Any) -> Any:
        log = (folder / f"{len(running)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments], cwd=folder, stdout=log, stderr=log, **options
            )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
