"""gpukm on a CUDA device beside other libraries: assignments, iterations, whole fits, streaming, bits, and stages.

Usage: python benchmarks/gpu.py [--list] [--only NAME ...] [--budget SECONDS] [--peers DIR] [--embeddings FILE.npy]
                                [--contenders NAMES] [--rows N] [--quick] [--name gpu] [--out DIR]

It needs Python, NumPy and torch; Triton and CuPy take part where they are installed, and so do the peers, which
--peers DIR brings: a folder of wheels, or one into which they were unpacked. gpukm is that of this checkout, built or
not, unless one is installed. GPUKM_COMMIT names the commit where git cannot.

Every contender's result is checked before it is timed: gpukm's labels have to be the nearest centroids of all rows by
the definition of D, of the others the share that is exact is told. Contenders take turns within one process; a time is
that between two events of the device around a call, and medians and spread of several calls are told. Rows that the
cache of the device would hold are rotated. After each case results/NAME-*.json is written anew, so a run that is cut
off leaves what it had. A name of --only may be the beginning of several. --quick takes small shapes; without a device
it tries the script on the CPU, and results are then written only with --out.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gpu_assign import run_assign, run_half
from gpu_bits import run_bits
from gpu_cases import (
    EXACT,
    FAST,
    HASHES,
    MICROSECONDS,
    SHARE,
    STREAMED_ROWS,
    TFLOPS,
    TO_BOTH,
    TO_FLASHLIB,
    Bench,
    Case,
    Target,
)
from gpu_contenders import Absent, needed
from gpu_fits import run_embeddings, run_fit, run_five
from gpu_iterations import run_iteration
from gpu_ours import Gpukm
from gpu_peers import PEERS, importable, unpack
from gpu_report import Report, about
from gpu_stages import run_stages
from gpu_stream import run_stream
from gpu_tiles import run_tiles
from gpu_times import SECONDS_EACH, Clock, DeviceClock

HERE = Path(__file__).resolve().parent

MILLION = 1 << 20
CASES: tuple[Case, ...] = (
    *(
        Case(f"assign-{d}", run_assign, MILLION, d, 4096, (Target(TFLOPS, asked),), seconds)
        for d, asked, seconds in ((128, 275, 45), (256, 375, 60), (512, 400, 90))
    ),
    Case("assign-noise-128", run_assign, MILLION, 128, 4096, seconds=30, noise=True),
    *(
        Case(
            f"half-{d}", run_half, MILLION, d, 4096, (Target(FAST, asked, True), Target(EXACT, 1.2, True)),
            30, kind="bfloat16",
        )
        for d, asked in ((64, 1.45), (128, 2.00), (256, 3.30))
    ),
    *(
        Case(f"five-{name}", run_five, n, d, k, (Target(TO_FLASHLIB, 1.0),), seconds)
        for name, n, d, k, seconds in (
            ("256k-128-1024", MILLION // 4, 128, 1024, 20),
            ("256k-256-4096", MILLION // 4, 256, 4096, 25),
            ("1m-128-4096", MILLION, 128, 4096, 40),
            ("512k-512-4096", MILLION // 2, 512, 4096, 50),
            ("512k-256-16384", MILLION // 2, 256, 16384, 80),
        )
    ),
    *(
        Case(f"fit-{name}", run_fit, n, d, k, (Target(TO_BOTH, 3.0),), seconds, quick=(2000, 8, 12))
        for name, n, d, k, seconds in (
            ("1m-64-1024", MILLION, 64, 1024, 60),
            ("512k-128-4096", MILLION // 2, 128, 4096, 90),
        )
    ),
    Case("fit-embeddings", run_embeddings, MILLION, 0, 1024, (Target(TO_BOTH, 3.0),), 90),
    Case("iteration-1m-64-64", run_iteration, MILLION, 64, 64, (Target(MICROSECONDS, 130, True),), 30, noise=True),
    Case("iteration-8k-128-1024", run_iteration, 8192, 128, 1024, (Target(MICROSECONDS, 100, True),), 30, noise=True),
    Case("stream", run_stream, 100_000_000, 128, 4096, (Target(SHARE, 0.8),), 90),
    Case("bits", run_bits, 4000, 20, 160, (Target(HASHES, 1.0),), 60),
    *(
        Case(f"stages-{name}", run_stages, n, d, k, (), 10, noise=True)
        for name, n, d, k in (
            ("1m-128-4096", MILLION, 128, 4096),
            ("1m-512-4096", MILLION, 512, 4096),
            ("1m-64-64", MILLION, 64, 64),
            ("8k-128-1024", 8192, 128, 1024),
        )
    ),
    *(Case(f"tiles-{d}", run_tiles, MILLION // 4, d, 4096, (), 120) for d in (64, 128, 256, 512)),
)  # fmt: skip


def chosen(names: Sequence[str] | None) -> list[Case]:
    """Cases whose names begin with one of these, or all."""
    if not names:
        return list(CASES)
    unknown = [name for name in names if not any(case.name.startswith(name) for case in CASES)]
    if unknown:
        raise SystemExit(f"no case begins with {', '.join(unknown)}; --list names them")
    return [case for case in CASES if case.name.startswith(tuple(names))]


def small(case: Case) -> Case:
    """The case as ``--quick`` takes it: targets do not hold for its shape."""
    n, d, k = case.quick
    return replace(case, n=n, d=d, k=k, targets=(), seconds=min(case.seconds, 30))


def listing() -> str:
    """Every case with its shape, its time and what is asked."""
    return "\n".join(
        f"{case.name:<24}{case.title:<46}{case.seconds:>5.0f} s  {'; '.join(map(str, case.targets))}".rstrip()
        for case in CASES
    )


def measure_all(bench: Bench, cases: Sequence[Case], report: Report) -> None:
    """Run cases one by one; none keeps the next from running."""
    for case in cases:
        if bench.left < case.seconds:
            reason = f"skipped: it takes about {case.seconds:.0f} s, and {max(0.0, bench.left):.0f} s are left"
            report.add(case, {"contenders": {}, "left_out": {case.name: reason}}, {})
            continue
        began = time.monotonic()
        try:
            found, values = case.run(bench, case)
        except Absent as error:
            found, values = {"contenders": {}, "left_out": {case.name: str(error)}}, {}
        except Exception as error:  # what one case dies of says nothing about the next
            reason = f"{type(error).__name__}: {error}"
            bench.wrong.append(f"{case.name}: {reason}")
            found, values = {"contenders": {}, "left_out": {case.name: f"failed: {reason}"}}, {}
        report.add(case, {**found, "seconds": time.monotonic() - began}, values)
        if problem := bench.broken():
            bench.wrong.append(f"{case.name}: the device failed, and the run ends: {problem}")
            return
        bench.clear()


def open_bench(arguments: argparse.Namespace) -> Bench:
    """Contenders and clock, by what there is."""
    from gpukm.backends.select import probe, select

    began = time.monotonic()
    absent: dict[str, str] = {}
    try:
        torch = needed("torch")
    except Absent as error:
        torch, absent["torch"] = None, str(error)
    on_gpu = torch is not None and torch.cuda.is_available()
    if not on_gpu and not arguments.quick:
        raise SystemExit("no CUDA device: torch is missing or sees none; --quick tries the script on the CPU")
    usable = {name: (can, reason) for name, can, reason in probe()}
    gpukm = {}
    for library in ("torch", "cupy") if on_gpu else ("numpy",):
        can, reason = usable[library]
        if can:
            gpukm[f"gpukm {library}"] = Gpukm(select(library).backend, library)
        else:
            absent[f"gpukm {library}"] = reason
    if not gpukm:
        raise SystemExit(f"gpukm has no backend for this device: {absent}")
    peers, missing = importable()
    wanted = arguments.contenders.split(",") if arguments.contenders else list(PEERS)
    wanted = [] if wanted == ["none"] else wanted
    if unknown := [name for name in wanted if name not in PEERS]:
        raise SystemExit(f"no contender is named {', '.join(unknown)}; known are {', '.join(PEERS)}")
    absent |= {name: reason for name, reason in missing.items() if name in wanted}
    return Bench(
        clock=DeviceClock(torch) if on_gpu else Clock(),
        gpukm=gpukm,
        peers={name: peer for name, peer in peers.items() if name in wanted},
        absent=absent,
        torch=torch,
        deadline=began + arguments.budget,
        embeddings=arguments.embeddings,
        rows=arguments.rows,
        seconds_each=0.05 if arguments.quick else arguments.each,
    )


def main(command: Sequence[str] | None = None) -> None:
    """Check, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name the cases with what is asked of them, and end")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases, or how their names begin (default: all)")
    parser.add_argument("--budget", type=float, default=math.inf, metavar="SECONDS", help="skip what would not fit")
    parser.add_argument("--each", type=float, default=SECONDS_EACH, help="seconds of calls of each contender")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="wheels, or a folder they were unpacked into")
    parser.add_argument("--contenders", help=f"peers that take part: none, or from {','.join(PEERS)}")
    parser.add_argument("--embeddings", type=Path, metavar="FILE.npy", help="rows of the case fit-embeddings")
    parser.add_argument("--rows", type=int, default=STREAMED_ROWS, help="rows that are streamed, as memory allows")
    parser.add_argument("--quick", action="store_true", help="small shapes, to try the script")
    parser.add_argument("--name", default="gpu", help="name of the result")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the result")
    arguments = parser.parse_args(command)
    if arguments.list:
        print(listing())
        return
    cases = chosen(arguments.only)
    # Behind what is installed, which is then measured.
    sys.path += [str(HERE.parent), str(HERE.parent / "kernels")]
    with tempfile.TemporaryDirectory() as folder:
        if arguments.peers is not None:
            unpack(arguments.peers, Path(folder))
        bench = open_bench(arguments)
        head = about(bench, arguments.name)
        path = None
        if bench.on_gpu or arguments.out is not None:
            from record import place

            path = place(arguments.name, head["machine"]["gpu"] or "cpu", arguments.out).with_suffix(".json")
        print(json.dumps({"machine": head["machine"], "versions": head["versions"]}, indent=1))
        for name, reason in bench.absent.items():
            print(f"{name} is left out: {reason}")
        report = Report(path, head)
        report.write()
        measure_all(bench, [small(case) for case in cases] if arguments.quick else cases, report)
    if bench.wrong:
        raise SystemExit("gpukm was wrong or failed:\n  " + "\n  ".join(bench.wrong))


if __name__ == "__main__":
    main()
