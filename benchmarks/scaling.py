"""How the time of an iteration grows with rows, features and clusters, and how it shrinks with threads.

Usage: python benchmarks/scaling.py [--contenders NAMES] [--sweeps rows,features,clusters,threads,workers]
                                    [--iterations 10] [--repeats 3] [--limit 20] [--threads 2]
                                    [--threads-on NAMES] [--rows N] [--out DIR]

The sweeps change one of 200,000 rows, 32 features and 256 clusters of a mixture. A time is that of a whole fit from the
same rows, divided by its iterations; medians of fits that take turns. A contender slower than the limit is run once.

Threads: fits of one problem on 1, 2, 4, ... threads take turns with a loop of fused multiply-adds in registers on as
many (``fma.cpp``, compiled by c++). The speed-up of that loop is the ceiling of this machine at that time; efficiency
is the speed-up of a contender over it. Both are medians over rounds of the quotient within a round.

Workers: nothing is run on more than this machine. ``cluster_model.py`` computes an iteration on up to 1,024 workers
from costs that are measured here, and where other things than the work on rows come to take a tenth of it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from data import Problem, problem
from peers import CONTENDERS, GPUKM, PACKAGES, chosen
from record import HERE, machine, place, record
from turns import check, take_turns, workers

BASE = {"rows": 200_000, "features": 32, "clusters": 256}
SWEEPS = {
    "rows": (10_000, 30_000, 100_000, 300_000, 1_000_000),
    "features": (2, 8, 32, 128, 512),
    "clusters": (8, 32, 128, 512, 2048),
}
THREADS_ON = ("1m-16-64", "200k-128-1024", "2m-2-100")
FMA_SECONDS = 0.3


def sweep(what: str, contenders: list[str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds per iteration of each contender at each size."""
    rows = []
    for size in SWEEPS[what]:
        shape = {**BASE, what: size}
        given = problem("-".join(str(n) for n in shape.values()), max_rows=arguments.rows)
        measured, unfit = take_turns(
            given, contenders, arguments.threads, arguments.iterations, arguments.repeats, arguments.limit
        )
        each = {name: found.median / found.iterations for name, found in measured.items()}
        print(
            f"  {given.title:<38}" + "".join(f" {name} {seconds:.4f} s" for name, seconds in each.items()), flush=True
        )
        rows.append(
            {
                what: size,
                "data": given.origin,
                "seconds_per_iteration": each,
                "contenders": {name: found.as_dict() for name, found in measured.items()},
                "left_out": unfit,
            }
        )
    return rows


@contextmanager
def fma_loop() -> Iterator[Path | None]:
    """The compiled loop, or None, said aloud, where there is no compiler."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        print("no C++ compiler found, so no ceiling for threads; install g++ or set CXX")
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "fma"
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-fopenmp"]
        done = subprocess.run(
            [compiler, *flags, str(HERE / "fma.cpp"), "-o", str(program)], capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"fma.cpp does not compile: {done.stderr}")
        yield program


def rate(program: Path, threads: int) -> float:
    """Multiply-adds a second."""
    done = subprocess.run([program, str(threads), str(FMA_SECONDS)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def by_threads(
    given: Problem, contenders: list[str], counts: list[int], program: Path | None, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Speed-up of each contender and of the loop, by number of threads, and the quotient of the two."""
    times: dict[str, dict[int, list[float]]] = {}
    rates: dict[int, list[float]] = {threads: [] for threads in counts}
    with workers(given, ((name, threads) for name in contenders for threads in counts)) as (turns, unfit):
        numbered = [
            (worker, threads)
            for worker, threads in zip(
                turns, [t for name in contenders if name not in unfit for t in counts], strict=True
            )
        ]
        iterations = {}
        for worker, threads in numbered:
            _, peak, fit = worker.fit(arguments.iterations)
            check(worker.name, given, fit, peak)
            iterations[worker.name] = fit.iterations
            times.setdefault(worker.name, {})[threads] = []
        for _ in range(arguments.repeats):
            for threads in counts if program else ():
                rates[threads].append(rate(program, threads))
            for worker, threads in numbered:
                times[worker.name][threads].append(worker.fit(arguments.iterations)[0])
    speed_up = {
        name: {t: statistics.median(one / many for one, many in zip(found[1], found[t], strict=True)) for t in counts}
        for name, found in times.items()
    }
    ceiling = (
        {t: statistics.median(many / one for one, many in zip(rates[1], rates[t], strict=True)) for t in counts}
        if program
        else None
    )
    efficiency = ceiling and {name: {t: found[t] / ceiling[t] for t in counts} for name, found in speed_up.items()}
    print(f"  {given.title}")
    for name, found in speed_up.items():
        ours = "".join(
            f"  {t} threads {found[t]:.2f}" + (f" ({efficiency[name][t]:.0%} of the ceiling)" if efficiency else "")
            for t in counts
            if t > 1
        )
        print(f"    {name:<25}{ours}", flush=True)
    if ceiling:
        print(f"    {'multiply-add loop':<25}" + "".join(f"  {t} threads {ceiling[t]:.2f}" for t in counts if t > 1))
    return {
        "name": given.name,
        "title": given.title,
        "data": given.origin,
        "iterations": iterations,
        "seconds": times,
        "multiply_adds_per_second": rates if program else None,
        "speed_up": speed_up,
        "ceiling": ceiling,
        "efficiency": efficiency,
        "left_out": unfit,
    }


