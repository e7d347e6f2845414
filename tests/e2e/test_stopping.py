"""Runs that are stopped: by Ctrl-C, by a full disk, and gone on with afterwards."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import Gpukm, command, environment, tree
from tests.s3 import REGION, make_bucket, needs_s3

#: Iterations that take long enough to be interrupted, and that never converge early.
SLOW = ("train", "x.npy", "-k", "64", "--init", "random", "--n-init", "1", "--tol", "0", "--max-iter", "5000")


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Rows without structure, on which k-means takes many iterations."""
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).random((20_000, 6), np.float32))
    return path


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the program without waiting for it."""
    return subprocess.Popen(
        command(*arguments), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until one is saved."""
    for _ in range(600):
        if any(folder.glob("*.safetensors")):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    pytest.fail(f"nothing in {folder.name}: {process.communicate()[1]}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_fit_leaves_only_its_checkpoint(
    tmp_path: Path, numbers: Path, number: signal.Signals, code: int
) -> None:
    process = start(tmp_path, *SLOW, "--checkpoint", "c", "--report", "r.html", "--json")
    wait_for_checkpoint(tmp_path / "c", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    error = json.loads(out)["error"]
    assert error["exit_code"] == code and "nothing half-written" in error["message"]
    assert "Traceback" not in err
    left = set(tree(tmp_path)) - {"x.npy"}
    assert 1 <= len(left) <= 2 and all(re.fullmatch(r"c/\d{8}\.safetensors", name) for name in left)


def test_a_fit_that_goes_on_ends_with_the_same_bits(tmp_path: Path, numbers: Path, gpukm: Gpukm) -> None:
    fit = (*SLOW[:-1], "40")
    undisturbed = gpukm(*fit, "--json")
    assert undisturbed.code == 0, undisturbed.err
    process = start(tmp_path, *fit, "--checkpoint", "c")
    wait_for_checkpoint(tmp_path / "c", process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    resumed = gpukm(*fit, "--checkpoint", "c", "--resume", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.data["id"] == undisturbed.data["id"]
    assert not (tmp_path / "c").exists()
    if process.returncode == -signal.SIGKILL:
        assert 0 < resumed.data["resumed_from_iteration"] < 40


@needs_s3
def test_a_killed_fit_goes_on_from_an_object_store(
    tmp_path: Path,
    numbers: Path,
    gpukm: Gpukm,
    s3_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = "hunter2hunter2"
    for name, value in (
        ("AWS_ENDPOINT_URL", s3_endpoint),
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", secret),
        ("AWS_DEFAULT_REGION", REGION),
    ):
        monkeypatch.setenv(name, value)
    fs = make_bucket(s3_endpoint, "fits")
    fit = (*SLOW[:-1], "40")
    undisturbed = gpukm(*fit, "--json")
    saved = (*fit, "--checkpoint", "s3://fits/a", "--checkpoint-seconds", "0")
    process = start(tmp_path, *saved)
    for _ in range(600):
        fs.invalidate_cache()
        if fs.exists("fits/a") or process.poll() is not None:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    refused = gpukm(*saved)
    assert refused.code == 2 and "s3://fits/a of an unfinished fit is there; add --resume" in refused.err
    resumed = gpukm(*saved, "--resume", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.data["id"] == undisturbed.data["id"]
    assert 0 < resumed.data["resumed_from_iteration"] < 40
    fs.invalidate_cache()
    assert not fs.exists("fits/a")
    assert secret not in refused.err + resumed.err + resumed.out


def test_changed_settings_or_data_are_not_gone_on_with(tmp_path: Path, numbers: Path, gpukm: Gpukm) -> None:
    process = start(tmp_path, *SLOW, "--checkpoint", "c")
    wait_for_checkpoint(tmp_path / "c", process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    again = (*SLOW, "--checkpoint", "c", "--resume")
    before = tree(tmp_path)
    done = gpukm(*again, "--seed", "3")
    assert done.code == 2 and "seed was 0 and is 3" in done.err
    np.save(numbers, np.random.default_rng(1).random((20_000, 6), np.float32))
    done = gpukm(*again)
    assert done.code == 2 and "fingerprint was" in done.err
    found = tree(tmp_path)
    assert set(found) == set(before) and all(found[name] == before[name] for name in before if name != "x.npy")


def test_without_a_checkpoint_yet_resume_starts_at_the_beginning(tmp_path: Path, numbers: Path, gpukm: Gpukm) -> None:
    done = gpukm(*SLOW[:-1], "3", "--checkpoint", "c", "--resume", "--json")
    assert done.code == 0, done.err
    assert "no checkpoint c yet" in json.loads(done.out)["warnings"][0]
    assert done.data["resumed_from_iteration"] == 0


def test_interrupting_assign_leaves_no_output(tmp_path: Path, gpukm: Gpukm) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((300_000, 4), np.float32))
    assert gpukm("train", "x.npy", "-k", "8", "--max-iter", "2").code == 0
    before = set(tree(tmp_path))
    process = start(tmp_path, "assign", "x.npy", "-o", "out.parquet", "--batch-rows", "50", "--threads", "1")
    for _ in range(600):
        if any(tmp_path.glob(".*.tmp")):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    # Where Ctrl-C falls into exec(), as when a module that makes dataclasses is imported, `python -m` notes it as not
    # handled and ends by the signal itself, whatever becomes of the exception; a shell calls both 130.
    assert process.returncode in (130, -signal.SIGINT), err
    assert "interrupted; nothing half-written was left" in err
    assert set(tree(tmp_path)) == before


def limited(n_bytes: int) -> object:
    """Let no file of a child process grow beyond ``n_bytes``, as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


@pytest.mark.parametrize("n_bytes", [64, 1500, 4000])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, data: Path, gpukm: Gpukm, n_bytes: int) -> None:
    train = ("train", "flights.parquet", "-k", "4", "--columns", "delay,distance", "--json")
    done = gpukm(*train, preexec_fn=limited(n_bytes))
    assert done.code == 2, done.err
    message = json.loads(done.out)["error"]["message"]
    assert "no space left" in message or "no room is left" in message
    assert "Traceback" not in done.err
    store = tmp_path / "gpukm-store"
    assert not list(store.rglob("log/*")) and not list(store.rglob("tmp/*"))
    assert gpukm(*train).code == 0
    before = tree(tmp_path)
    done = gpukm("assign", "flights.parquet", "-o", "out.parquet", "--json", preexec_fn=limited(100))
    assert done.code == 2 and "no space left" in json.loads(done.out)["error"]["message"], done.err
    assert tree(tmp_path) == before


def test_two_trainings_at_once_both_publish(tmp_path: Path, data: Path, gpukm: Gpukm) -> None:
    train = ("train", "flights.parquet", "-k", "4", "--columns", "delay,distance", "--json")
    runs = [start(tmp_path, *train, "--seed", str(seed)) for seed in range(3)]
    done = [json.loads(process.communicate(timeout=60)[0])["data"] for process in runs]
    assert sorted(d["number"] for d in done) == [1, 2, 3]
    assert gpukm("snapshots", "verify").code == 0
