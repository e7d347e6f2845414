"""A cluster of several hosts, which are network namespaces of this machine; one of them is cut off."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import Gpukm, command, environment
from tests.faults import Cluster, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

_NUMBERS = itertools.count()
FIT = ("train", "x.npy", "-k", "64", "--init", "random", "--n-init", "1", "--tol", "0", "--max-iter", "250")
#: Connections that carry nothing for so long are given up.  Dask takes no less than 11 seconds.
LOST = {"COMM__TIMEOUTS__TCP": "12s", "COMM__TIMEOUTS__CONNECT": "5s"}


def ip(*arguments: str) -> None:
    """Run ``ip``."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Network:
    """Hosts on one switch. The first has the switch, and nothing else of this machine can be reached from any."""

    def __init__(self, n: int) -> None:
        self.names = [f"gpukm-{os.getpid()}-{next(_NUMBERS)}" for _ in range(n)]
        hub = self.names[0]
        try:
            for name in self.names:
                ip("netns", "add", name)
                ip("-n", name, "link", "set", "lo", "up")
            ip("-n", hub, "link", "add", "switch", "type", "bridge")
            ip("-n", hub, "address", "add", f"{self.address(0)}/24", "dev", "switch")
            ip("-n", hub, "link", "set", "switch", "up")
            for i, name in enumerate(self.names[1:], 1):
                ip("-n", hub, "link", "add", f"port{i}", "type", "veth", "peer", "name", "eth0", "netns", name)
                ip("-n", hub, "link", "set", f"port{i}", "master", "switch", "up")
                ip("-n", name, "address", "add", f"{self.address(i)}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "eth0", "up")
        except BaseException:
            self.close()
            raise

    def address(self, i: int) -> str:
        """Of a host."""
        return f"10.77.0.{i + 1}"

    def on(self, i: int) -> tuple[str, ...]:
        """What begins a command that runs on a host."""
        return ("ip", "netns", "exec", self.names[i])

    def cut(self, i: int, again: bool = False) -> None:
        """Pull a host's cable, or put it back."""
        ip("-n", self.names[0], "link", "set", f"port{i}", "up" if again else "down")

    def close(self) -> None:
        """Remove all hosts and what connects them."""
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@pytest.fixture
def network() -> Iterator[Network]:
    if shutil.which("ip") is None:
        pytest.skip("not run: a network of namespaces needs iproute2")
    if os.geteuid() != 0:
        pytest.skip("not run: a network of namespaces needs root")
    try:
        hosts = Network(4)
    except OSError as error:
        pytest.skip(f"not run: no network of namespaces can be made here: {error}")
    yield hosts
    hosts.close()


@pytest.fixture
def cluster(tmp_path: Path, network: Network) -> Iterator[Cluster]:
    """A scheduler on the first host, and a worker on each of the others."""
    one = Cluster(tmp_path / "cluster", **LOST)
    try:
        one.scheduler(host=network.address(0), inside=network.on(0))
        for i in (1, 2, 3):
            one.worker(host=network.address(i), inside=network.on(i))
        yield one
    finally:
        one.close()


def start(folder: Path, network: Network, *arguments: object) -> subprocess.Popen[str]:
    """The program, on the scheduler's host."""
    env = environment({f"DASK_DISTRIBUTED__{name}": value for name, value in LOST.items()})
    line, pipe = [*network.on(0), *command(*arguments)], subprocess.PIPE
    return subprocess.Popen(line, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)


def iteration(folder: Path) -> int:
    """How often a state has been saved."""
    return max([int(path.stem) for path in folder.glob("*.safetensors")], default=0)


@pytest.mark.parametrize("back", [False, True], ids=["for good", "and back"])
def test_a_host_cut_off(tmp_path: Path, network: Network, cluster: Cluster, gpukm: Gpukm, back: bool) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20_000, 6), np.float32))
    alone = gpukm(*FIT, "--json").data
    kept = ("--checkpoint", "c", "--checkpoint-seconds", "0")
    process = start(tmp_path, network, *FIT, *kept, "--cluster", f"file:{cluster.file}", "--json")
    try:
        wait_until(lambda: iteration(tmp_path / "c") > 2 or process.poll() is not None, "iterations", 60)
        assert process.poll() is None, process.communicate()[1]
        network.cut(2)
        if back:
            time.sleep(15)  # given up by then
            network.cut(2, again=True)
            cluster.worker(host=network.address(2), inside=network.on(2))
        out, err = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert json.loads(out)["data"]["id"] == alone["id"]


def test_the_client_cut_off(tmp_path: Path, network: Network, cluster: Cluster, gpukm: Gpukm) -> None:
    """It ends with one error in a time that the time-outs say, and another goes on from its checkpoint."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20_000, 6), np.float32))
    alone = gpukm(*FIT, "--json").data
    kept = (*FIT, "--checkpoint", "c", "--checkpoint-seconds", "0", "--json", "--cluster", f"file:{cluster.file}")
    env = environment({f"DASK_DISTRIBUTED__{name}": value for name, value in LOST.items()})
    line, pipe = [*network.on(3), *command(*kept)], subprocess.PIPE
    process = subprocess.Popen(line, cwd=tmp_path, env=env, stdout=pipe, stderr=pipe, text=True)
    try:
        wait_until(lambda: iteration(tmp_path / "c") > 2 or process.poll() is not None, "iterations", 60)
        assert process.poll() is None, process.communicate()[1]
        network.cut(3)
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 45
    finally:
        process.kill()
    assert process.returncode == 6 and json.loads(out)["error"]["type"] == "ExecutorError", err
    assert "Traceback" not in err, err
    second = start(tmp_path, network, *kept, "--resume")
    out, err = second.communicate(timeout=90)
    assert second.returncode == 0, err
    assert json.loads(out)["data"]["id"] == alone["id"]
