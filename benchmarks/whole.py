"""Whole fits from the same start to convergence, or 100 iterations: gpukm beside its peers, taking turns.

Usage: python benchmarks/whole.py [--only NAMES] [--contenders NAMES] [--embeddings PATH.npy] [--iterations 100]
                                  [--repeats 3] [--limit 60] [--threads 2] [--rows N] [--name whole] [--out DIR]

A time is that of a fit from given rows to centroids, labels and what else the contender computes. The ratio is the
fastest of those that make Lloyd's iterations on all rows (scikit-learn, intelex, faiss) to gpukm, by medians; where
only approximate contenders take part, the fastest of them, by the time to their centroids alone, without labels.

Stop rule: no label or centroid changes, or --iterations. Who cannot tell (faiss, superkmeans) makes as many iterations
as gpukm made. Inertia is computed here in float64 on all rows, and gpukm must report the same. Rounding, and ties that
it breaks, can lead contenders along different paths, to a better or a worse end; so inertias are compared with all who
make Lloyd's iterations. Where none of them ends within 1e-6 of gpukm, gpukm and scikit-learn fit once more in float64,
and where gpukm is worse by more than 1e-6 in both precisions, the run fails.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from data import Problem, names, problem
from peers import CONTENDERS, GPUKM, PACKAGES, SCIKIT_LEARN, chosen
from record import record
from turns import Measured, Worker, check, take_turns, workers

EQUAL = 1e-6


def difference(measured: dict[str, Measured], name: str, other: str) -> float:
    """Relative difference of one inertia to another, above zero where it is worse."""
    return measured[name].inertia / measured[other].inertia - 1


def ratio(measured: dict[str, Measured]) -> tuple[float, str] | None:
    """How many times faster gpukm is than the fastest peer, and which that is."""
    peers = {name: found.median for name, found in measured.items() if CONTENDERS[name].lloyd and name != GPUKM}
    if not peers:
        peers = {
            name: statistics.median(found.training_seconds)
            for name, found in measured.items()
            if found.training_seconds and not CONTENDERS[name].lloyd
        }
    if not peers:
        return None
    fastest = min(peers, key=lambda name: peers[name])
    return peers[fastest] / measured[GPUKM].median, fastest


def in_float64(given: Problem, threads: int, iterations: int) -> float:
    """Difference of gpukm to scikit-learn where both fit in float64."""
    wide = replace(given, x=given.x.astype(np.float64))
    with workers(wide, ((name, threads) for name in (GPUKM, SCIKIT_LEARN))) as (turns, unfit):
        if unfit:
            raise SystemExit(f"{given.title}: {unfit}")

        def run(worker: Worker) -> Measured:
            _, peak, fit = worker.fit(iterations)
            return check(worker.name, wide, fit, peak)

        return difference({worker.name: run(worker) for worker in turns}, GPUKM, SCIKIT_LEARN)


def show(given: Problem, measured: dict[str, Measured], unfit: dict[str, str]) -> None:
    """One table a problem."""
    print(f"\n{given.title} ({given.origin})")
    print(
        f"  {'':<25}{'seconds':>10}{'least .. most':>20}{'iterations':>12}{'inertia':>16}{'to gpukm':>11}{'memory':>11}"
    )
    for name, found in measured.items():
        spread = f"{min(found.seconds):.3f} .. {max(found.seconds):.3f}" if len(found.seconds) > 1 else "one run"
        peak = "unknown" if found.peak_bytes is None else f"{found.peak_bytes / 2**20:,.0f} MiB"
        apart = f"{difference(measured, name, GPUKM):+.1e}" if name != GPUKM else ""
        times = f"{found.median:>10.3f}{spread:>20}{found.iterations:>12}"
        print(f"  {name:<25}{times}{found.inertia:>16.8g}{apart:>11}{peak:>11}")
        if found.training_seconds:
            print(f"  {'  centroids alone':<25}{statistics.median(found.training_seconds):>10.3f}")
    for name, reason in unfit.items():
        print(f"  {name:<25} left out: {reason}")


def summary(rows: Sequence[dict[str, Any]]) -> None:
    """Markdown table of medians, as README shows it."""
    shown = [name for name in CONTENDERS if any(name in row["contenders"] for row in rows)]
    print("\n| data | " + " | ".join(shown) + " | faster than the fastest | inertia equal to 1e-6 |")
    print("|---" * (len(shown) + 3) + "|")
    for row in rows:
        cells = [
            f"{row['contenders'][name]['median_seconds']:.3f}" if name in row["contenders"] else "" for name in shown
        ]
        ratio_cell = "" if row["ratio"] is None else f"{row['ratio']:.2f} ({row['ratio_to']})"
        same, wide = [key for key, equal in row["equal"].items() if equal], row["difference_to_scikit_learn_in_float64"]
        if wide is not None and abs(wide) <= EQUAL:
            same = [f"{SCIKIT_LEARN} in float64"]
        cell = ", ".join(same) or "none"
        if len(same) == len(row["equal"]):
            cell = "all" if same else ""
        print("| " + " | ".join([row["title"], *cells, ratio_cell, cell]) + " |")


def write(
    rows: Sequence[dict[str, Any]], absent: dict[str, str], arguments: argparse.Namespace
) -> tuple[float | None, float | None]:
    """Write what there is; returns the geometric mean and the least of the ratios."""
    ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
    mean, least = (statistics.geometric_mean(ratios), min(ratios)) if ratios else (None, None)
    found = {
        "threads": arguments.threads,
        "iterations": arguments.iterations,
        "rows": rows,
        "left_out": absent,
        "geometric_mean_ratio": mean,
        "least_ratio": least,
    }
    record(arguments.name, found, PACKAGES, arguments.out)
    return mean, least


def main() -> None:
    """Run, check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated names of problems (default: all for which data is at hand)")
    parser.add_argument("--contenders", default="gpukm,scikit-learn,intelex,faiss", help=f"from {','.join(CONTENDERS)}")
    parser.add_argument("--embeddings", type=Path, help=".npy of shape (n, d), for the problem of this name")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds beyond which a contender is run once")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rows", type=int, help="keep this many rows, to try the script")
    parser.add_argument("--name", default="whole", help="name of the result")
    parser.add_argument("--out", type=Path, help="folder of the result")
    arguments = parser.parse_args()
    contenders, absent = chosen(arguments.contenders)
    for name, reason in absent.items():
        print(f"{name} is left out: {reason}")
    rows, worse = [], []
    for name in names(arguments.only and arguments.only.split(","), arguments.embeddings):
        given = problem(name, arguments.embeddings, arguments.rows)
        measured, unfit = take_turns(
            given, contenders, arguments.threads, arguments.iterations, arguments.repeats, arguments.limit
        )
        show(given, measured, unfit)
        faster, wide = ratio(measured), None
        peers = [key for key in measured if key != GPUKM and CONTENDERS[key].lloyd]
        equal = [key for key in peers if abs(difference(measured, GPUKM, key)) <= EQUAL]
        if SCIKIT_LEARN in peers and not equal:
            apart = difference(measured, GPUKM, SCIKIT_LEARN)
            wide = in_float64(given, arguments.threads, arguments.iterations)
            print(f"  gpukm to scikit-learn {apart:+.1e}; in float64 {wide:+.1e}")
            if min(apart, wide) > EQUAL:
                worse.append(given.title)
        if faster:
            print(f"  {faster[0]:.2f} times faster than {faster[1]}", flush=True)
        rows.append(
            {
                "name": name,
                "title": given.title,
                "data": given.origin,
                "n": len(given.x),
                "d": given.x.shape[1],
                "k": given.k,
                "contenders": {key: found.as_dict() for key, found in measured.items()},
                "left_out": unfit,
                "ratio": faster and faster[0],
                "ratio_to": faster and faster[1],
                "equal": {key: key in equal for key in peers},
                "difference_to_scikit_learn_in_float64": wide,
            }
        )
        # After each problem, so that what was measured is there if a later one fails.
        mean, least = write(rows, absent, arguments)
    summary(rows)
    if mean:
        print(f"\ngeometric mean of the ratio {mean:.2f}, least {least:.2f}")
    if worse:
        raise SystemExit(f"gpukm is worse than scikit-learn by more than {EQUAL:g}: {'; '.join(worse)}")


if __name__ == "__main__":
    main()
