"""Bad input: one line that says what to do, the right exit code, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import Gpukm, example, tree

TRAIN = ("train", "flights.parquet", "-k", "4", "--columns", "delay,distance")


@dataclass(frozen=True)
class Case:
    """Something wrong: how it comes about, what is run, and what must be said."""

    name: str
    arguments: tuple[str, ...]
    words: tuple[str, ...]
    prepare: Callable[[Path], object] = field(default=lambda folder: None)
    code: int = 2
    env: dict[str, str] = field(default_factory=dict)


def column(values: object) -> Callable[[Path], object]:
    """Write a table ``x.parquet`` with one column ``a``."""
    return lambda folder: pq.write_table(pa.table({"a": values}), folder / "x.parquet")


def truncated(folder: Path) -> None:
    """A Parquet file whose end is missing."""
    whole = (folder / "flights.parquet").read_bytes()
    (folder / "x.parquet").write_bytes(whole[: len(whole) // 2])


def weighted(values: list[float]) -> Callable[[Path], object]:
    """Write a table ``x.parquet`` with weights."""
    table = pa.table({"a": [1.0, 2.0, 3.0], "w": values})
    return lambda folder: pq.write_table(table, folder / "x.parquet")


def newer_store(folder: Path) -> None:
    """A store of a format to come."""
    _file(folder / "s/store.json", '{"format":9}')


def in_the_way(folder: Path) -> None:
    """Some file where checkpoints go."""
    _file(folder / "c", "x")


def damaged(folder: Path) -> None:
    """A checkpoint that is none."""
    _file(folder / "c/00000001.safetensors", "x")


NAN = np.array([1.0, 2.0, np.nan, 4.0, np.nan])
X = ("train", "x.parquet", "-k", "2")

CASES = [
    Case("missing file", ("train", "flight.parquet", "-k", "2"), ("flight.parquet", "flights.parquet")),
    Case("empty file", X, ("x.parquet", "empty"), lambda f: (f / "x.parquet").write_bytes(b"")),
    Case("unreadable", X, ("x.parquet",), lambda f: (f / "x.parquet").write_bytes(b"no parquet at all" * 9)),
    Case("truncated", X, ("x.parquet",), truncated),
    Case("unknown extension", ("train", "x.xlsx", "-k", "2"), ("x.xlsx",), lambda f: (f / "x.xlsx").write_bytes(b"x")),
    Case("unknown column", (*TRAIN[:4], "--columns", "dely"), ("'dely'", "'delay'")),
    Case("unknown excluded", (*TRAIN, "--exclude", "mnth"), ("'mnth'", "'month'")),
    Case("unknown weight", (*TRAIN, "--weight-column", "wight"), ("'wight'", "'weight'")),
    Case("not numeric", (*TRAIN[:4], "--columns", "delay,carrier"), ("carrier", "string")),
    Case("no number at all", X, ("no numeric column",), column(["u", "v", "w"])),
    Case("NaN", X, ("2", "row 2", "a"), column(NAN)),
    Case("infinity", X, ("row 1", "a"), column(np.array([1.0, -np.inf, 3.0]))),
    Case("nulls", X, ("row 1", "'a'", "null policy"), column(pa.array([1.0, None, 3.0]))),
    Case("fewer rows than k", ("train", "x.parquet", "-k", "4"), ("3 rows", "4"), column([1.0, 2.0, 3.0])),
    Case("no rows", X, ("rows",), column(pa.array([], pa.float64()))),
    Case("k of zero", (*TRAIN[:2], "-k", "0"), ("n_clusters", "0", "-n-clusters")),
    Case("k below zero", (*TRAIN[:2], "-k", "-3"), ("n_clusters", "-3")),
    Case("no k", TRAIN[:2], ("-k",)),
    Case("float16 overflow", X, ("a",), column(pa.array(np.array([1, np.inf, 3], np.float16)))),
    Case("negative weights", (*X, "--weight-column", "w"), ("w", "row 1"), weighted([1.0, -1.0, 1.0])),
    Case("NaN weights", (*X, "--weight-column", "w"), ("w",), weighted([1.0, float("nan"), 1.0])),
    Case("zero weights", (*X, "--weight-column", "w"), ("weights", "0"), weighted([0.0, 0.0, 0.0])),
    Case("not a store", (*TRAIN, "--store", "s"), ("not a snapshot store",), lambda f: _file(f / "s/x.txt", "x")),
    Case("store is a file", (*TRAIN, "--store", "s"), ("s", "folder"), lambda f: _file(f / "s", "x")),
    Case("newer store", (*TRAIN, "--store", "s"), ("newer", "update"), newer_store),
    Case("bad model name", (*TRAIN, "--model", "../x"), ("../x", "model name")),
    Case("no store", ("assign", "flights.parquet", "-o", "o.parquet"), ("no snapshot store",)),
    Case("bad report name", (*TRAIN, "--report", "r.pdf"), ("r.pdf", ".html")),
    Case("report nowhere", (*TRAIN, "--report", "none/r.html"), ("no folder none",)),
    Case("resume without a checkpoint", (*TRAIN, "--resume"), ("--checkpoint",)),
    Case("checkpoint in the way", (*TRAIN, "--checkpoint", "c"), ("c is a file", "folder"), in_the_way),
    Case("checkpoint of another fit", (*TRAIN, "--checkpoint", "c"), ("--resume",), damaged),
    Case("checkpoint among others", (*TRAIN, "--checkpoint", "c"), ("photo",), lambda f: _file(f / "c/photo", "x")),
    Case("unknown backend", (*TRAIN, "--backend", "abacus"), ("abacus", "numpy")),
    Case("backend not here", (*TRAIN, "--device", "cuda:7"), ("cuda:7",), code=6),
    Case("unknown key", TRAIN, ("'n_cluster'", "n_clusters"), lambda f: _file(f / "gpukm.toml", "n_cluster = 3")),
    Case("bad variable", TRAIN, ("GPUKM_SEED", "'x'"), env={"GPUKM_SEED": "x"}),
    Case("bad step", (*TRAIN, "--step", "standardise"), ("standardise", "standardize")),
    Case("step on unknown column", (*TRAIN, "--dry-run", "--step", "log1p:dely"), ("'dely'", "'delay'")),
    Case("damaged checkpoint", (*TRAIN, "--checkpoint", "c", "--resume"), ("c", "--resume"), damaged, 4),
]  # fmt: skip


def _file(path: Path, text: str) -> None:
    """Write a file and its folder."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_one_line_and_nothing_written(case: Case, gpukm: Gpukm, data: Path, tmp_path: Path) -> None:
    case.prepare(tmp_path)
    before = tree(tmp_path)
    done = gpukm(*case.arguments, "--json", env=case.env)
    assert done.code == case.code, done.err
    error = json.loads(done.out)["error"]
    lines = [line for line in done.err.splitlines() if not line.endswith("...") and not line.startswith("warning")]
    assert len(lines) == 1, done.err
    for word in case.words:
        assert word in error["message"], error
    assert error["message"] in lines[0]
    assert "Traceback" not in done.err
    assert tree(tmp_path) == before


