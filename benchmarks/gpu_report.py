"""What a run on a GPU found: tables, and JSON with the machine, the commit and the versions."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_cases import Bench, Case

PACKAGES = ("torch", "triton", "cupy-cuda13x", "cupy-cuda12x", "numpy", "flash-kmeans", "flashlib", "fastkmeans")
PACKAGES += ("cuml-cu13", "cuvs-cu13", "nvidia-cutlass-dsl")


class Report:
    """The table, and the JSON that is written anew after every case."""

    def __init__(self, path: Path | None, about: dict[str, Any]) -> None:
        self.path, self.about = path, about
        self.cases: list[dict[str, Any]] = []

    def add(self, case: Case, found: dict[str, Any], values: Mapping[str, float]) -> None:
        """Note, print and write a case."""
        targets = [
            {
                "what": target.what,
                "asked": target.asked,
                "at_most": target.at_most,
                "reached": values.get(target.what),
                "met": target.met(values[target.what]) if target.what in values else None,
            }
            for target in case.targets
        ]
        row = {"case": case.name, "n": case.n, "d": case.d, "k": case.k, "kind": case.kind, "targets": targets, **found}
        self.cases.append(row)
        show(case, row)
        self.write()

    def write(self) -> None:
        """Put the file in place in one step: a run that is cut off leaves the one before."""
        if self.path is None:
            return
        aside = self.path.with_suffix(".part")
        aside.write_text(json.dumps({**self.about, "cases": self.cases}, indent=1) + "\n")
        aside.replace(self.path)


def show(case: Case, row: Mapping[str, Any]) -> None:
    """One table a case."""
    print(f"\n{case.name}: {case.title} ({row.get('data', 'no data')})")
    found = row.get("contenders", {})
    if found:
        print(f"  {'':<44}{'ms':>10}{'least .. most':>22}{'TFLOP/s':>9}{'exact':>9}{'recheck':>9}{'memory':>11}  more")
    for name, one in found.items():
        times = f"{one['median_ms']:>10.4f}{one['least_ms']:>11.4f} ..{one['most_ms']:>8.4f}"
        exact = f"{one['exact']:.5f}" if "exact" in one else ""
        recheck = f"{one['rechecked']:.3%}" if one.get("rechecked") is not None else ""
        memory = f"{one['peak_bytes'] / 2**20:,.0f} MiB" if one.get("peak_bytes") is not None else ""
        more = [f"{one['iterations']} iterations"] if "iterations" in one else []
        more += [f"inertia {one['inertia']:.8g}"] if "inertia" in one else []
        more += [f"{one['rows_gb_s']:,.0f} GB/s of rows"] if "rows_gb_s" in one else []
        print(
            f"  {name:<44}{times:>31}{one.get('tflops', 0):>9.1f}{exact:>9}{recheck:>9}{memory:>11}  {', '.join(more)}"
        )
    for name, stages in row.get("stages_ms", {}).items():
        print(f"  {name:<44}" + ", ".join(f"{stage} {ms:.4f} ms" for stage, ms in stages.items()))
    if "fits" in row:
        print(f"  {row['equal']} of {len(row['fits'])} fits have one hash (reference: {row['reference']})")
    if "link_gb_s" in row:
        print(f"  {row['rows']:,} rows; link {row['link_gb_s']} GB/s; kernel {row['kernel_rows_per_second']} rows/s")
    for name, reason in row["left_out"].items():
        print(f"  {name:<44} left out: {reason}")
    for asked, target in zip(case.targets, row["targets"], strict=True):
        if target["reached"] is None:
            print(f"  not measured, asked {asked}")
        else:
            print(f"  reached {target['reached']:.4g}, asked {asked}: {'met' if target['met'] else 'missed'}")
    sys.stdout.flush()


def about(bench: Bench, name: str) -> dict[str, Any]:
    """The head of the JSON."""
    import record  # gpukm, which it loads, is found once main() has said where

    versions = record.versions(PACKAGES)
    return {"benchmark": name, "machine": machine(bench), "versions": versions, "left_out": bench.absent}


def machine(bench: Bench) -> dict[str, Any]:
    """What the figures were measured on."""
    import record

    import gpukm

    found = {"gpu": None, **record.machine(), "gpukm": str(Path(gpukm.__file__).parent)}
    if bench.on_gpu:
        device = bench.torch.cuda.get_device_properties(0)
        found |= {
            "gpu": device.name,
            "capability": f"{device.major}.{device.minor}",
            "processors": device.multi_processor_count,
            "memory_bytes": device.total_memory,
            "l2_bytes": bench.l2,
            "driver": driver(),
            "cuda": bench.torch.version.cuda,
        }
    return found


def driver() -> str | None:
    """Version of the driver, by its own tool."""
    with contextlib.suppress(OSError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.split("\n")[0].strip()
    return None