def draw(
    plots: ModuleType,
    sweeps: dict[str, list[dict[str, Any]]],
    threads: list[dict[str, Any]],
    path: Path,
) -> list[Path]:
    """A panel a sweep, and one for each problem that threads were measured on."""
    others = {key: [f"{BASE[o]:,} {o}" for o in BASE if o != key] for key in sweeps}
    titles = [f"{key.capitalize()} ({', '.join(others[key])})" for key in sweeps]
    figure, axes = plots.panels([*titles, *(f"Threads ({row['title']})" for row in threads)])
    for (what, rows), axis in zip(sweeps.items(), axes, strict=False):
        for name in CONTENDERS:
            points = {r[what]: r["seconds_per_iteration"][name] for r in rows if name in r["seconds_per_iteration"]}
            if points:
                plots.line(axis, name, points)
        axis.set_xlabel(what)
        axis.set_ylabel("seconds per iteration")
        plots.logarithmic(axis, "x", at=SWEEPS[what])
        plots.logarithmic(axis, "y")
    for row, axis in zip(threads, axes[len(sweeps) :], strict=True):
        for name, points in row["speed_up"].items():
            plots.line(axis, name, points)
        if row["ceiling"]:
            plots.line(axis, "ceiling", row["ceiling"])
        axis.set_xlabel("threads")
        axis.set_ylabel("times as fast as one thread")
        axis.set_xticks(list(row["speed_up"][GPUKM]))
        axis.set_ylim(bottom=0)
    return plots.finish(figure, axes, path)


def by_workers(plots: ModuleType, out: Path | None) -> None:
    """Model an iteration on many machines; a panel a problem, in a result of its own."""
    from cluster_model import measure, model

    print("workers:")
    found = model(measure())
    figure, axes = plots.panels([row["title"] for row in found["problems"]], columns=3)
    for row, axis in zip(found["problems"], axes, strict=True):
        for name in ("rows", "sums", "centroids", "scheduler"):
            plots.line(axis, name, {workers: parts[name] for workers, parts in row["seconds"].items() if parts[name]})
        axis.set_xlabel("workers of one thread")
        axis.set_ylabel("seconds per iteration (model)")
        plots.logarithmic(axis, "x", at=(1, 4, 16, 64, 256, 1024))
        plots.logarithmic(axis, "y")
    record("scaling-workers", found, ("dask", "distributed"), out)
    for path in plots.finish(figure, axes, place("scaling-workers", machine()["cpu"], out)):
        print(path)


def main() -> None:
    """Run, check, print, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", default="gpukm,scikit-learn,intelex,faiss", help=f"from {','.join(CONTENDERS)}")
    parser.add_argument("--sweeps", default=f"{','.join(SWEEPS)},threads", help="and workers, by a model")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds beyond which a contender is run once")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--threads-on", default=",".join(THREADS_ON), help="problems on which threads are measured")
    parser.add_argument("--rows", type=int, help="keep this many rows, to try the script")
    parser.add_argument("--out", type=Path, help="folder of the result and the plot")
    arguments = parser.parse_args()
    import plots  # here, so that contenders' processes do without it, and its absence shows before anything is measured

    contenders, absent = chosen(arguments.contenders)
    for name, reason in absent.items():
        print(f"{name} is left out: {reason}")
    wanted = arguments.sweeps.split(",")
    if unknown := set(wanted) - {*SWEEPS, "threads", "workers"}:
        raise SystemExit(
            f"no sweep is named {', '.join(sorted(unknown))}; known are {', '.join(SWEEPS)}, threads, workers"
        )
    if "workers" in wanted:
        by_workers(plots, arguments.out)
        wanted.remove("workers")
    if not wanted:
        return
    sweeps, threads = {}, []
    for what in SWEEPS:
        if what in wanted:
            print(f"{what}:")
            sweeps[what] = sweep(what, contenders, arguments)
    if "threads" in wanted:
        powers = [1 << i for i in range(arguments.threads.bit_length()) if 1 << i < arguments.threads]
        print("threads:")
        with fma_loop() as program:
            for name in arguments.threads_on.split(","):
                given = problem(name, max_rows=arguments.rows)
                threads.append(by_threads(given, contenders, [*powers, arguments.threads], program, arguments))
    found = {
        "iterations": arguments.iterations,
        "threads": arguments.threads,
        "base": BASE,
        "sweeps": sweeps,
        "by_threads": threads,
        "left_out": absent,
    }
    record("scaling", found, PACKAGES, arguments.out)
    for path in draw(plots, sweeps, threads, place("scaling", machine()["cpu"], arguments.out)):
        print(path)


if __name__ == "__main__":
    main()
