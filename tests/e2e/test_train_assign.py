"""From a data file to a snapshot, and from there to labels."""

from __future__ import annotations

import json
import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import Gpukm, command, environment, example, tree

TRAIN = ("train", "flights.parquet", "-k", "4", "--columns", "delay,distance", "--id-column", "id")
#: So little memory that 9,000 rows of two features are not held.
STREAMED = ("--memory-limit", "2MB", "--batch-rows", "1000")


def test_train_publishes_a_snapshot_that_assign_uses(gpukm: Gpukm, data: Path, tmp_path: Path) -> None:
    done = gpukm(*TRAIN, "--report", "r.html", "--json")
    assert done.code == 0, done.err
    trained = done.data
    assert trained["model"] == "flights" and trained["number"] == 1 and len(trained["id"]) == 64
    assert sum(trained["counts"]) == 400 and trained["data"]["n_rows"] == 400
    assert (tmp_path / "r.html").read_text().lstrip().lower().startswith("<!doctype html")

    done = gpukm("assign", "flights.parquet", "--out", "out.parquet", "--id-column", "id,month", "--json")
    assert done.code == 0, done.err
    assert done.data["counts"] == trained["counts"] and done.data["n_rows"] == 400
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.names == ["id", "month", "label", "distance", "second_distance", "outlier"]
    assert found["label"].type == pa.int32() and found["outlier"].type == pa.bool_()
    assert found.select(["id", "month"]).equals(example().select(["id", "month"]))

    x = example().select(["delay", "distance"]).to_pandas().to_numpy(np.float64)
    show = gpukm("report", "flights", "--json")
    assert show.code == 0, show.err
    from gpukm.snapshots import Store

    centroids = Store.open(tmp_path / "gpukm-store").load("flights").centroids
    distances = np.sort(np.sqrt(((x[:, None] - centroids[None].astype(np.float64)) ** 2).sum(2)), axis=1)
    np.testing.assert_allclose(found["distance"].to_numpy(), distances[:, 0], rtol=1e-9)
    np.testing.assert_allclose(found["second_distance"].to_numpy(), distances[:, 1], rtol=1e-9)
    assert 0 < found["outlier"].to_numpy().sum() <= 20


def test_the_same_data_and_settings_give_the_same_id(gpukm: Gpukm, data: Path) -> None:
    pq.write_table(example(9000), data, row_group_size=2000)
    first = gpukm(*TRAIN, "--json").data
    ways: list[tuple[str, ...]] = [
        (),
        ("--batch-rows", "37"),
        STREAMED,
        ("--backend", "numpy"),
        ("--threads", "1"),
    ]
    for number, more in enumerate(ways, 2):
        again = gpukm(*TRAIN, "--json", *more).data
        assert again["number"] == number
        assert again["id"] == first["id"], more
        shown = gpukm("snapshots", "show", "flights", "--json").data["provenance"]
        assert shown["resident"] is (more != STREAMED)
    other = gpukm(*TRAIN, "--json", "--seed", "1").data
    assert other["id"] != first["id"]


def test_mini_batches_train_a_snapshot_that_says_so(gpukm: Gpukm, data: Path, tmp_path: Path) -> None:
    pq.write_table(example(9000), data, row_group_size=2000)
    train = (*TRAIN, "--algorithm", "minibatch", "--max-excess", "0.01")
    first = gpukm(*train, "--json", "--report", "r.html")
    assert first.code == 0, first.err
    assert first.data["stop"] == "excess" and sum(first.data["counts"]) == 9000
    shown = gpukm("snapshots", "show", "flights", "--json").data
    settings = shown["manifest"]["settings"]
    assert (settings["algorithm"], settings["max_excess"], settings["init"]) == ("minibatch", 0.01, "breathing")
    assert "minibatch" in (tmp_path / "r.html").read_text()
    for more in ((), STREAMED, ("--threads", "1")):
        assert gpukm(*train, "--json", *more).data["id"] == first.data["id"], more
    other = gpukm(*train, "--json", "--batch-size", "100").data
    assert other["id"] != first.data["id"]
    assert (
        gpukm("plan", "flights.parquet", "-k", "4", "--algorithm", "minibatch", "--json").data["algorithm"]
        == "minibatch"
    )
    assert gpukm("assign", "flights.parquet", "--out", "out.parquet", "--json").data["counts"] == other["counts"]
    done = gpukm(*train, "--checkpoint", "c")
    assert done.code == 2 and "saves no checkpoint" in done.err
    done = gpukm(*TRAIN, "--max-excess", "0.1")
    assert done.code == 2 and "max_excess needs algorithm 'minibatch'" in done.err


