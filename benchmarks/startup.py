"""How long ``gpukm --help`` takes, and what ``import gpukm`` loads.

Usage: python benchmarks/startup.py [--repeats 11] [--out DIR]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from record import record

LIMIT = 0.3
HEAVY = ("numpy", "scipy", "sklearn", "pyarrow", "pandas", "dask", "distributed", "torch", "cupy", "numba", "pydantic",
         "typer", "rich", "jinja2", "fsspec")  # fmt: skip
LOADED = "import sys; before = set(sys.modules); {}; print(*sorted(set(sys.modules) - before), sep='\\n')"


def loaded(statement: str) -> list[str]:
    """Modules that a statement loads in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", LOADED.format(statement)], capture_output=True, text=True, check=True)
    return done.stdout.split()


def main() -> None:
    """Run, check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--out", type=Path, help="folder of the results")
    arguments = parser.parse_args()
    program = Path(sys.executable).parent / "gpukm"
    command = [str(program)] if program.exists() else [sys.executable, "-m", "gpukm"]
    wall: dict[str, list[float]] = {"help": [], "import": [], "python": []}
    cpu: dict[str, list[float]] = {name: [] for name in wall}
    for _ in range(arguments.repeats + 1):
        for name, run in (
            ("help", [*command, "--help"]),
            ("import", [sys.executable, "-c", "import gpukm"]),
            ("python", [sys.executable, "-c", ""]),
        ):
            began = time.perf_counter()
            process = subprocess.Popen(run, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise SystemExit(f"{' '.join(run)} ended with {process.returncode}")
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(usage.ru_utime + usage.ru_stime)
    # The first round warms the file cache. Processor time tells of a machine that others use at the same time.
    median = {name: statistics.median(taken[1:]) for name, taken in wall.items()}
    median_cpu = {name: statistics.median(taken[1:]) for name, taken in cpu.items()}
    modules = loaded("import gpukm")
    heavy = [name for name in HEAVY if name in modules]
    shown = " ".join(command).replace(str(Path(sys.executable).parent) + "/", "")
    for name, what in (("help", f"{shown} --help"), ("import", "python -c 'import gpukm'"), ("python", "python -c ''")):
        print(
            f"{what}: median of {arguments.repeats} {median[name]:.3f} s, least {min(wall[name]):.3f} s; "
            f"processor time {median_cpu[name]:.3f} s"
        )
    print(f"import gpukm loads {len(modules)} modules: {', '.join(modules)}")
    if heavy:
        raise SystemExit(f"import gpukm loads {', '.join(heavy)}")
    found = {
        "command": f"{shown} --help",
        "median_seconds": median,
        "median_processor_seconds": median_cpu,
        "seconds": wall,
        "processor_seconds": cpu,
        "modules": modules,
    }
    record("startup", found, (), arguments.out)
    if median["help"] >= LIMIT:
        raise SystemExit(f"--help took {median['help']:.3f} s, expected less than {LIMIT} s")


if __name__ == "__main__":
    main()
