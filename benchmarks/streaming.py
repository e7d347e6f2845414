"""Data larger than memory: peak memory of a training run on 10 GB of Parquet, and what reading ahead hides.

Usage: python benchmarks/streaming.py [memory|readahead|all] [--folder DIR] [--gigabytes 10] [--out DIR]

memory: a Parquet file of random float32 columns, row groups of 256 MB, is written in DIR, trained by ``gpukm train``
with ``--memory-limit 1GB`` in a process of its own, and deleted. The process's peak resident memory, as the system
counts it, must stay below 1e9 bytes.

readahead: a source that sleeps before each batch is fitted through the read-ahead of the pipeline. Reading alone and
computing alone are timed beside it; the whole has to run at 80% or more of the slower of the two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from record import record

COLUMNS = 64
GROUP_ROWS = 1_000_000  # of 256 bytes: 256 MB
LIMIT = 1_000_000_000
CLUSTERS = 8
RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)
WORST_EFFICIENCY = 0.8
PACKAGES = ("numpy", "pyarrow")

Json = dict[str, Any]


def write(path: str, rows: int) -> None:
    """Write overlapping clouds of random float32, uncompressed, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    centers = 1.5 * rng.standard_normal((CLUSTERS, COLUMNS), dtype=np.float32)
    schema = pa.schema([(f"c{i:02}", pa.float32()) for i in range(COLUMNS)])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for first in range(0, rows, GROUP_ROWS):
            n = min(GROUP_ROWS, rows - first)
            label = rng.integers(0, CLUSTERS, n)
            arrays = [pa.array(c[label] + rng.random(n, dtype=np.float32)) for c in centers.T]
            writer.write_table(pa.table(arrays, schema=schema), row_group_size=n)


def run(command: list[str], stdout: Path) -> Json:
    """Run to the end: peak resident bytes, bytes read, seconds, as the system counts them for this one process."""
    read = 0
    began = time.perf_counter()
    with stdout.open("wb") as out:
        process = subprocess.Popen(command, stdout=out)
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        # The file is there until the process has ended; what it reads in its last moment is missed.
        with suppress(OSError, IndexError):
            read = int(Path(f"/proc/{process.pid}/io").read_text().split()[1])
        time.sleep(0.1)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {"seconds": seconds, "peak_rss_bytes": usage.ru_maxrss * 1024, "bytes_read": read}


