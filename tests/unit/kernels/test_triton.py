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
    """Screens use the matrix units, but in float32; tiles fit the shared memory of a block.

    On 9.0 two blocks of the sweep have room on a processor of 64 Ki registers at 64 features, and a score takes few
    instructions.
    """
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    lines = [line.split() for line in output(str(HERE / "compiled.py"), interpret=False).splitlines()]
    assert len(lines) == (2 * (3 * 2 + 1) + 2 * 2) * 4
    for name, capability, matrix_units, shared, registers, spilled, a_score in lines:
        kernel, d, *mode = name.split("-")
        assert (matrix_units == "True") == (mode != ["float32", "ieee"])
        assert int(shared) <= {"80": 163, "86": 99, "90": 227, "100": 227}[capability] << 10, name
        assert int(spilled) == 0 or mode[0] == "float32", name
        if capability == "90" and mode[0] in ("float16", "bfloat16"):
            if kernel == "sweep" and d == "64":
                assert 2 * (int(shared) + 1024) <= 228 << 10 and int(registers) <= 128, name
            # One minimum, one move, and what a tile takes besides.
            most = {"sweep": 4.2, "screen": 9.2, "within": 10.5, "pairs": 24.0}[kernel]
            assert float(a_score) <= most + (3 if d == "512" else 0), (name, a_score)
