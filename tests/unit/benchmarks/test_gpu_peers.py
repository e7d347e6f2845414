"""Who takes part beside gpukm on a GPU."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def test_absent_peers_are_told_with_the_reason(gpu: Any, gpu_bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, broken = lambda: gpu.contenders.needed("no_such_module"), lambda: 1 / 0
    monkeypatch.setattr(gpu.peers, "PEERS", {"there": gpu.contenders.Peer, "gone": gone, "broken": broken})
    with pytest.raises(ZeroDivisionError):
        gpu.peers.importable()
    del gpu.peers.PEERS["broken"]
    found, absent = gpu.peers.importable()
    assert list(found) == ["there"] and "No module named 'no_such_module'" in absent["gone"]
    bench = gpu_bench(**found)
    bench.absent = absent
    left_out = gpu.assign.run_assign(bench, gpu.cases.Case("test", gpu.assign.run_assign, 300, 4, 5))[0]["left_out"]
    assert left_out["gone"] == absent["gone"] and "Absent" not in left_out["there"]
    assert left_out["there"] == "it has no call that labels rows by given centroids"


def test_every_peer_is_listed_where_there_is_no_device(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_device() -> None:
        raise gpu.contenders.Absent("it needs a CUDA device")

    monkeypatch.setattr(gpu.peers, "needs_cuda", no_device)
    found, absent = gpu.peers.importable()
    assert {*found, *absent} == set(gpu.peers.PEERS)
    assert {"flashlib triton", "flashlib cutedsl", "flash-kmeans", "fastkmeans", "cuml", "cuvs"} <= set(absent)


def test_wheels_are_unpacked(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    wheels, into = tmp_path / "wheels", tmp_path / "into"
    wheels.mkdir()
    into.mkdir()
    with zipfile.ZipFile(wheels / "thing-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("gpukm_test_thing/__init__.py", "value = 7\n")
    gpu.peers.unpack(wheels, into)
    assert gpu.contenders.needed("gpukm_test_thing").value == 7
    assert sys.path[-1] == str(into)


def test_rows_are_ordered_for_a_start(gpu: Any) -> None:
    rng = np.random.default_rng(1)
    drawn, rows = rng.permutation(50), rng.choice(50, 7, replace=False)
    order = gpu.peers.ordered(drawn, rows)
    np.testing.assert_array_equal(order[drawn[:7]], rows)
    np.testing.assert_array_equal(np.sort(order), np.arange(50))
