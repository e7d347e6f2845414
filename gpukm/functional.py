"""k-means as functions: fit a source, label a source."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpukm.backends import Selection
from gpukm.backends.base import Frame, Rechecks
from gpukm.backends.select import Choice, gpu_array, select_for
from gpukm.core import rng, swaps
from gpukm.core.exact import exact_sum, to_float
from gpukm.core.lloyd import Fixed, LloydState, Problem, finish_shard, iterate
from gpukm.core.pooled import pooled
from gpukm.core.result import FitResult, IterationRecord, StopReason, on_host
from gpukm.core.seeding import auto_init, kmeans_plus_plus, random_rows
from gpukm.core.shard import Final, Shard, rechecks_of
from gpukm.errors import ConfigError, DataError
from gpukm.executors.base import Executor
from gpukm.executors.choose import executor_of
from gpukm.problem import SHARDS_A_WORKER, holds, look_at, look_there, place_there, positive
from gpukm.small import Rules, solve_small
from gpukm.sources.base import Batch, Source
from gpukm.sources.blocks import Blocks
from gpukm.sources.csr import CsrSource
from gpukm.sources.device import DeviceSource

Init = str | np.ndarray | Callable[..., Any]
#: Rows in memory travel to workers in blocks of at most about so many bytes.
_BLOCK_BYTES = 1 << 25
INITS = ("auto", "pooled", "k-means++", "random")


@dataclass(frozen=True)
class FitProgress:
    """Where a fit is: which start, the state of its loop, and the best of the starts before, without labels.

    ``swap`` counts the swaps of ``quality="best"``, which follow the starts, from 1; it is 0 before them.
    """

    init: int
    n_init: int
    state: LloydState
    best: FitResult | None = None
    swap: int = 0


@dataclass(frozen=True)
class Assignment:
    """Rows labelled against given centroids.

    Attributes
    ----------
    labels : ndarray of int32 of shape (n_samples,)
        As ``distances``, an array of the same library on the same GPU where the rows are one.
    distances : ndarray of float64 of shape (n_samples,)
        Squared distance to the centroid.
    inertia : float
        Order-free sum of ``w * distance``.
    """

    labels: np.ndarray
    distances: np.ndarray
    inertia: float


@dataclass(frozen=True)
class Resume:
    """Where an interrupted fit stood: the centroids of start ``init`` after its ``history``, the best result before."""

    centroids: np.ndarray
    history: tuple[IterationRecord, ...]
    init: int = 0
    best: FitResult | None = None


def kmeans(source: Any, n_clusters: int, **settings: Any) -> FitResult:
    """Cluster the rows of ``source`` into ``n_clusters`` groups.

    Parameters
    ----------
    source : array, Arrow or DLPack object, path or Source
        Rows of numbers, of shape (n_samples, n_features). Arrays are never changed.
    n_clusters : int
    **settings
        As listed in :func:`fit_iter`.

    Returns
    -------
    FitResult

    Raises
    ------
    ConfigError
        For a setting out of range.
    DataError
        For data that cannot be clustered: not finite, too few rows, bad weights.
    """
    steps = fit_iter(source, n_clusters, **{"watched": False, **settings})
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: FitResult = end.value
            return result


def fit_iter(
    source: Any,
    n_clusters: int,
    *,
    init: Init = "auto",
    n_init: int | str = "auto",
    max_iter: int = 300,
    tol: float = 1e-4,
    sample_weight: Any = None,
    seed: int = 0,
    metric: str = "euclidean",
    backend: str = "auto",
    device: str = "auto",
    precision: str = "exact",
    quality: str = "standard",
    executor: Any = "local",
    batch_size: int | None = None,
    memory_limit: int | str | None = None,
    follow_bytes: int | None = None,
    threads: int | None = None,
    device_memory: int | str | None = None,
    keep_labels: bool = True,
    n_shards: int = 1,
    resume: Resume | None = None,
    watched: bool = True,
) -> Generator[FitProgress, None, FitResult]:
    """Fit step by step: yields a :class:`FitProgress` an iteration, or for several that a GPU or workers made by
    themselves, and returns the :class:`FitResult`.

    Parameters
    ----------
    source : array, Arrow or DLPack object, path or Source
        An array on a GPU is shared and not copied; the fit then runs there, and leaves the labels there.
    n_clusters : int
    init : {"auto", "pooled", "k-means++", "random"}, array of shape (n_clusters, n_features) or callable
        ``pooled``, which ``auto`` takes but for small problems, chooses greedily from a pool of candidates that are
        drawn from a sample as in k-means++; it costs one or two assignment passes. ``k-means++`` looks at all rows for
        every choice, several times. A callable gets ``(x, n_clusters, random_state)`` and needs data in memory; of an
        array on a GPU, that array.
    n_init : int or "auto"
        Starts to make; the lowest inertia wins. ``auto`` makes one, or ten with ``init`` random or callable.
    max_iter : int
    tol : float
        Tolerance on the summed squared shift of the centroids, times the mean variance of the features.
    sample_weight : array of shape (n_samples,) or None
    seed : int
    metric : {"euclidean", "cosine"}
        Cosine clusters the normalised rows, with normalised centroids.
    backend, device : str
    precision : {"exact", "fast", "tf32", "ieee"}
        All but ``exact`` are for GPUs and leave the labels of iterations uncertified: each row gets the centroid of its
        lowest score, as ``fast``, by 16-bit floats where the matrix units are known, ``tf32`` or plain float32,
        ``ieee``, computes it; rows of 16 bits on a device are multiplied as they lie by ``fast``. A row nearly as near
        to another centroid may count there, and the centroids end elsewhere. Labels, counts and inertia of the result
        are exact for its centroids all the same. Same machine and settings, same bits; no more is promised, not even
        for a fit that is resumed.
    quality : {"standard", "best"}
        ``best`` goes on after the best start: it swaps centroids of little use for rows that lie badly and iterates
        again, as long as that helps, at several times the cost. The inertia never ends higher than with ``standard``.
    executor : {"local"} or distributed.Client
        A client of a Dask cluster has its workers do the work, to the same bits: ``source`` is then a path or URL that
        all of them reach, a Dask array or data frame, or an array here, whose rows travel there. On a cluster
        ``memory_limit`` and ``follow_bytes`` are not asked for: rows are held if they take less than half of the
        workers' memory.
    batch_size : int or None
        Rows read at a time from a source that is not in memory; None sizes batches by ``memory_limit``.
    memory_limit : int, str such as "2GB", or None
        Memory that streaming may use; None takes half of what is free.
    follow_bytes : int or None
        Of that, what labels and bounds of streamed rows may take from iteration to iteration, in bytes; None takes what
        batches leave. Blocks of rows for which there is no room are labelled without bounds.
    threads : int or None
    device_memory : int, str such as "20GB", or None
        Memory that may be taken on a GPU; None takes nearly all that is free. Rows that find no room are streamed.
    keep_labels : bool
        False leaves the labels of a streamed fit out of the result.
    n_shards : int
        Shards the rows are cut into; the result does not depend on it. On a cluster four a worker at least, where rows
        can be cut.
    resume : Resume or None
        Continue an interrupted fit of the same data and settings; the result has the bits of an undisturbed one, but
        no labels where an earlier start wins.
    watched : bool
        False yields nothing for a small problem in memory, which is then solved in one call; the result is the same.
    """
    from gpukm.sources.memory import parse_bytes

    n_clusters, max_iter = check_rules(n_clusters, max_iter, tol, metric)
    if quality not in ("standard", "best"):
        raise ConfigError(f"quality is {quality!r}, expected 'standard' or 'best'")
    most = None if device_memory is None else parse_bytes(device_memory)
    if batch_size is not None:
        batch_size = positive("batch_size", batch_size)
    if memory_limit is not None:
        memory_limit = parse_bytes(memory_limit)
    runner = executor_of(executor, backend, device)
    rejected: tuple[tuple[str, str], ...] = ()
    best: FitResult | None = None
    problem: Problem | None = None
    rows: Source | None = None
    method, starts = init, n_init
    if runner is not None:
        choice = Choice(backend, device, threads, most, precision)
        found = rows_there(source, sample_weight, runner)
        problem = look_there(found, runner, choice, n_clusters, max_iter, tol, metric, batch_size, n_shards)
        used, n_features = "+".join(problem.backends), len(problem.fixed.reference)
    else:
        selection = select_for(source, backend, device, threads, most, precision)
        rows = as_source(source, sample_weight, metric, selection, memory_limit)
        used, rejected, n_features = selection.backend.name, selection.rejected, rows.n_features
    x = None if rows is None else rows.array()
    whole = not watched and quality == "standard" and precision == "exact" and keep_labels and resume is None
    if rows is not None and whole and x is not None:
        method, starts = resolve_init(init, n_init, len(x), rows.n_features, n_clusters)
        rules = Rules(n_clusters, method, starts, max_iter, float(tol), int(seed), metric == "cosine")
        best, constant = solve_small(rows, selection.backend, rules)
        warnings = doubts(constant, rows.names, best.counts) if best else ()
    if best is None:
        if problem is None:
            assert rows is not None
            problem = look_at(
                rows,
                selection,
                n_clusters,
                max_iter,
                tol,
                metric,
                batch_size,
                memory_limit,
                n_shards,
                follow_bytes=follow_bytes,
            )
        try:
            method, starts = resolve_init(init, n_init, problem.scan.n_samples, n_features, n_clusters)
            best = yield from _best_start(problem, rows, n_clusters, method, starts, seed, keep_labels, resume)
            if quality == "best":
                best = yield from _improve(problem, best, seed, keep_labels)
        finally:
            if runner is not None:
                problem.rows.close()
        warnings = doubts_of(problem, best)
    name = method if isinstance(method, str) else "array" if isinstance(method, np.ndarray) else "callable"
    return replace(
        best,
        work=None if runner is None else runner.work(),
        backend=used,
        rejected=rejected,
        warnings=warnings,
        settings={
            "n_clusters": n_clusters,
            "init": name,
            "n_init": starts,
            "max_iter": max_iter,
            "tol": float(tol),
            "seed": int(seed),
            "metric": metric,
            "precision": precision,
            "quality": quality,
        },
    )


def _best_start(
    problem: Problem,
    rows: Source | None,
    n_clusters: int,
    method: Init,
    starts: int,
    seed: int,
    keep_labels: bool,
    resume: Resume | None,
) -> Generator[FitProgress, None, FitResult]:
    """Iterate from every start, or from where ``resume`` stood; the lowest inertia wins, and the first of equals."""
    best = resume.best if resume else None
    for start in range(resume.init if resume else 0, starts):
        start_seed = seed if start == 0 else int(rng.raw(seed, rng.Purpose.RESTART, start, 1)[0])
        history = list(resume.history) if resume else []
        centroids = resume.centroids if resume else start_from(problem, method, n_clusters, start_seed, rows)
        resume = None
        centroids = np.ascontiguousarray(centroids, dtype=problem.fixed.dtype)
        scored = rechecked = 0
        before = _counted(problem)
        stop = StopReason.MAX_ITER
        state: LloydState | None = None
        for state in iterate(problem, centroids, len(history) + 1):
            history.extend(state.records)
            scored, rechecked = scored + state.n_scored, rechecked + state.n_rechecked
            stop = state.stop or stop
            yield FitProgress(start, starts, state, best and replace(best, labels=None))
        centroids = centroids if state is None else state.centroids
        result = finish(problem, centroids, tuple(history), stop, keep_labels)
        result = replace(
            result,
            n_init=starts,
            best_init=start,
            n_scored=result.n_scored + scored,
            n_rechecked=result.n_rechecked + rechecked,
            rechecks=_rechecks(problem, before),
        )
        if best is None or result.inertia < best.inertia:
            best = result
    assert best is not None
    return best


def check_rules(n_clusters: Any, max_iter: Any, tol: float, metric: str) -> tuple[int, int]:
    """Refuse what no fit can work with; the two integers as such."""
    n_clusters = positive("n_clusters", n_clusters)
    max_iter = positive("max_iter", max_iter)
    if not tol >= 0:
        raise ConfigError(f"tol is {tol!r}, expected a number >= 0")
    if metric not in ("euclidean", "cosine"):
        raise ConfigError(f"metric is {metric!r}, expected 'euclidean' or 'cosine'")
    return n_clusters, max_iter


def assign(
    source: Any,
    centroids: np.ndarray,
    *,
    sample_weight: Any = None,
    metric: str = "euclidean",
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    executor: Any = "local",
) -> Assignment:
    """Label every row with its nearest centroid, ties to the lowest index.

    Parameters
    ----------
    source : array, Arrow or DLPack object, path or Source
        Rows of shape (n_samples, n_features).
    centroids : ndarray of shape (n_clusters, n_features)
    executor : {"local"} or distributed.Client
        As of :func:`fit_iter`.
    """
    runner = executor_of(executor, backend, device)
    if runner is not None:
        choice = Choice(backend, device, threads)
        return _assign_there(rows_there(source, sample_weight, runner), centroids, runner, choice, metric, batch_size)
    selection = select_for(source, backend, device, threads)
    rows = as_source(source, sample_weight, metric, selection)
    centroids = _check_centroids(centroids, rows)
    shard = Shard(rows, selection.backend, batch_size or 1 << 16, resident=holds(rows, selection, len(centroids)))
    if shard.in_memory:
        shard.scan(centroids[0])
    if rows.placed() is not None:
        # All rows at once, and what is found of them stays where they are.
        block, backend_ = next(iter(shard.blocks())), selection.backend
        labels = backend_.zeros(len(block.x), np.int32)
        backend_.assign(block.x, backend_.prepare(centroids, _frame_of(centroids, rows)), labels)
        total = backend_.total(block.x, block.placed_weight, centroids, labels)
        return Assignment(labels, backend_.placed_distances(block.x, centroids, labels), to_float(total))
    labels, distances, inertia = _label(shard, centroids, _frame_of(centroids, rows))
    return Assignment(labels, distances, to_float(inertia))


def _assign_there(
    rows: Source | Blocks,
    centroids: np.ndarray,
    executor: Executor,
    choice: Choice,
    metric: str,
    batch_rows: int | None,
) -> Assignment:
    """As :func:`assign`, where rows are worked on elsewhere."""
    centroids = _check_centroids(centroids, rows)
    placed = place_there(rows, executor, choice, metric, batch_rows, hold=False)
    try:
        found = placed.map(_label, executor.share(centroids), _frame_of(centroids, rows))
    finally:
        placed.close()
    return Assignment(
        np.concatenate([labels for labels, _, _ in found]),
        np.concatenate([distances for _, distances, _ in found]),
        to_float(sum(inertia for _, _, inertia in found)),
    )


def _label(shard: Shard, centroids: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels of a shard's rows, their squared distances, and the exact sum of these with weights."""
    backend, labels, distances, inertia = shard.backend, [np.empty(0, np.int32)], [np.empty(0)], 0
    prepared = backend.prepare(centroids, frame)
    for block in shard.blocks():
        part = backend.zeros(len(block.x), np.int32)
        backend.assign(block.x, prepared, part)
        d = backend.distances(block.x, centroids, part)
        inertia += int(exact_sum(d if block.weight is None else block.weight * d))
        labels.append(backend.fetch(part))
        distances.append(d)
    return np.concatenate(labels), np.concatenate(distances), inertia


