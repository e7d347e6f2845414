"""``gpukm doctor --cluster``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpukm.cli.main import main
from gpukm.executors.dask import preflight


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
