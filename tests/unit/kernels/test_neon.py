"""The kernels without Python: NEON cross-compiled and run by an emulator, and the units of this processor beside it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
#: What tests/native/driver.cpp prints on every machine; it follows from the definitions and the driver's data alone.
DIGEST = "a467c89a34fc1070"
#: Where programs are looked for: those installed with the tests count.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

pytestmark = pytest.mark.skipif(not (ROOT / "CMakeLists.txt").exists(), reason="there is no source tree here")


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


def driver(name: str, compiler: str, *options: str) -> str:
    """Compile as the package is; the folder is kept, so that only what changed is compiled again."""
    cmake, folder = program("cmake"), ROOT / "build" / f"driver-{name}"
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=PATH) else []
    choice = ["-DGPUKM_DRIVER=ON", f"-DCMAKE_CXX_COMPILER={compiler}", *options]
    run(cmake, "-S", str(ROOT), "-B", str(folder), *generator, *choice)
    run(cmake, "--build", str(folder), "--parallel", "2")
    return str(folder / "driver")


def lines(output: str) -> dict[str, str]:
    """What the driver says of each unit, and its digest."""
    assert ", 0 failed" in output
    return dict(line.replace("digest ", "digest: ").split(": ") for line in output.splitlines() if "checks" not in line)


@pytest.mark.slow  # the conformance tests run these units too, by way of Python
def test_units_of_this_processor() -> None:
    said = lines(run(driver("here", program("c++", "g++"))))
    assert said["portable"] == "runs here"
    assert said["digest"] == DIGEST


@pytest.mark.timeout(600)
def test_halved_bounds_are_found_out() -> None:
    """Bounds of screening and of shifts hold with little to spare: labels go wrong with half of them."""
    halved = driver("halved", program("c++", "g++"), "-DCMAKE_CXX_FLAGS=-DGPUKM_BOUND_FACTOR=0.5")
    said = subprocess.run([halved], capture_output=True, text=True, check=False)
    assert said.returncode == 1
    bounds = ["portable, adverse product", "portable, adverse difference", "tracked labels"]
    bounds += ["portable, adverse fit, difference", "portable, adverse start"]
    if "avx2: runs here" in said.stdout:
        bounds += ["avx2, adverse integers", "avx2, adverse fit, integers"]
    for bound in bounds:
        assert re.search(f"FAILED .*{bound}", said.stdout), bound


@pytest.mark.timeout(600)
def test_neon_in_an_emulator() -> None:
    emulator, compiler = program("qemu-aarch64", "qemu-aarch64-static"), program("aarch64-linux-gnu-g++")
    library = Path(run(compiler, "-print-file-name=libc.so.6").strip()).resolve()
    built = driver("aarch64", compiler, "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
    said = lines(run(emulator, "-L", str(library.parents[1]), built))
    assert said["neon"] == "runs here"
    assert said["digest"] == DIGEST
