"""Installing from source: with no compiler, and with one that is required."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIP_WHEEL = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "CMakeLists.txt").exists(), reason="there is no source tree here"),
]


def build(target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build a wheel in a fresh build folder."""
    kept = {key: value for key, value in os.environ.items() if key not in ("GPUKM_REQUIRE_NATIVE", "PYTHONPATH")}
    return subprocess.run(
        [*PIP_WHEEL, "-w", str(target), "-C", f"build-dir={target / 'build'}", str(ROOT)],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def names(target: Path) -> tuple[str, list[str]]:
    """Name of the one wheel and what is in it."""
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        return wheel.name, opened.namelist()


def test_without_a_compiler_it_installs_and_says_so(tmp_path: Path) -> None:
    done = build(tmp_path, CXX="/bin/false")
    assert done.returncode == 0, done.stderr
    wheel, files = names(tmp_path)
    assert wheel.endswith("-py3-none-any.whl")
    assert "gpukm/__init__.py" in files and not any("_cpu" in name and name.endswith(".so") for name in files)
    place = tmp_path / "place"
    with zipfile.ZipFile(tmp_path / wheel) as opened:
        opened.extractall(place)
    run = subprocess.run(
        [sys.executable, "-c", "import gpukm; print(gpukm.kmeans([[0.0], [1.0], [9.0]], 2).backend, gpukm.__file__)"],
        env={**os.environ, "PYTHONPATH": str(place)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["numpy", str(place / "gpukm" / "__init__.py")]
    assert "native kernels are not built" in run.stderr and "install a C++ compiler" in run.stderr


def test_a_required_native_build_fails_without_a_compiler(tmp_path: Path) -> None:
    done = build(tmp_path, CXX="/bin/false", GPUKM_REQUIRE_NATIVE="1")
    assert done.returncode != 0
    assert not list(tmp_path.glob("*.whl"))


def test_the_wheel_holds_the_kernels_and_no_sources(tmp_path: Path) -> None:
    done = build(tmp_path, GPUKM_REQUIRE_NATIVE="1")
    assert done.returncode == 0, done.stderr
    wheel, files = names(tmp_path)
    assert "-none-any" not in wheel
    assert sum("gpukm_kernels/_cpu" in name and name.endswith(".so") for name in files) == 1
    assert {"gpukm/py.typed", "gpukm_kernels/py.typed", "gpukm_kernels/_cpu.pyi"} <= set(files)
    assert not [name for name in files if name.endswith((".cpp", ".h")) or name.startswith("tests")]
