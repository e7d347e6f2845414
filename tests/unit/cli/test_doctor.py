"""``gpukm doctor --cluster``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpukm.cli.main import main
from gpukm.executors.dask import preflight
from tests.emulated import as_cupy  # noqa: F401


def test_the_workers_of_a_cluster_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gpukm.executors.dask.clusters import open_cluster

    monkeypatch.chdir(tmp_path)
    with open_cluster("local:1", threads=1) as client:
        address = client.scheduler.address
        assert main(["doctor", "--cluster", address, "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)["data"]["cluster"]
        [worker] = found["workers"]
        assert found["scheduler"] == address and found["fits"] and found["threads"] == 1
        assert worker["address"].startswith("tcp://127.0.0.1:") and worker["native"]

        monkeypatch.setattr(preflight, "_own_version", lambda: "9.9")
        assert main(["doctor", "--cluster", address]) == 6
        shown = capsys.readouterr()
        assert "WORKER" in shown.out and worker["address"] in shown.out
        assert "warning: workers have another version of gpukm than the 9.9 here" in shown.err


def test_without_a_cluster_none_is_started(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUKM_CLUSTER", "local:4")  # what a fit would use; looking at this machine starts nothing
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["cluster"] is None


@pytest.fixture
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Problems that an emulator solves in seconds."""
    from gpukm import selfcheck

    whole = selfcheck.check
    monkeypatch.setattr(selfcheck, "check", lambda backends: whole(backends, 600, 30))


def checked(said: str) -> dict[str, Any]:
    """What came of each backend."""
    return {b["name"]: b["check"] for b in json.loads(said)["data"]["backends"]}


def test_all_backends_give_the_same_bits(capsys: pytest.CaptureFixture[str], smaller: None, as_cupy: Any) -> None:  # noqa: F811
    assert main(["doctor", "--check", "--json"]) == 0
    found = checked(capsys.readouterr().out)
    assert found["cpu"]["same_bits"] and found["cupy"]["same_bits"] and found["numpy"] is None
    assert main(["doctor", "--check"]) == 0
    assert "same bits, " in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    assert set(checked(capsys.readouterr().out).values()) == {None}


@pytest.mark.parametrize("error", [None, RuntimeError("misaligned\naddress")])
def test_a_backend_with_other_bits_is_found(
    capsys: pytest.CaptureFixture[str],
    smaller: None,
    as_cupy: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
) -> None:
    right = type(as_cupy).total

    def wrong(self: Any, *args: Any) -> int:
        if error is not None:
            raise error
        return right(self, *args) * 3 // 2

    monkeypatch.setattr(type(as_cupy), "total", wrong)
    assert main(["doctor", "--check", "--json"]) == 1
    shown = capsys.readouterr()
    found = checked(shown.out)
    assert found["cpu"]["same_bits"] and not found["cupy"]["same_bits"]
    reason = "centroids, labels or inertia have other bits" if error is None else "RuntimeError: misaligned address"
    assert found["cupy"]["reason"].startswith(reason)
    assert f"warning: backend cupy failed its check on {found['cupy']['problem']}: {reason}" in shown.err