def _retyped(folder: Path) -> None:
    """A column became text."""
    table = example().drop_columns(["gappy"])
    texts = pa.array([str(v) for v in table["delay"].to_pylist()])
    pq.write_table(table.set_column(table.schema.get_field_index("delay"), "delay", texts), folder / "x.parquet")


ASSIGN = ("assign", "x.parquet", "--out", "out.parquet")

ASSIGN_CASES = [
    Case(
        "column gone",
        ASSIGN,
        ("distance",),
        lambda f: pq.write_table(example().drop_columns(["gappy", "distance"]), f / "x.parquet"),
    ),
    Case("column retyped", ASSIGN, ("delay", "string"), _retyped),
    Case(
        "column renamed",
        ASSIGN,
        ("delay",),
        lambda f: pq.write_table(example().rename_columns({"delay": "delays"}), f / "x.parquet"),
    ),
    Case("unknown model", ("assign", "flights.parquet", "-o", "o.parquet", "--model", "none"), ("'none'", "flights")),
    Case("unknown snapshot", ("assign", "flights.parquet", "-o", "o.parquet", "--snapshot", "77"), ("77",)),
    Case("unknown id", ("assign", "flights.parquet", "-o", "o.parquet", "--id-column", "idd"), ("'idd'", "'id'")),
    Case("bad condition", ("assign", "flights.parquet", "-o", "o.parquet", "--where", "month"), ("COLUMN=VALUE",)),
    Case("bad value", ("assign", "flights.parquet", "-o", "o.parquet", "--where", "month=may"), ("may", "int64")),
    Case("unknown where", ("assign", "flights.parquet", "-o", "o.parquet", "--where", "mnth=1"), ("'mnth'", "'month'")),
    Case("output is input", ("assign", "flights.parquet", "-o", "flights.parquet"), ("input",)),
    Case("output is a folder", ("assign", "flights.parquet", "-o", "."), ("folder",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a store."""
    import subprocess

    from tests.e2e.conftest import command, environment

    folder = tmp_path_factory.mktemp("trained")
    pq.write_table(example().drop_columns(["gappy"]), folder / "flights.parquet")
    subprocess.run(command(*TRAIN), cwd=folder, env=environment(), check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("case", ASSIGN_CASES, ids=[case.name for case in ASSIGN_CASES])
def test_assign_refuses_in_one_line(case: Case, gpukm: Gpukm, trained: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    case.prepare(tmp_path)
    before = tree(tmp_path)
    done = gpukm(*case.arguments)
    assert done.code == case.code, done.err
    lines = [line for line in done.err.splitlines() if not line.endswith("...")]
    assert len(lines) == 1 and done.out == "", done.err
    for word in case.words:
        assert word in lines[0], done.err
    assert tree(tmp_path) == before
