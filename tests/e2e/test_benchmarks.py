"""The benchmark scripts as users run them, on next to no data."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
PARTS = {
    *("cluster_model", "data", "peers", "plots", "record", "turns", "verify"),
    *(path.stem for path in FOLDER.glob("gpu_*.py")),
}
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in PARTS)
PEERS = {
    "scikit-learn": "sklearn",
    "intelex": "sklearnex",
    "faiss": "faiss",
    "superkmeans": "superkmeans",
    "superkmeans-hierarchical": "superkmeans",
    "mini-batch": "sklearn",
}


def run(script: str, *arguments: object) -> str:
    """Run a script to a good end and return what it printed."""
    command = [sys.executable, str(FOLDER / f"{script}.py"), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def result(folder: Path, name: str) -> dict[str, Any]:
    """The JSON that a script wrote."""
    (path,) = folder.glob(f"{name}-*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["benchmark"] == name and found["machine"]["cores"] and found["versions"]["gpukm"]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """A whole fit by every contender that is installed."""
    out = tmp_path_factory.mktemp("whole")
    settings = ("--repeats", 2, "--threads", 1, "--iterations", 20, "--contenders", ",".join(["gpukm", *PEERS]))
    printed = run("whole", "--only", "1500-8-12", *settings, "--out", out)
    return printed, result(out, "whole")


def test_gpukm_fits_to_the_end(whole: tuple[str, dict[str, Any]]) -> None:
    printed, found = whole
    (row,) = found["rows"]
    ours = row["contenders"]["gpukm"]
    assert len(ours["seconds"]) == 2 and ours["iterations"] > 1 and ours["inertia"] > 0
    assert ours["least_seconds"] <= ours["median_seconds"] <= ours["most_seconds"]
    assert (row["n"], row["d"], row["k"]) == (1500, 8, 12)
    assert row["ratio"] == pytest.approx(found["geometric_mean_ratio"]) == pytest.approx(found["least_ratio"])
    assert "| mixture, 1,500 x 8, K=12 |" in printed


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_takes_part(whole: tuple[str, dict[str, Any]], name: str) -> None:
    pytest.importorskip(PEERS[name])
    row = whole[1]["rows"][0]
    assert name in row["contenders"], row["left_out"].get(name)
    ours, theirs = row["contenders"]["gpukm"], row["contenders"][name]
    if name in ("superkmeans-hierarchical", "mini-batch"):
        assert theirs["inertia"] == pytest.approx(ours["inertia"], rel=0.5)
    else:
        # The same start and the same stop rule lead to the same end, on data as easy as this.
        assert theirs["inertia"] == pytest.approx(ours["inertia"], rel=1e-6)
        assert theirs["iterations"] == ours["iterations"]


def test_absent_peers_are_named(whole: tuple[str, dict[str, Any]]) -> None:
    absent = {name for name, module in PEERS.items() if importlib.util.find_spec(module) is None}
    assert set(whole[1]["left_out"]) == absent
    assert all(f"{name} is left out: " in whole[0] for name in absent)


def test_time_to_quality(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    settings = ("--contenders", "gpukm,scikit-learn", "--efforts", "1,4", "--threads", 1)
    printed = run("quality", "--only", "1200-4-6", *settings, "--out", tmp_path)
    (row,) = result(tmp_path, "quality")["rows"]
    assert [point["iterations"] for point in row["points"]["gpukm"]] == [1, 4]
    assert row["points"]["gpukm"][0]["inertia"] > row["points"]["gpukm"][1]["inertia"]
    assert row["points"]["gpukm"][1]["inertia"] == pytest.approx(row["points"]["scikit-learn"][1]["inertia"], rel=1e-5)
    assert "within 1%" in printed
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".svg", ".png"}


def test_scaling(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    settings = ("--contenders", "gpukm", "--sweeps", "clusters,threads", "--threads-on", "1200-4-6", "--rows", 800)
    printed = run("scaling", *settings, "--repeats", 1, "--iterations", 2, "--threads", 2, "--out", tmp_path)
    found = result(tmp_path, "scaling")
    assert [row["clusters"] for row in found["sweeps"]["clusters"]] == [8, 32, 128, 512, 2048]
    assert all(row["seconds_per_iteration"]["gpukm"] > 0 for row in found["sweeps"]["clusters"])
    (row,) = found["by_threads"]
    assert set(row["speed_up"]["gpukm"]) == {"1", "2"} and row["speed_up"]["gpukm"]["1"] == 1
    if row["ceiling"] is None:
        assert "no C++ compiler found" in printed
    else:
        assert 0.3 < row["ceiling"]["2"] < 3
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".svg", ".png"}


@pytest.mark.slow
def test_cluster(tmp_path: Path) -> None:
    printed = run("cluster", "--only", "speed,overhead", "--rows", 20_000, "--repeats", 1, "--out", tmp_path)
    found = result(tmp_path, "cluster")
    assert found["speed"]["whole_ratio"] > 0 and found["overhead"]["iteration_seconds"] > 0
    assert "of the speed of two threads" in printed


@pytest.mark.slow
def test_model_of_many_machines(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    printed = run("scaling", "--sweeps", "workers", "--out", tmp_path)
    for problem in result(tmp_path, "scaling-workers")["problems"]:
        seconds = problem["seconds"]
        # The work on rows is shared out, and the scheduler has ever more to do.
        assert seconds["1"]["rows"] == pytest.approx(1024 * seconds["1024"]["rows"])
        assert seconds["1024"]["scheduler"] > seconds["1"]["scheduler"]
        assert f"first limit: {problem['first_limit']['workers']:,} workers" in printed


def test_more_rows_than_32_bits_count_in_small(tmp_path: Path) -> None:
    assert "exact" in run("limits", "--rows", 200_003, "--threads", 1, "--out", tmp_path)
    assert result(tmp_path, "limits")["n"] == 200_003


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_starts_and_is_listed(script: str) -> None:
    assert run(script, "--help").startswith("usage: ")
    assert f"| `{script}.py" in (FOLDER / "README.md").read_text()
