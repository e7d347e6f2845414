"""The kernels without Python: NEON cross-compiled and run by an emulator, and the units of this processor beside it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.unit.kernels.programs import build, needs_sources, program, run

#: What tests/native/driver.cpp prints on every machine; it follows from the definitions and the driver's data alone.
DIGEST = "05b6bd11d9db7d32"
pytestmark = needs_sources


def lines(output: str) -> dict[str, str]:
    """What the driver says of each unit, and its digest."""
    assert ", 0 failed" in output
    return dict(line.replace("digest ", "digest: ").split(": ") for line in output.splitlines() if "checks" not in line)


@pytest.mark.slow  # the conformance tests run these units too, by way of Python
def test_units_of_this_processor() -> None:
    said = lines(run(build("driver", "here", program("c++", "g++"))))
    assert said["portable"] == "runs here"
    assert said["digest"] == DIGEST


@pytest.mark.timeout(600)
def test_halved_bounds_are_found_out() -> None:
    """Bounds of screening and of shifts hold with little to spare: labels go wrong with half of them."""
    halved = build("halved", "here", program("c++", "g++"))
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
    built = build("driver", "aarch64", compiler, "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
    said = lines(run(emulator, "-L", str(library.parents[1]), built, "neon"))
    assert said["neon"] == "runs here"
    assert said["digest"] == DIGEST