def assign_batches(
    source: Any,
    centroids: np.ndarray,
    *,
    metric: str = "euclidean",
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    batch_rows: int = 1 << 16,
    second: bool = True,
) -> Iterator[tuple[Batch, np.ndarray, np.ndarray, np.ndarray]]:
    """Label a source batch by batch.

    Yields
    ------
    (Batch, labels, nearest, second)
        Labels int32 (n,), squared distance to the centroid float64 (n,), and to the second nearest one (inf where
        there is none, or where ``second`` is False).
    """
    selection = select_for(source, backend, device, threads)
    rows = as_source(source, None, metric, selection)
    centroids = _check_centroids(centroids, rows)
    prepared = selection.backend.prepare(centroids, _frame_of(centroids, rows))
    for batch in rows.batches(batch_rows):
        if second:
            yield batch, *selection.backend.assign_two(batch.x, prepared)
            continue
        labels = np.empty(len(batch.x), np.int32)
        selection.backend.assign(batch.x, prepared, labels)
        nearest = selection.backend.distances(batch.x, centroids, labels)
        yield batch, labels, nearest, np.full(len(labels), np.inf)


def as_source(
    source: Any, sample_weight: Any, metric: str, selection: Selection, memory_limit: int | str | None = None
) -> Source:
    """Make a Source of whatever a caller brings; what is opened here and does not fit in memory is read ahead."""
    from gpukm.sources.array import ArraySource
    from gpukm.sources.memory import parse_bytes
    from gpukm.sources.normalized import NormalizedSource
    from gpukm.sources.npy import NpySource
    from gpukm.sources.open import open_source
    from gpukm.sources.prefetch import Prefetch

    opened = not isinstance(source, Source)
    if opened and gpu_array(source) is not None:
        shared = on_device(source, selection, sample_weight)
        return shared.normalised() if metric == "cosine" else shared
    rows = open_source(source) if opened else source
    if isinstance(rows, NpySource) and opened and memory_limit is not None:
        rows.memory_limit_bytes = parse_bytes(memory_limit)
    if not isinstance(rows, Source):
        from gpukm.preprocessing import PreparedSource, Preprocessing, fit

        rows = PreparedSource(rows, fit(rows, Preprocessing()))
    if opened and rows.array() is None and not isinstance(rows, CsrSource):
        rows = Prefetch(rows)
    if sample_weight is not None:
        x = rows.array()
        if x is None:
            raise ConfigError("sample_weight needs data in memory; name a weight column for data that is streamed")
        rows = ArraySource(x, weight=sample_weight, names=rows.names)
    if metric != "cosine":
        return rows
    return rows.normalised() if isinstance(rows, DeviceSource) else NormalizedSource(rows, selection.backend)


