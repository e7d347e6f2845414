"""Many small problems on a device, whole fits in one launch, a block of threads each; kernels/README.md has more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpukm.backends.batch import Fits, Problems
from gpukm.backends.device import Device
from gpukm.backends.gpu_rows import joined

# A problem is small while its rows stay in a device's cache and one block takes milliseconds for an iteration; the
# kernel's indices are of 32 bits, and it has shared memory for the largest centroid and a number each cluster.
_SMALL_VALUES = 1 << 20
_SMALL_DISTANCES = 1 << 22
_SMALL_FEATURES = 1 << 12
_SMALL_CLUSTERS = 1 << 10
# Fewer problems than processors leave some idle: products of an iteration beyond which the engine, whose kernels share
# a problem among all of them, is used instead.
_FEW_PRODUCTS = 1 << 21
# Threads of a block.
_LEAST_THREADS, _MOST_THREADS = 64, 256
# Shared memory for centroids, of which a processor then holds several blocks'.
_TILE_BYTES = 32 << 10
# Iterations whose records are kept at first; the few fits that take more are made again with more room.
_HISTORY = 128
# Candidates that the kernel has room for.
_MOST_TRIALS = 32


def takes(device: Device, room_bytes: int, n_samples: np.ndarray, n_features: int, n_clusters: int) -> np.ndarray:
    """Which of several problems are small, and find room, as of :meth:`gpukm.backends.base.Backend.takes`."""
    values, distances = n_samples * n_features, n_samples * n_clusters
    small = (values <= _SMALL_VALUES) & (distances <= _SMALL_DISTANCES) & (n_clusters <= n_samples)
    if not small.any() or n_features > _SMALL_FEATURES or n_clusters > _SMALL_CLUSTERS:
        return np.zeros(len(n_samples), bool)
    if len(n_samples) < device.processors:
        small &= distances * n_features <= _FEW_PRODUCTS
    needed = _bytes(n_samples, n_features, n_clusters, 8, _HISTORY)
    return np.asarray(small & (needed <= room_bytes))


def solve(device: Device, room_bytes: int, problems: Problems, chosen: np.ndarray, fits: Fits) -> list[np.ndarray]:
    """Solve problems, as many at a time as find room, as of :meth:`gpukm.backends.base.Backend.solve`."""
    records = dict.fromkeys(chosen.tolist(), np.empty((0, 4)))
    if problems.trials > _MOST_TRIALS:
        return list(records.values())
    capacity, left = min(problems.max_iter, _HISTORY), chosen
    while len(left):
        for part in _parts(room_bytes, problems, left, capacity):
            for b, lines in zip(part.tolist(), _solve(device, problems, part, fits, capacity), strict=True):
                records[b] = lines[: fits.n_iter[b]].copy() if fits.solved[b] else np.empty((0, 4))
        left = left[(fits.solved[left] == 1) & (fits.n_iter[left] > capacity)]
        capacity = int(fits.n_iter[left].max(initial=0))
    return list(records.values())


def _bytes(n_samples: np.ndarray, n_features: int, n_clusters: int, itemsize: int, capacity: int) -> np.ndarray:
    """Memory that problems take on the device, at most."""
    a_row = n_features * 2 * itemsize + 24
    a_cluster = n_features * (3 * itemsize + 16) + 64
    return n_samples * a_row + n_clusters * a_cluster + 64 * n_features + 64 * capacity + 1024


def _parts(room_bytes: int, problems: Problems, chosen: np.ndarray, capacity: int) -> Iterator[np.ndarray]:
    """Chosen problems, as many at a time as find room, and one at least."""
    sizes = np.diff(problems.offsets)[chosen]
    d, itemsize = problems.x.shape[1], problems.dtype.itemsize
    up_to = np.cumsum(_bytes(sizes, d, problems.n_clusters, itemsize, capacity))
    first = 0
    while first < len(chosen):
        before = int(up_to[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(up_to, before + room_bytes, side="right")))
        yield chosen[first:stop]
        first = stop


def _solve(device: Device, problems: Problems, chosen: np.ndarray, fits: Fits, capacity: int) -> np.ndarray:
    """One launch; returns the records of the chosen problems, of shape (c, capacity, 4), and fills in the others."""
    (_, d), k, n_problems = problems.x.shape, problems.n_clusters, len(chosen)
    row, real, whole, small = problems.dtype, np.float64, np.int64, np.int32
    sizes = np.diff(problems.offsets)[chosen]
    n, firsts, stretches = int(sizes.sum()), np.cumsum(sizes) - sizes, _stretches(problems.offsets, chosen)
    # The largest first, so that no block begins late with much to do.
    order = np.argsort(-sizes, kind="stable")
    to = chosen[order]
    threads = _LEAST_THREADS
    while threads < min(int(sizes.max()), _MOST_THREADS):
        threads *= 2
    tile = min(k, max(1, _TILE_BYTES // (d * row.itemsize)))
    size, width = (1 << (v - 1).bit_length() for v in (k, d))

    given = [
        _rows(device, problems.x, stretches),
        None if problems.weight is None else _rows(device, problems.weight, stretches),
        firsts[order],
        sizes[order].astype(small),
        problems.seeds[to],
        None if problems.start is None else problems.start[to],
    ]
    rules = (problems.trials, problems.n_init, min(problems.max_iter, 2**31 - 1), problems.tol, int(problems.spherical))
    # The rows once more, numbers and labels of theirs, centroids, their sums, features, places, history.
    room = [
        *(device.empty((n, d), row), device.empty(n, real), device.empty(n, small)),
        *(device.empty((n_problems, k, d), row), device.empty((n_problems, 2 * k * d + 3 * k), whole)),
        *(device.empty((n_problems, 3 * d + width), real), device.empty((n_problems, 4 * k), small)),
        device.empty((n_problems, capacity, 4), real),
    ]
    results = (
        *(device.empty((n_problems, k, d), row), device.empty(n, small), device.empty((n_problems, 2), real)),
        *(device.zeros((n_problems, 5), whole), device.empty((n_problems, k), whole)),
        *(device.empty((n_problems, k), real), device.empty((n_problems, d), np.uint8)),
        device.empty((n_problems, capacity, 4), real),
    )
    placed = [array if array is None or device.owns(array) else device.place(array) for array in given]
    shape, shared = (n_problems, d, k), 8 * size + tile * d * row.itemsize
    device.launch(
        "batch.solve",
        device.kind(placed[0]),
        n_problems,
        threads,
        *placed,
        *shape,
        *rules,
        capacity,
        tile,
        *room,
        *results,
        shared=shared,
    )
    centroids, labels, numbers, facts, counts, weights, constant, history = map(device.fetch, results)
    fits.solved[to], fits.n_iter[to], fits.best_init[to], fits.n_rechecked[to], fits.stop[to] = facts.T
    fits.inertia[to], fits.total_weight[to] = numbers.T
    fits.centroids[to], fits.constant[to], fits.counts[to], fits.weights[to] = centroids, constant, counts, weights
    done = 0
    for rows in stretches:
        fits.labels[rows] = labels[done : done + rows.stop - rows.start]
        done += rows.stop - rows.start
    records = np.empty_like(history)
    records[order] = history
    return records


def _stretches(offsets: np.ndarray, chosen: np.ndarray) -> list[slice]:
    """Rows of the chosen problems, those of neighbours together."""
    parts = np.split(chosen, np.flatnonzero(np.diff(chosen) != 1) + 1)
    return [slice(int(offsets[part[0]]), int(offsets[part[-1] + 1])) for part in parts]


def _rows(device: Device, array: Any, stretches: list[slice]) -> Any:
    """Stretches of an array one after another, where it is, copied only where there are several."""
    parts = [array[rows] for rows in stretches]
    if len(parts) == 1:
        return parts[0]
    return joined(device, parts) if device.owns(array) else np.concatenate(parts)
