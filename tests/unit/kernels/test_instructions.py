"""Instructions that each kernel takes, counted by valgrind: a time would be noise, a count is the same every time.

The table is tests/native/instructions.json, of one compiler. A kernel that takes over a hundredth more than its entry
fails, which one instruction more in an inner loop does. Where that is meant, and where a kernel has become cheaper,
``GPUKM_WRITE_INSTRUCTIONS=1`` makes this test write the table anew.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path

import pytest

from tests.unit.kernels.programs import ROOT, build, needs_sources, program

TABLE = ROOT / "tests" / "native" / "instructions.json"
MORE = 1.01

pytestmark = needs_sources


def instructions(counted: str, unit: str, folder: Path) -> tuple[str, dict[str, float]]:
    """The compiler, and what each kernel of a unit took a step."""
    command = [program("valgrind"), "--tool=callgrind", "--toggle-collect=counted", "--dump-after=counted"]
    command += [f"--callgrind-out-file={folder / unit}", counted]
    env = {**os.environ, "GPUKM_ISA": unit, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip(f"not run: this processor does not run {unit}")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    (_, compiler), *kernels = [line.rsplit(": ", 1) for line in done.stdout.splitlines()]
    taken = {}
    for number, (name, steps) in enumerate(kernels, 1):
        dump = folder / f"{unit}.{number}"
        [total] = [line.split()[1] for line in dump.read_text().splitlines() if line.startswith("totals:")]
        taken[name] = round(int(total) / int(steps), 3)
    return compiler, taken


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the table is of x86-64")
@pytest.mark.timeout(600)
def test_no_kernel_takes_more_instructions_than_it_did(tmp_path: Path) -> None:
    program("valgrind")
    table = json.loads(TABLE.read_text())
    counted = build("counted", "here", program("c++", "g++"))
    worse = []
    for unit, allowed in table["units"].items():
        compiler, taken = instructions(counted, unit, tmp_path)
        if os.environ.get("GPUKM_WRITE_INSTRUCTIONS"):
            table["compiler"], table["units"][unit] = compiler, taken
            TABLE.write_text(json.dumps(table, indent=2) + "\n")
            continue
        if compiler != table["compiler"]:
            pytest.skip(f"not compared: the table is of {table['compiler']}, and this is {compiler}")
        assert list(taken) == list(allowed), "the table has other kernels: write it anew"
        for name, count in taken.items():
            if count > MORE * allowed[name]:
                worse.append(f"{unit}, {name}: {count} instructions, and {allowed[name]} in the table")
    assert not worse, "\n".join(worse)
