"""Triton kernels where there is no GPU: run by its interpreter, and compiled for GPUs that are not there.

In processes of their own: the interpreter is switched on when Triton is imported, and torch brings its own threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(
    find_spec("torch") is None or find_spec("triton") is None,
    reason="not run: torch and triton are not installed (scripts/test --interpret)",
)


def output(*command: str, interpret: bool) -> str:
    """What a command prints, which must succeed."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpret:
        env["TRITON_INTERPRET"] = "1"
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


@pytest.mark.timeout(600)
def test_under_the_interpreter() -> None:
    said = output(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "not TestTriton or test_labels or ties",
        str(HERE / "interpreted.py"), interpret=True,
    )  # fmt: skip
    assert " passed" in said and "skipped" not in said


@pytest.mark.timeout(600)
def test_compiled_for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Screens use the matrix units, but in float32; tiles fit the shared memory of a block."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    lines = [line.split() for line in output(str(HERE / "compiled.py"), interpret=False).splitlines()]
    assert len(lines) == 2 * 3 * 2 * 2
    for name, capability, matrix_units, shared in lines:
        assert (matrix_units == "True") == name.endswith(("float16-ieee", "tf32"))
        assert int(shared) <= {"80": 163, "90": 227}[capability] << 10, name
