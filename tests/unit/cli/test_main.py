"""The program as a whole: help, usage errors, and what it imports."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from gpukm.cli.main import app, main
from gpukm.config import Settings

HEAVY = {
    "torch", "cupy", "dask", "distributed", "numba", "sklearn", "scipy", "pyarrow", "pandas", "polars", "fsspec",
    "numpy", "jinja2", "pydantic", "safetensors",
}  # fmt: skip


def commands(group: Any = None, path: str = "gpukm") -> Iterator[tuple[str, Any]]:
    """Every command and group with its path."""
    group = typer.main.get_command(app) if group is None else group
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, f"{path} {name}")


@pytest.mark.parametrize(("path", "command"), list(commands()))
def test_every_command_and_option_is_documented(path: str, command: Any) -> None:
    text = command.help or (inspect.getdoc(command.callback) if command.callback else "")
    assert text and text.strip().endswith("."), path
    for parameter in command.params:
        help_text = getattr(parameter, "help", None)
        assert help_text, f"{path} {parameter.name}"
        if parameter.param_type_name == "option" and parameter.name != "help":
            assert any(option.startswith("--") for option in parameter.opts), f"{path} {parameter.name}"


@pytest.mark.parametrize("path", [path for path, _ in commands()])
def test_help_of_every_command_works(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*path.split()[1:], "--help"]) == 0
    found = capsys.readouterr()
    assert "Usage" in found.out and not found.err


def test_every_setting_has_a_flag_of_train() -> None:
    train = dict(commands())["gpukm train"]
    flags = {option for parameter in train.params for option in parameter.opts}
    for name in Settings.model_fields:
        assert "--" + name.replace("_", "-") in flags


def test_defaults_named_in_the_help_are_the_defaults() -> None:
    for path, command in commands():
        for parameter in command.params:
            text = getattr(parameter, "help", None) or ""
            field = Settings.model_fields.get(parameter.name)
            if field is not None and field.default not in (None, (), "auto") and path == "gpukm train":
                assert f"(default: {field.default})" in text, (path, parameter.name)


@pytest.mark.parametrize(
    ("arguments", "command", "word"),
    [
        (["trian"], "", "train"),
        (["train"], "train", "SOURCE"),
        (["train", "x", "--colums", "a"], "train", "--columns"),
        (["snapshots", "lst"], "snapshots", "list"),
        (["assign", "x"], "assign", "--out"),
    ],
)
def test_usage_errors_are_one_line_and_parse_as_json(
    arguments: list[str], command: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    found = capsys.readouterr()
    assert found.out == "" and found.err.count("\n") == 1
    assert word in found.err and "--help" in found.err
    assert main([*arguments, "--json"]) == 2
    parsed = json.loads(capsys.readouterr().out)
    assert set(parsed) == {"schema", "ok", "data", "warnings", "error"}
    assert parsed["schema"] == ".".join(["gpukm", *command.split()]) + "/1"
    assert parsed["ok"] is False and parsed["error"]["exit_code"] == 2


@pytest.mark.parametrize(("flag", "value"), [("-k", "three"), ("-k", "0"), ("--tol", "small"), ("--seed", "-1")])
def test_values_out_of_range_say_what_was_got(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "x", flag, value]) == 2
    found = capsys.readouterr()
    assert found.out == "" and found.err.count("\n") == 1
    assert f"'{value}' (from --" in found.err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    found = capsys.readouterr()
    assert "Usage" in found.out + found.err


def test_help_loads_nothing_heavy_and_is_quick() -> None:
    code = (
        "import sys; from gpukm.cli.main import main; code = main(['--help']);"
        "print(code, *sorted({m.split('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - began)
    loaded = run.stderr.split()
    assert loaded[0] == "0"
    assert not HEAVY & set(loaded)
    assert best < 0.9  # 0.15 s on a quiet machine; the slack is for a busy one


def test_config_show_tells_origins(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUKM_SEED", "5")
    assert main(["config", "show", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["seed"] == {"value": 5, "origin": "GPUKM_SEED"}
    assert data["tol"] == {"value": 1e-4, "origin": "default"}
    assert main(["config", "show"]) == 0
    assert "GPUKM_SEED" in capsys.readouterr().out


def test_version_prints_one_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert len(capsys.readouterr().out.split()) == 1