def test_missing_values_are_dropped_by_policy(gpukm: Gpukm, tmp_path: Path) -> None:
    pq.write_table(example(9000), tmp_path / "flights.parquet")
    train = ("train", "flights.parquet", "-k", "4", "--columns", "delay,gappy", "--null-policy", "drop")
    done = gpukm(*train, "--json")
    assert done.code == 0, done.err
    assert (done.data["data"]["n_rows"], done.data["data"]["n_samples"]) == (9000, 8820)
    streamed = gpukm(*train, "--json", *STREAMED)
    assert streamed.data["id"] == done.data["id"]
    done = gpukm("assign", "flights.parquet", "--out", "out.parquet", "--json")
    assert done.code == 0 and done.data["n_dropped"] == 180
    rows = pq.read_table(tmp_path / "out.parquet")["row"].to_pylist()
    assert rows == [i for i in range(9000) if i % 50 != 5]


def test_preprocessing_is_stored_with_the_snapshot(gpukm: Gpukm, tmp_path: Path) -> None:
    pq.write_table(example(), tmp_path / "flights.parquet")
    done = gpukm(
        "train", "flights.parquet", "-k", "5", "--exclude", "month", "--id-column", "id", "--weight-column", "weight",
        "--null-policy", "mean", "--one-hot", "carrier", "--step", "clip:lower=-20,upper=20,delay",
        "--step", "standardize", "--n-init", "2", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    done = gpukm("assign", "flights.parquet", "-o", "out.parquet", "--id-column", "id", "--json")
    assert done.code == 0, done.err
    assert done.data["n_rows"] == 400


def test_where_selects_rows(gpukm: Gpukm, data: Path, tmp_path: Path) -> None:
    assert gpukm(*TRAIN).code == 0
    assign = ("assign", data, "--id-column", "id,month", "--json")
    done = gpukm(*assign, "--where", "month=12", "--out", "december.parquet")
    assert done.code == 0, done.err
    found = pq.read_table(tmp_path / "december.parquet")
    assert set(found["month"].to_pylist()) == {12}
    assert found["id"].to_pylist() == [f"r{i:05d}" for i in range(400) if i % 12 == 11]
    assert done.data["n_rows"] == len(found)
    done = gpukm(*assign, "--where", "month=13", "--out", "none.parquet")
    assert done.code == 0 and done.data["n_rows"] == 0
    assert any("no row" in warning for warning in json.loads(done.out)["warnings"])


@pytest.mark.parametrize("name", ["x.npy", "x.csv", "x.arrow", "x"])
def test_every_kind_of_file_trains(gpukm: Gpukm, tmp_path: Path, name: str) -> None:
    table = example().select(["delay", "distance"])
    if name == "x.npy":
        np.save(tmp_path / name, table.to_pandas().to_numpy(np.float64))
    elif name == "x.csv":
        import pyarrow.csv

        pyarrow.csv.write_csv(table, tmp_path / name)
    elif name == "x.arrow":
        import pyarrow.feather

        pyarrow.feather.write_feather(table, tmp_path / name)
    else:
        pq.write_to_dataset(example().select(["delay", "distance", "month"]), tmp_path / name, partition_cols=["month"])
    columns = () if name == "x.npy" else ("--columns", "delay,distance")
    done = gpukm("train", name, "-k", "3", *columns, "--json")
    assert done.code == 0, done.err
    assert done.data["model"] == "x" and sum(done.data["counts"]) == 400
    done = gpukm("assign", name, "-o", "out.parquet", "--json")
    assert done.code == 0, done.err


def test_a_dry_run_changes_nothing(gpukm: Gpukm, data: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    done = gpukm(*TRAIN, "--dry-run", "--report", "r.html", "--checkpoint", "c", "--json")
    assert done.code == 0, done.err
    assert done.data["dry_run"] is True and done.data["plan"]["n_rows"] == 400
    assert tree(tmp_path) == before and not (tmp_path / "gpukm-store").exists()
    assert gpukm(*TRAIN).code == 0
    before = tree(tmp_path)
    done = gpukm("assign", data, "-o", "out.parquet", "--dry-run")
    assert done.code == 0 and "nothing was written" in done.out
    assert tree(tmp_path) == before


@pytest.mark.parametrize("no_color", [False, True])
def test_on_a_terminal_progress_is_drawn_and_stdout_stays_data(data: Path, tmp_path: Path, no_color: bool) -> None:
    leader, follower = os.openpty()
    env = environment({"TERM": "xterm-256color"})
    if not no_color:
        del env["NO_COLOR"]
    process = subprocess.Popen(
        command(*TRAIN, "--json"), cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=follower
    )
    os.close(follower)
    drawn = b""
    with suppress(OSError):  # Linux says EIO when the other side is closed
        while part := os.read(leader, 4096):
            drawn += part
    os.close(leader)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert json.loads(out)["ok"] is True
    assert b"publishing" in drawn and b"\x1b[" in drawn
    colours = re.search(rb"\x1b\[(1;)?(3[0-7]|9[0-7]|38;)", drawn)
    assert (colours is None) == no_color


def test_settings_come_from_file_and_environment(gpukm: Gpukm, data: Path, tmp_path: Path) -> None:
    (tmp_path / "gpukm.toml").write_text('n_clusters = 3\nstore = "kept"\ncolumns = ["delay", "distance"]\n')
    done = gpukm("train", data, "--json", env={"GPUKM_MODEL": "named"})
    assert done.code == 0, done.err
    assert done.data["model"] == "named" and len(done.data["counts"]) == 3
    assert (tmp_path / "kept" / "store.json").exists()
    shown = gpukm("snapshots", "show", "named", "--json").data
    assert shown["manifest"]["preprocessing"]["spec"]["columns"] == ["delay", "distance"]


def test_plan_tells_before_reading(gpukm: Gpukm, data: Path) -> None:
    done = gpukm("plan", data, "-k", "4", "--columns", "delay,distance", "--json")
    assert done.code == 0, done.err
    assert (done.data["n_rows"], done.data["n_features"], done.data["resident"]) == (400, 2, True)
    assert done.data["flop_per_iteration"] == 2 * 400 * 2 * 4
    text = gpukm("plan", data, "-k", "4", "--columns", "delay,distance")
    assert text.code == 0 and "iterate" in text.out


def test_a_store_can_be_looked_at(gpukm: Gpukm, data: Path, tmp_path: Path) -> None:
    trained = gpukm(*TRAIN, "--json").data
    listed = gpukm("snapshots", "list", "--json").data["snapshots"]
    assert [(s["model"], s["number"], s["id"]) for s in listed] == [("flights", 1, trained["id"])]
    shown = gpukm("snapshots", "show", "flights", trained["id"][:8], "--json").data
    assert shown["manifest"]["settings"]["n_clusters"] == 4
    assert shown["provenance"]["source"].endswith("flights.parquet")
    for arguments in (["list"], ["show", "flights"], ["verify"]):
        done = gpukm("snapshots", *arguments)
        assert done.code == 0 and done.out.strip(), done.err
    blob = max((tmp_path / "gpukm-store" / "blobs").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else -1)
    blob.chmod(0o644)
    damaged = bytearray(blob.read_bytes())
    damaged[-1] ^= 1
    blob.write_bytes(damaged)
    done = gpukm("snapshots", "verify", "--json")
    assert done.code == 4 and done.data["problems"]
    for arguments in (["assign", "flights.parquet", "-o", "out.parquet"], ["report"]):
        done = gpukm(*arguments)
        assert done.code == 4 and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "out.parquet").exists()


def test_reports_are_rendered_again(gpukm: Gpukm, data: Path, tmp_path: Path) -> None:
    assert gpukm(*TRAIN).code == 0
    for name in ("r.html", "r.md", "r.json"):
        done = gpukm("report", "flights", "--out", name)
        assert done.code == 0, done.err
        assert (tmp_path / name).stat().st_size > 200
    json.loads((tmp_path / "r.json").read_text())
    done = gpukm("report")
    assert done.code == 0 and "\x1b" not in done.out and len(done.out.splitlines()) > 5
    done = gpukm("report", env={"PYTHONIOENCODING": "ascii"})
    assert done.code == 0 and "?" in done.out, done.err


def test_doubtful_data_is_warned_about(gpukm: Gpukm, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1.0, 1.0, 2.0, 2.0], "same": [7.0] * 4}), tmp_path / "x.parquet")
    done = gpukm("train", "x.parquet", "-k", "3", "--json")
    assert done.code == 0, done.err
    warnings = " ".join(json.loads(done.out)["warnings"])
    assert "constant" in warnings and "same" in warnings
    assert "distinct" in warnings


def test_doctor_looks_at_the_machine(gpukm: Gpukm) -> None:
    done = gpukm("doctor", "--json")
    assert done.code == 0, done.err
    names = {backend["name"] for backend in done.data["backends"]}
    assert {"cpu", "numpy"} <= names
    assert sum(backend["chosen"] for backend in done.data["backends"]) == 1
    assert "numpy" in done.data["versions"]
    assert gpukm("doctor").out.count("\n") > 10
