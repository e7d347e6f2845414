"""The output sink: what goes where, and JSON that always parses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer

from gpukm.cli._io import output, plain, table
from gpukm.errors import DataError


def test_data_goes_to_stdout_and_all_else_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with output("train") as out:
        out.note("working")
        out.warn("doubtful")
        out.warn("doubtful")
        out.result({"a": 1}, "the result")
    found = capsys.readouterr()
    assert found.out == "the result\n"
    assert found.err == "working\nwarning: doubtful\n"


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    with output("snapshots list", as_json=True) as out:
        out.warn("doubtful")
        out.result({"x": np.float32(1.5), "y": float("nan"), "z": Path("a")}, "text")
    assert json.loads(capsys.readouterr().out) == {
        "schema": "gpukm.snapshots.list/1",
        "ok": True,
        "data": {"x": 1.5, "y": None, "z": "a"},
        "warnings": ["doubtful"],
        "error": None,
    }


def test_json_parses_on_failure_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, output("train", as_json=True) as out:
        out.warn("doubtful")
        raise DataError("row 3 is NaN")
    assert caught.value.exit_code == 2
    found = capsys.readouterr()
    parsed = json.loads(found.out)
    assert parsed["ok"] is False and parsed["data"] is None and parsed["warnings"] == ["doubtful"]
    assert parsed["error"] == {"type": "DataError", "message": "row 3 is NaN", "next": "", "exit_code": 2}
    assert found.err.splitlines()[-1] == "gpukm train: row 3 is NaN"


def test_a_finding_is_data_with_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, output("snapshots verify", as_json=True) as out:
        out.result({"problems": ["x"]}, "x", 4)
    assert caught.value.exit_code == 4
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_faults_of_gpukm_come_with_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, output("train"):
        raise ZeroDivisionError("oh")
    assert caught.value.exit_code == 3
    assert "Traceback" in capsys.readouterr().err


def test_plain_knows_what_results_hold() -> None:
    @dataclass
    class Point:
        x: int
        y: np.ndarray

    assert plain({1: Point(2, np.array([1.0, np.inf])), "t": (1, {2}), "n": None, "b": np.bool_(True)}) == {
        "1": {"x": 2, "y": [1.0, None]}, "t": [1, [2]], "n": None, "b": True,
    }  # fmt: skip


def test_table_aligns_columns() -> None:
    assert table([("a", "1"), ("long", "22")], ("NAME", "N")) == "NAME  N\na     1\nlong  22"
    assert table([]) == ""
