"""Time to quality: inertia on all rows against seconds, for gpukm and its peers, exact and approximate.

Usage: python benchmarks/quality.py [--only NAMES] [--contenders NAMES] [--embeddings PATH.npy] [--efforts 1,2,3,...]
                                    [--repeats 1] [--limit 60] [--threads 2] [--rows N] [--out DIR]

Every point is a fit of its own, stopped after so many iterations, with everything it takes from the rows to the
centroids; labels that take a second call are not counted. What an iteration is, is the contender's: Lloyd's on all rows
for gpukm, scikit-learn, intelex, faiss and superkmeans; 25 batches of 1,024 rows for mini-batch; a refinement for
superkmeans-hierarchical; gpukm's mini-batches are asked for an excess of 10% over their number. What is called seeded
and superkmeans-hierarchical make starts of their own, within their time; all others start from the same rows. A
contender goes on to more iterations until it has converged or took longer than the limit.

The figure is the time of the first point whose inertia is within 1% of that of gpukm's converged fit; beside it stands
the same against the lowest inertia of all points of all contenders.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

from data import EMBEDDINGS, Problem, problem
from peers import CONTENDERS, GPUKM, PACKAGES, chosen
from record import machine, place, record
from turns import Unfit, check, refuse, workers

DEFAULT = ("1m-16-64", "2m-2-100", "1000000-64-1000")
EFFORTS = (1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 100)
CONVERGED_ITERATIONS = 300
WITHIN = 0.01
#: Percent above the best that the plot ends at: nothing can be drawn at zero.
_LEAST_SHOWN = 0.01


def curves(
    given: Problem, contenders: list[str], efforts: tuple[int, ...], threads: int, repeats: int, limit: float
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any], dict[str, str]]:
    """Points of each contender, the converged fit of gpukm, and who could not take part.

    The contenders take turns at each number of iterations.
    """
    points: dict[str, list[dict[str, Any]]] = {}
    with workers(given, ((name, threads) for name in contenders)) as (turns, unfit):
        for worker in turns:
            try:
                seconds, peak, fit = worker.fit(CONVERGED_ITERATIONS if worker.name == GPUKM else 1)
            except Unfit as error:
                refuse(worker.name, error)
                unfit[worker.name] = str(error)
                continue
            points[worker.name] = []
            if worker.name == GPUKM:
                found = check(GPUKM, given, fit, peak)
                converged = {
                    "seconds": seconds,
                    "iterations": found.iterations,
                    "inertia": found.inertia,
                    "converged": found.iterations < CONVERGED_ITERATIONS,
                }
        active = [worker for worker in turns if worker.name in points]
        for effort in efforts:
            taken: dict[str, list[float]] = {worker.name: [] for worker in active}
            ended = {}
            for _ in range(repeats):
                for worker in [each for each in active if each.name not in unfit]:
                    try:
                        seconds, peak, fit = worker.fit(effort)
                    except Unfit as error:
                        refuse(worker.name, error)
                        unfit[worker.name] = f"from {effort} iterations on, {error}"
                        ended.pop(worker.name, None)
                        continue
                    taken[worker.name].append(fit.training_seconds or seconds)
                    ended[worker.name] = (fit, peak)
            for name, (fit, peak) in ended.items():
                found = check(name, given, fit, peak)
                points[name].append(
                    {
                        "iterations": fit.iterations,
                        "seconds": statistics.median(taken[name]),
                        "all_seconds": taken[name],
                        "inertia": found.inertia,
                    }
                )
            active = [
                worker
                for worker in active
                if worker.name in ended
                and points[worker.name][-1]["seconds"] <= limit
                and ended[worker.name][0].iterations == effort
            ]
    return {name: line for name, line in points.items() if line}, converged, unfit


def reached(points: list[dict[str, Any]], inertia: float) -> float | None:
    """Seconds of the quickest fit that ended at this inertia or below."""
    return min((point["seconds"] for point in points if point["inertia"] <= inertia), default=None)


def draw(plots: ModuleType, rows: list[dict[str, Any]], path: Path) -> list[Path]:
    """One panel a problem: distance above the best inertia of all against seconds."""
    figure, axes = plots.panels([row["title"] for row in rows])
    for row, axis in zip(rows, axes, strict=True):
        best = min(row["converged"]["inertia"], *(p["inertia"] for line in row["points"].values() for p in line))
        for name, points in row["points"].items():
            plots.line(axis, name, {p["seconds"]: max(100 * (p["inertia"] / best - 1), _LEAST_SHOWN) for p in points})
        axis.axhline(100 * (row["target"] / best - 1), color="#999999", linewidth=1, linestyle=":", zorder=1)
        axis.set_xlabel("seconds")
        axis.set_ylabel("inertia above the best")
        plots.logarithmic(axis, "x")
        plots.logarithmic(axis, "y", unit="%")
    return plots.finish(figure, axes, path)


def main() -> None:
    """Run, check, print, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"comma-separated names of problems (default: {','.join(DEFAULT)})")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--embeddings", type=Path, help=".npy of shape (n, d), for the problem of this name")
    parser.add_argument("--efforts", default=",".join(map(str, EFFORTS)), help="numbers of iterations")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of a fit beyond which no longer one is made")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rows", type=int, help="keep this many rows, to try the script")
    parser.add_argument("--out", type=Path, help="folder of the result and the plot")
    arguments = parser.parse_args()
    import plots  # here, so that contenders' processes do without it, and its absence shows before anything is measured

    contenders, absent = chosen(arguments.contenders)
    for name, reason in absent.items():
        print(f"{name} is left out: {reason}")
    efforts = tuple(sorted(int(effort) for effort in arguments.efforts.split(",")))
    chosen_names = arguments.only.split(",") if arguments.only else list(DEFAULT)
    if not arguments.only and arguments.embeddings:
        chosen_names.append(EMBEDDINGS[0])
    rows = []
    for name in chosen_names:
        given = problem(name, arguments.embeddings, arguments.rows)
        points, converged, unfit = curves(
            given, contenders, efforts, arguments.threads, arguments.repeats, arguments.limit
        )
        target = converged["inertia"] * (1 + WITHIN)
        within = {key: reached(line, target) for key, line in points.items()}
        lowest = min(converged["inertia"], *(point["inertia"] for line in points.values() for point in line))
        near_best = {key: reached(line, lowest * (1 + WITHIN)) for key, line in points.items()}
        end = "converged" if converged["converged"] else "did not converge"
        print(f"\n{given.title} ({given.origin})")
        print(f"  gpukm {end} in {converged['iterations']} iterations at {converged['inertia']:.8g}")
        for key, line in points.items():
            best = min(point["inertia"] for point in line)
            when, then = ("never" if t is None else f"{t:.3f} s" for t in (within[key], near_best[key]))
            print(
                f"  {key:<25} within 1%: {when:<10} of the best: {then:<10} "
                f"lowest of {len(line)} points {best / converged['inertia'] - 1:+.3%}"
            )
        for key, reason in unfit.items():
            print(f"  {key:<25} left out: {reason}", flush=True)
        rows.append(
            {
                "name": name,
                "title": given.title,
                "data": given.origin,
                "converged": converged,
                "target": target,
                "seconds_to_within_1_percent": within,
                "seconds_to_within_1_percent_of_the_best": near_best,
                "points": points,
                "left_out": unfit,
            }
        )
        # After each problem, so that what was measured is there if a later one fails.
        record("quality", {"threads": arguments.threads, "rows": rows, "left_out": absent}, PACKAGES, arguments.out)
    for path in draw(plots, rows, place("quality", machine()["cpu"], arguments.out)):
        print(path)


if __name__ == "__main__":
    main()
