"""Several processes at once, and processes killed at any moment."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpukm.snapshots import Store
from tests.conformance.store import child_environment, nearest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

# Each script forks from a process without threads, so that a child costs milliseconds.
_PUBLISHERS = """
import os, sys
from gpukm.snapshots import Store
from tests.conformance.store import make_content, nearest
import safetensors
root, n_processes, n_each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
go, start = os.pipe()
children = []
for i in range(n_processes):
    pid = os.fork()
    if pid == 0:
        os.close(start)
        os.read(go, 1)
        for j in range(n_each):
            Store.open(root, create=True).publish("m", make_content(j), {"process": i, "turn": j}, labeller=nearest)
        os._exit(0)
    children.append(pid)
os.close(start)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))
"""

_KILLED_AT_STEP = """
import os, signal, sys
from gpukm.snapshots import Store
from tests.conformance.store import make_content, nearest
root = sys.argv[1]
for step in range(1000):
    pid = os.fork()
    if pid == 0:
        left = step
        def counted(real):
            def call(*args, **kwargs):
                global left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)
            return call
        for name in ("mkdir", "fsync", "link", "unlink", "lstat"):
            setattr(os, name, counted(getattr(os, name)))
        Store.open(root, create=True).publish("m", make_content(step), {"step": step}, labeller=nearest)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    store = Store.open(root, create=True)
    n = len(store.records("m")) if store.models() else 0
    problems = store.verify(labeller=nearest)
    print(step, status, n, *problems)
    if status == 0:
        break
"""

_FOREVER = """
import itertools, os, sys
from gpukm.snapshots import Store
from tests.conformance.store import make_content, nearest
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        store = Store.open(sys.argv[1], create=True)
        print(os.getpid(), flush=True)
        for i in itertools.count(int(line) * 100_000):
            store.publish("m", make_content(i, k=50, d=200), {"i": i}, labeller=nearest)
            print("published", flush=True)
    os.waitpid(pid, 0)
    print("dead", flush=True)
"""


def _run(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *args]
    return subprocess.run(command, capture_output=True, text=True, env=child_environment(), check=False)


def test_processes_publishing_at_once_all_succeed(tmp_path: Path) -> None:
    done = _run(_PUBLISHERS, str(tmp_path), "4", "6")
    assert done.returncode == 0, done.stderr
    store = Store.open(tmp_path)
    records = store.records("m")
    assert [record.number for record in records] == list(range(1, 25))
    published = sorted((r.provenance["process"], r.provenance["turn"]) for r in records)
    assert published == [(i, j) for i in range(4) for j in range(6)]
    assert len({record.snapshot for record in records}) == 6, "the same fit has one id, whoever publishes it"
    assert store.verify(labeller=nearest) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_kill_at_each_step_leaves_whole_snapshots(tmp_path: Path) -> None:
    done = _run(_KILLED_AT_STEP, str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 3) for line in done.stdout.splitlines()]
    assert all(len(line) == 3 for line in lines), f"problems: {[line for line in lines if len(line) > 3]}"
    statuses = [int(status) for _, status, _ in lines]
    assert statuses == [-signal.SIGKILL] * (len(lines) - 1) + [0]
    assert len(lines) > 20, "too few steps were killed to show anything"
    counts = [int(n) for _, _, n in lines]
    assert counts == sorted(counts)
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(counts))
    assert counts[-1] > counts[0] == 0


def test_a_kill_at_a_random_moment_leaves_whole_snapshots(tmp_path: Path) -> None:
    delays = random.Random(7)
    with subprocess.Popen(
        [sys.executable, "-c", _FOREVER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        before = 0
        for turn in range(12):
            parent.stdin.write(f"{turn}\n")
            parent.stdin.flush()
            victim = int(parent.stdout.readline())
            assert parent.stdout.readline() == "published\n"
            time.sleep(delays.uniform(0.0, 0.03))
            os.kill(victim, signal.SIGKILL)
            told = 1 + list(iter(parent.stdout.readline, "dead\n")).count("published\n")
            store = Store.open(tmp_path)
            now = len(store.records("m"))
            assert before + told <= now <= before + told + 1, "what was said to be published is, and at most one more"
            before = now
        parent.stdin.close()
    assert store.verify(labeller=nearest) == []