def rows_there(source: Any, sample_weight: Any, executor: Executor) -> Source | Blocks:
    """What a caller brings as rows that an executor's workers can open: by location, or in blocks."""
    from gpukm.sources.array import ArraySource
    from gpukm.sources.blocks import blocks_of, is_collection
    from gpukm.sources.open import open_source

    if is_collection(source):
        return blocks_of(source, sample_weight)
    rows = open_source(on_host(source))
    if not isinstance(rows, Source):
        from gpukm.preprocessing import PreparedSource, Preprocessing, fit
        from gpukm.sources.ranges import cut

        ranges = cut(rows, SHARDS_A_WORKER * executor.width(), executor)
        rows = PreparedSource(rows, fit(rows, Preprocessing(), executor=executor, ranges=ranges))
    if sample_weight is not None:
        if isinstance(rows, CsrSource):
            rows = CsrSource(rows.matrix, sample_weight)
        elif isinstance(source, str | os.PathLike) or rows.array() is None:
            raise ConfigError("sample_weight needs data in memory; name a weight column for data that is streamed")
        else:
            rows = ArraySource(rows.array(), weight=sample_weight, names=rows.names)
    if not isinstance(rows, ArraySource | CsrSource):
        return rows
    n = SHARDS_A_WORKER * executor.width()
    n_rows = rows.n_rows or 0
    size = n_rows * rows.n_features * rows.dtype.itemsize
    return blocks_of(rows, n=max(1, min(n_rows, max(n, size // _BLOCK_BYTES))))


def on_device(x: Any, selection: Selection, sample_weight: Any = None) -> DeviceSource:
    """Make a Source of an array that lies on the device of the chosen backend."""
    from gpukm.backends.gpu import GpuBackend

    assert isinstance(selection.backend, GpuBackend)
    device = selection.backend.device
    try:
        return DeviceSource(device.adopt(x), device, None if sample_weight is None else on_host(sample_weight))
    except (TypeError, ValueError) as error:
        raise DataError(f"the array on {device.name} cannot be used: {error}") from error


def _frame_of(centroids: np.ndarray, rows: Source | Blocks) -> Frame:
    """Origin for screening where the data has not been looked at: the median of the centroids."""
    center = np.median(centroids.astype(np.float64), axis=0).astype(rows.dtype).astype(np.float64)
    return Frame(center, float(np.abs(centroids - center).max()))


def resolve_init(init: Init, n_init: int | str, n_samples: int, n_features: int, k: int) -> tuple[Init, int]:
    """Settle which method seeds and how many starts are made."""
    if isinstance(init, str):
        if init not in INITS:
            raise ConfigError(f"init is {init!r}, expected one of {', '.join(INITS)}, an array or a callable")
        if init == "auto":
            init = auto_init(n_samples, k)
    elif not callable(init):
        init = _check_start(np.asarray(on_host(init)), k, n_features)
    return init, count_starts(init, n_init)


def count_starts(init: Init, n_init: int | str) -> int:
    """Starts to make from a resolved ``init``; given centroids allow one."""
    if n_init == "auto":
        starts = 10 if callable(init) or (isinstance(init, str) and init == "random") else 1
    else:
        starts = positive("n_init", n_init)
    return 1 if isinstance(init, np.ndarray) else starts


def _check_start(centers: np.ndarray, k: int, n_features: int) -> np.ndarray:
    """Check the shape and values of given starting centres; the words are scikit-learn's."""
    shape = f"The shape of the initial centers {centers.shape} does not match the number of"
    if centers.ndim != 2 or len(centers) != k:
        raise ConfigError(f"{shape} clusters {k}.")
    if centers.shape[1] != n_features:
        raise ConfigError(f"{shape} features of the data {n_features}.")
    if not np.isfinite(centers).all():
        raise ConfigError("the initial centers contain NaN or infinity; give finite ones")
    return centers


def start_from(problem: Problem, init: Init, k: int, seed: int, rows: Source | None) -> np.ndarray:
    """Starting centroids of one start; ``rows`` are those of a fit in this process."""
    if isinstance(init, np.ndarray):
        return init
    if callable(init):
        x = None if rows is None else rows.matrix if isinstance(rows, CsrSource) else rows.array()
        x = rows.placed() if x is None and rows is not None else x
        if x is None or rows is None:
            raise ConfigError("a callable init needs data in memory; name a method or give an array")
        made = np.asarray(on_host(init(x, k, random_state=np.random.RandomState(seed % (1 << 32)))))
        return _check_start(made, k, rows.n_features)
    if problem.scan.n_positive < k:
        # Fewer usable rows than clusters: every one of them becomes a centre, the first repeats.
        found = random_rows(problem, problem.scan.n_positive, seed)
        return np.concatenate([found, np.repeat(found[:1], k - len(found), axis=0)])
    if init == "random":
        return random_rows(problem, k, seed)
    if init == "pooled":
        return pooled(problem, k, seed)
    return kmeans_plus_plus(problem, k, seed)


def _improve(
    problem: Problem, best: FitResult, seed: int, keep_labels: bool
) -> Generator[FitProgress, None, FitResult]:
    """Swap centroids while that lowers the inertia; swaps that gain little or nothing make the next ones smaller."""
    k = len(best.centroids)
    best = replace(best, inertia_before_swaps=best.inertia)
    size = swaps.first_size(problem, k)
    short = replace(problem, max_iter=swaps.GROWN_ITERATIONS)
    before_swaps, so_far = _counted(problem), best.rechecks
    for number in range(1, swaps.MOST_SWAPS + 1):
        centroids = swaps.grow(problem, best.centroids, size, seed, number) if size else None
        if centroids is None:
            break
        shown = replace(best, labels=None)
        scored, rechecked = best.n_scored, best.n_rechecked
        for state in iterate(short, centroids):
            centroids = state.centroids
            scored, rechecked = scored + state.n_scored, rechecked + state.n_rechecked
            yield FitProgress(best.n_init - 1, best.n_init, state, shown, number)
        centroids = swaps.shrink(problem, centroids, size)
        history, stop = list(best.history), best.stop
        longer = replace(problem, max_iter=len(history) + problem.max_iter)
        for state in iterate(longer, centroids, len(history) + 1):
            centroids, stop = state.centroids, state.stop or stop
            history.extend(state.records)
            scored, rechecked = scored + state.n_scored, rechecked + state.n_rechecked
            yield FitProgress(best.n_init - 1, best.n_init, state, shown, number)
        found = finish(problem, centroids, tuple(history), stop, keep_labels)
        scored, rechecked = scored + found.n_scored, rechecked + found.n_rechecked
        if not found.inertia < best.inertia * (1 - swaps.LEAST_GAIN):
            size //= 2
        if found.inertia < best.inertia:
            before = best.inertia_before_swaps
            best = replace(found, n_init=best.n_init, best_init=best.best_init, inertia_before_swaps=before)
        best = replace(best, n_scored=scored, n_rechecked=rechecked, rechecks=_rechecks(problem, before_swaps, so_far))
    return best


def _counted(problem: Problem) -> dict[str, Rechecks]:
    """What every backend that works on the rows has counted so far, which may be for others too."""
    if set(problem.backends) <= {"cpu", "numpy"}:
        return {}
    return {which: counted for which, counted in problem.rows.map(rechecks_of) if counted is not None}


def _rechecks(problem: Problem, before: dict[str, Rechecks], more: Rechecks | None = None) -> Rechecks | None:
    """What backends have counted since, those of lost workers left out, and ``more``."""
    now = _counted(problem)
    if not now:
        return None
    none = Rechecks(0, 0)
    return sum((counted - before.get(which, none) for which, counted in now.items()), more or none)


def finish(
    problem: Problem, centroids: np.ndarray, history: tuple[IterationRecord, ...], stop: StopReason, keep_labels: bool
) -> FitResult:
    """Label against the final centroids."""
    executor = problem.executor
    shared = executor.share(centroids)
    merged = problem.rows.reduce(finish_shard, Final.merge, problem.shared, shared, keep_labels)
    # Asked for before that is there: each worker goes on from the one to the other.
    labels = problem.rows.map(_labels, problem.shared, shared) if keep_labels else []
    final: Final = executor.fetch(merged[0])
    return FitResult(
        centroids=centroids,
        labels=None if not keep_labels else labels[0] if len(labels) == 1 else np.concatenate(labels),
        inertia=to_float(final.inertia),
        counts=final.stats.counts,
        weights=final.stats.weights(problem.fixed.grid),
        n_samples=problem.scan.n_samples,
        total_weight=problem.total_weight,
        n_iter=len(history),
        stop=stop,
        history=history,
        n_scored=final.n_scored,
        n_rechecked=final.n_rechecked,
    )


def _labels(shard: Shard, fixed: Fixed, centroids: np.ndarray) -> Any:
    """What :meth:`Shard.finish` left, or would have left where the shard was opened again since."""
    if shard.labels(centroids) is None:
        finish_shard(shard, fixed, centroids, True)
    return shard.labels(centroids)


def doubts_of(problem: Problem, result: FitResult) -> tuple[str, ...]:
    """What is only doubtful in the data."""
    constant = np.flatnonzero(problem.scan.minimum == problem.scan.maximum)
    return doubts(constant, problem.names, result.counts)


def doubts(constant: np.ndarray, names: tuple[str, ...] | None, counts: np.ndarray) -> tuple[str, ...]:
    """Words on features of one value (their places) and on clusters without rows."""
    found = []
    if len(constant):
        shown = [names[i] if names else f"feature {i}" for i in constant[:5]]
        more = f" and {len(constant) - 5} more" if len(constant) > 5 else ""
        found.append(f"constant columns tell clusters nothing: {', '.join(shown)}{more}")
    distinct = int((counts > 0).sum())
    if distinct < len(counts):
        found.append(
            f"Number of distinct clusters ({distinct}) found smaller than n_clusters ({len(counts)}). "
            "Possibly due to duplicate points in the data."
        )
    return tuple(found)


def _check_centroids(centroids: np.ndarray, rows: Source | Blocks) -> np.ndarray:
    """Centroids in the dtype of the rows, or a clear error."""
    centroids = np.asarray(on_host(centroids))
    if centroids.ndim != 2 or centroids.shape[1] != rows.n_features or not len(centroids):
        raise DataError(f"the centroids have shape {centroids.shape}, the data has {rows.n_features} features")
    if not np.isfinite(centroids).all():
        raise DataError("the centroids contain NaN or infinity")
    return np.ascontiguousarray(centroids, dtype=rows.dtype)
