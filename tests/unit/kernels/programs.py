"""The programs of tests/native, compiled without Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
#: Where programs are looked for: those installed with the tests count.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

needs_sources = pytest.mark.skipif(not (ROOT / "CMakeLists.txt").exists(), reason="there is no source tree here")


def program(*names: str) -> str:
    """Path of the first program there is; without one the test is skipped and says so."""
    found = next((path for name in names if (path := shutil.which(name, path=PATH))), None)
    if found is None:
        pytest.skip(f"not run: {' or '.join(names)} is not installed")
    return found


def run(*command: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, env={**os.environ, "PATH": PATH}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def build(target: str, name: str, compiler: str, *options: str) -> str:
    """Compile as the package is; the folder is kept, so that only what changed is compiled again."""
    cmake, folder = program("cmake"), ROOT / "build" / f"{target}-{name}"
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=PATH) else []
    choice = ["-DGPUKM_DRIVER=ON", f"-DCMAKE_CXX_COMPILER={compiler}", *options]
    run(cmake, "-S", str(ROOT), "-B", str(folder), *generator, *choice)
    run(cmake, "--build", str(folder), "--target", target, "--parallel", "2")
    return str(folder / target)
