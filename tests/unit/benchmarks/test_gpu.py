"""The run of benchmarks/gpu.py without a GPU: what is asked, chosen, skipped and written."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def script() -> ModuleType:
    return importlib.import_module("gpu")


def test_cases_ask_for_what_was_stated(script: ModuleType) -> None:
    cases = {case.name: case for case in script.CASES}
    assert len(cases) == len(script.CASES)
    asked = {name: [str(target) for target in case.targets] for name, case in cases.items()}
    assert [asked[f"assign-{d}"] for d in (128, 256, 512)] == [
        [f">= {tflops} useful TFLOP/s"] for tflops in (275, 375, 400)
    ]
    assert [asked[f"half-{d}"][0] for d in (64, 128, 256)] == [f"<= {ms} ms, fast" for ms in ("1.45", "2", "3.3")]
    assert asked["half-64"][1] == "<= 1.2 times the time of flashlib, exact"
    assert asked["iteration-1m-64-64"] == ["<= 130 us an iteration"]
    assert asked["iteration-8k-128-1024"] == ["<= 100 us an iteration"]
    assert asked["stream"] == [">= 0.8 of the slower of link and kernel"]
    fits = [case for name, case in cases.items() if name.startswith("fit-")]
    assert all(case.k >= 1024 and case.targets[0].asked == 3 for case in fits)
    assert sum(name.startswith("five-") for name in cases) == 5
    assert all((case.n, case.k) == (1 << 20, 4096) for name, case in cases.items() if name.startswith("assign-"))


def test_cases_are_chosen_by_how_their_names_begin(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert [case.name for case in script.chosen(["assign-2", "bits"])] == ["assign-256", "bits"]
    assert script.chosen(None) == list(script.CASES)
    with pytest.raises(SystemExit, match="no case begins with asign"):
        script.chosen(["asign", "bits"])
    script.main(["--list"])
    printed = capsys.readouterr().out
    assert all(any(line.startswith(case.name) for line in printed.splitlines()) for case in script.CASES)
    assert ">= 275 useful TFLOP/s" in printed and "<= 130 us an iteration" in printed


def test_a_case_that_does_not_fit_is_skipped_and_others_are_written(
    script: ModuleType, gpu: Any, gpu_bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[list[str]] = []
    path = tmp_path / "gpu-test.json"

    def run(bench: Any, case: Any) -> tuple[dict[str, Any], dict[str, float]]:
        written.append([row["case"] for row in json.loads(path.read_text())["cases"]] if path.exists() else [])
        if case.name == "bad":
            raise ValueError("no such thing")
        if case.name == "absent":
            raise gpu.contenders.Absent("it is not here")
        return {"contenders": {}, "left_out": {}}, {"x": 5.0}

    def case_of(name: str, seconds: float = 1) -> Any:
        return gpu.cases.Case(name, run, 1, 1, 1, (gpu.cases.Target("x", 4.0), gpu.cases.Target("y", 1.0)), seconds)

    bench = gpu_bench()
    bench.deadline = script.time.monotonic() + 100
    report = gpu.report.Report(path, {"benchmark": "gpu"})
    cases = [case_of("good"), case_of("long", 1000), case_of("bad"), case_of("absent"), case_of("last")]
    script.measure_all(bench, cases, report)
    assert written == [[], ["good", "long"], ["good", "long", "bad"], ["good", "long", "bad", "absent"]]
    rows = {row["case"]: row for row in json.loads(path.read_text())["cases"]}
    assert [target["met"] for target in rows["good"]["targets"]] == [True, None]
    assert [target["reached"] for target in rows["good"]["targets"]] == [5.0, None]
    assert "skipped: it takes about 1000 s" in rows["long"]["left_out"]["long"]
    assert rows["bad"]["left_out"] == {"bad": "failed: ValueError: no such thing"}
    assert rows["absent"]["left_out"] == {"absent": "it is not here"}
    assert bench.wrong == ["bad: ValueError: no such thing"]
    printed = capsys.readouterr().out
    assert "reached 5, asked >= 4 x: met" in printed and "not measured, asked >= 1 y" in printed
    assert not list(tmp_path.glob("*.part"))


def test_a_broken_device_ends_the_run(
    script: ModuleType, gpu: Any, gpu_bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu.cases.Bench, "broken", lambda _: "an illegal memory access was encountered")
    case = gpu.cases.Case("first", lambda *_: ({"contenders": {}, "left_out": {}}, {}), 1, 1, 1)
    bench, report = gpu_bench(), gpu.report.Report(None, {})
    script.measure_all(bench, [case, case], report)
    assert len(report.cases) == 1 and "illegal memory access" in bench.wrong[0]


def test_the_commit_where_git_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUKM_COMMIT", "abc")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert importlib.import_module("record").commit() == "abc"