def memory(folder: Path, gigabytes: float) -> Json:
    """Train a large file in a small process."""
    import pyarrow.parquet as pq

    rows = -(-int(gigabytes * 1e9) // (4 * COLUMNS))
    path = folder / "large.parquet"
    # A process's peak counts from its parent's size, so the parent stays small and does not write the data itself.
    subprocess.run([sys.executable, __file__, "write", "--folder", str(path), "--rows", str(rows)], check=True)
    size = path.stat().st_size
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    print(
        f"{path.name}: {size / 1e9:.2f} GB, {rows:,} x {COLUMNS} float32, {len(groups)} row groups up to "
        f"{max(groups) / 1e6:.0f} MB",
        flush=True,
    )
    options = ["--memory-limit", "1GB", "-k", str(CLUSTERS), "--max-iter", "3", "--tol", "0"]
    command = [sys.executable, "-m", "gpukm", "train", str(path), *options]
    printed = folder / "out.json"
    measured = run([*command, "--store", str(folder / "store"), "--json"], printed)
    answer = json.loads(printed.read_text())["data"]
    passes = measured["bytes_read"] / size
    found = {
        "file_bytes": size,
        "n": rows,
        "d": COLUMNS,
        "largest_row_group_bytes": max(groups),
        "options": options,
        **measured,
        "passes": round(passes, 2),
        "rows_per_second_per_pass": rows * passes / measured["seconds"],
        "bytes_per_second_per_pass": measured["bytes_read"] / measured["seconds"],
        "stage_seconds": answer["seconds"],
        "id": answer["id"],
        "inertia": answer["inertia"],
        "n_iter": answer["n_iter"],
        "limit_bytes": LIMIT,
    }
    print(
        f"peak resident memory {found['peak_rss_bytes'] / 1e6:.0f} MB of {LIMIT / 1e6:.0f} MB allowed; "
        f"{measured['seconds']:.0f} s, {passes:.1f} passes over the file, "
        f"{found['rows_per_second_per_pass'] / 1e6:.2f} M rows/s ({found['bytes_per_second_per_pass'] / 1e6:.0f} MB/s)"
    )
    print("stages: " + ", ".join(f"{name} {took:.1f} s" for name, took in answer["seconds"].items()), flush=True)
    if found["peak_rss_bytes"] >= LIMIT:
        raise SystemExit("the run took more memory than the limit")
    return found


def readahead(repeats: int = 3) -> Json:
    """Time reading alone, computing alone and both."""
    from gpukm import kmeans
    from gpukm.sources.array import ArraySource
    from gpukm.sources.base import Batch, Source
    from gpukm.sources.prefetch import Prefetch

    class Throttled(Source):
        """Views of an array, each after a sleep; not in memory as far as a fit can see."""

        def __init__(self, x: np.ndarray, seconds: float) -> None:
            self._inner, self._seconds, self.read = ArraySource(x), seconds, 0
            self.dtype, self.n_features, self.names, self.n_rows = x.dtype, x.shape[1], None, len(x)

        def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
            for batch in self._inner.batches(rows, start, stop):
                time.sleep(self._seconds)
                self.read += 1
                yield batch

    k, batch, iterations = 256, 1 << 14, 10
    x = np.random.default_rng(0).standard_normal((32 * batch, 32), dtype=np.float32)

    def fit(source: Source) -> float:
        began = time.perf_counter()
        kmeans(source, k, init=x[:k].copy(), max_iter=iterations, tol=0, batch_size=batch, keep_labels=False)
        return time.perf_counter() - began

    fit(Throttled(x, 0.0))
    found = []
    for ratio in RATIOS:
        probe = Throttled(x, 0.0)
        seconds = ratio * fit(probe) / probe.read
        taken: dict[str, list[float]] = {"read": [], "compute": [], "whole": []}
        for _ in range(repeats):
            whole = Throttled(x, seconds)
            taken["whole"].append(fit(Prefetch(whole)))
            taken["compute"].append(fit(Throttled(x, 0.0)))
            alone, began = Throttled(x, seconds), time.perf_counter()
            while alone.read < whole.read:
                for _batch in alone.batches(batch):
                    if alone.read == whole.read:
                        break
            taken["read"].append(time.perf_counter() - began)
        middle = {name: statistics.median(times) for name, times in taken.items()}
        efficiency = max(middle["read"], middle["compute"]) / middle["whole"]
        found.append({"read_to_compute": middle["read"] / middle["compute"], **middle, "efficiency": efficiency})
        print(
            f"reading {middle['read']:.2f} s, computing {middle['compute']:.2f} s, both in turn "
            f"{middle['read'] + middle['compute']:.2f} s, with read-ahead {middle['whole']:.2f} s: "
            f"{efficiency:.0%} of the slower side",
            flush=True,
        )
    worst = min(row["efficiency"] for row in found)
    print(f"least {worst:.0%}")
    if worst < WORST_EFFICIENCY:
        raise SystemExit(f"reading ahead hides too little: {worst:.0%} of the slower side, expected 80%")
    return {"n": len(x), "d": x.shape[1], "k": k, "batch_rows": batch, "iterations": iterations, "ratios": found}


def main() -> None:
    """Run, check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "readahead", "all", "write"), nargs="?", default="all")
    parser.add_argument("--folder", type=Path, help="where the large file goes (default: temporary files' folder)")
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="folder of the results")
    arguments = parser.parse_args()
    if arguments.what == "write":
        write(str(arguments.folder), arguments.rows)
        return
    if arguments.what in ("memory", "all"):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            found = memory(Path(folder), arguments.gigabytes)
        record("streaming-memory", found, PACKAGES, arguments.out)
    if arguments.what in ("readahead", "all"):
        record("streaming-readahead", readahead(), PACKAGES, arguments.out)


if __name__ == "__main__":
    main()
