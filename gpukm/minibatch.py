"""Mini-batch k-means as functions: a fit from as few rows as will do."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import numpy as np

from gpukm.backends.select import select_for
from gpukm.core import rng
from gpukm.core.breathing import breathe
from gpukm.core.lloyd import Problem
from gpukm.core.minibatch import NestedState, iterate, on
from gpukm.core.portions import Portions, portion
from gpukm.core.result import FitResult, StopReason
from gpukm.core.stream import HeldBack, StreamState, observe, update
from gpukm.errors import ConfigError
from gpukm.functional import (
    INITS,
    Init,
    as_source,
    check_rules,
    doubts_of,
    finish,
    resolve_init,
    start_from,
)
from gpukm.problem import look_at, positive
from gpukm.sources.base import Source
from gpukm.sources.memory import available_bytes, parse_bytes

#: Rows a cluster in the first batch, unless it is told: enough to tell clusters apart, few enough to cost nothing.
FIRST_ROWS = 64
_LEAST_ROWS = 1024
#: Rows are worth holding up to so many times those that the allowed excess calls for.
_SPARE = 4


def minibatch_kmeans(source: Any, n_clusters: int, **settings: Any) -> FitResult:
    """Cluster the rows of ``source`` from batches that double, reading no more of them than the result needs.

    Parameters
    ----------
    source : array, Arrow or DLPack object, path or Source
        Rows of numbers, of shape (n_samples, n_features). Arrays are never changed.
    n_clusters : int
    **settings
        As listed in :func:`minibatch_iter`.

    Returns
    -------
    FitResult
        ``inertia``, ``labels`` and ``counts`` are exact and of all rows, unless ``compute_labels`` is False.
        ``n_iter`` counts steps. The same machine and settings give the same bits.

    Raises
    ------
    ConfigError
        For a setting out of range.
    DataError
        For data that cannot be clustered: not finite, too few rows, bad weights.
    """
    steps = minibatch_iter(source, n_clusters, **settings)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: FitResult = end.value
            return result


def minibatch_iter(
    source: Any,
    n_clusters: int,
    *,
    init: Init = "auto",
    n_init: int | str = "auto",
    batch_size: int | None = None,
    init_size: int | None = None,
    max_iter: int = 100,
    tol: float = 0.0,
    max_excess: float = 1e-3,
    sample_weight: Any = None,
    seed: int = 0,
    metric: str = "euclidean",
    backend: str = "auto",
    device: str = "auto",
    memory_limit: int | str | None = None,
    read_rows: int | None = None,
    threads: int | None = None,
    compute_labels: bool = True,
    keep_labels: bool = True,
) -> Generator[NestedState, None, FitResult]:
    """Fit step by step: yields a :class:`~gpukm.core.minibatch.NestedState` a step and returns the :class:`FitResult`.

    Rows come in a random order that depends on ``seed``. A source in memory is copied from, until a batch holds half
    of it; from then on all rows are used where they are. A source that is read in batches is read once to check
    it, and once to hold the first rows of the random order, as many as an eighth of the memory takes or ``max_excess``
    calls for; if these do not suffice, further steps read all of it.

    Parameters
    ----------
    source : array, Arrow or DLPack object, path or Source
    n_clusters : int
    init : {"auto", "breathing", "k-means++", "pooled", "random"}, array (n_clusters, n_features) or callable
        How ``init_size`` rows give the first centroids. "auto" is "breathing": random rows, improved by breathing
        k-means. A callable gets ``(x, n_clusters, random_state)``.
    n_init : int or "auto"
        Starts to try on these rows; the one of lowest inertia is used. "auto" tries one, or three with ``init`` random
        or callable.
    batch_size : int or None
        Rows of the first batch, at least ``n_clusters``; None takes 64 a cluster, but at least 1024.
    init_size : int or None
        Rows that ``init`` sees, at least ``n_clusters``; None takes those of the first batch.
    max_iter : int
        Limit on the work: steps label at most about ``max_iter`` times as many rows as there are.
    tol : float
        On batches of all rows: tolerance on the summed squared shift of the centroids, times the mean variance of the
        features. Zero sets none.
    max_excess : float
        Stop once the inertia is estimated to be no more than this share above the one that all rows and all further
        steps would reach from here. Zero goes on to all rows, until no centroid moves. It does not tell how good a
        local optimum is.
    sample_weight : array of shape (n_samples,) or None
    seed : int
    metric : {"euclidean", "cosine"}
    backend, device : str
    memory_limit : int, str such as "2GB", or None
        Memory that a source not in memory may use; None takes half of what is free.
    read_rows : int or None
        Rows read at a time from a source that is not in memory; None sizes reads by ``memory_limit``.
    threads : int or None
    compute_labels : bool
        False leaves out the last pass: then ``labels`` is None, ``inertia`` that of the last batch scaled to all rows,
        and ``counts`` and ``weights`` are those of the last batch.
    keep_labels : bool
        False leaves the labels of the last pass out of the result.
    """
    n_clusters, max_iter = check_rules(n_clusters, max_iter, tol, metric)
    first_rows = max(n_clusters, FIRST_ROWS * n_clusters, _LEAST_ROWS)
    if batch_size is not None:
        first_rows = max(n_clusters, positive("batch_size", batch_size))
    init_rows = first_rows if init_size is None else positive("init_size", init_size)
    if init_rows < n_clusters:
        raise ConfigError(f"init_size is {init_size}, expected at least n_clusters={n_clusters}")
    if not max_excess >= 0:
        raise ConfigError(f"max_excess is {max_excess!r}, expected a number >= 0")
    if isinstance(init, str) and init not in (*INITS, "breathing"):
        raise ConfigError(
            f"init is {init!r}, expected one of {', '.join((*INITS, 'breathing'))}, an array or a callable"
        )
    selection = select_for(source, backend, device, threads)
    rows = as_source(source, sample_weight, metric, selection, memory_limit)
    resident = rows.array() is not None or rows.placed() is not None
    problem = look_at(
        rows, selection, n_clusters, max_iter, tol, metric, read_rows, memory_limit, 1, spread=not resident
    )
    method, starts = _method(init, n_init, problem, n_clusters)
    if resident:
        portions = Portions.resident(rows, seed)
    else:
        limit = available_bytes() // 2 if memory_limit is None else parse_bytes(memory_limit)
        size = max(first_rows, init_rows, limit // 8 // (rows.n_features * rows.dtype.itemsize + 8))
        if max_excess > 0:
            size = min(size, max(first_rows, init_rows, int(_SPARE * n_clusters / max_excess)))
        portions = Portions.held(rows, seed, size, problem.shards[0].batch_rows)
    first = portion(problem, portions.take(0, first_rows))
    sample = on(problem, [first if init_rows == first_rows else portion(problem, portions.take(0, init_rows))])
    centroids = _start(sample, method, starts, n_clusters, seed)
    history, scored, rechecked = [], 0, 0
    for state in iterate(problem, portions, first, centroids, max_excess=max_excess):
        history.append(state.record)
        scored, rechecked = scored + state.n_scored, rechecked + state.n_rechecked
        yield state
    if compute_labels:
        result = finish(problem, state.centroids, tuple(history), state.stop or StopReason.MAX_ITER, keep_labels)
    else:
        result = FitResult(
            centroids=state.centroids,
            labels=None,
            inertia=state.record.inertia,
            counts=state.counts,
            weights=state.weights,
            n_samples=problem.scan.n_samples,
            total_weight=problem.total_weight,
            n_iter=len(history),
            stop=state.stop or StopReason.MAX_ITER,
            history=tuple(history),
        )
    name = method if isinstance(method, str) else "array" if isinstance(method, np.ndarray) else "callable"
    return replace(
        result,
        n_init=starts,
        n_scored=result.n_scored + scored,
        n_rechecked=result.n_rechecked + rechecked,
        rechecks=selection.backend.rechecks(),
        backend=selection.backend.name,
        rejected=selection.rejected,
        warnings=doubts_of(problem, result),
        settings={
            "algorithm": "minibatch",
            "n_clusters": n_clusters,
            "init": name,
            "n_init": starts,
            "batch_size": first_rows,
            "init_size": init_rows,
            "max_iter": max_iter,
            "tol": float(tol),
            "max_excess": float(max_excess),
            "seed": int(seed),
            "metric": metric,
        },
    )


def _start(sample: Problem, method: Init, starts: int, k: int, seed: int) -> np.ndarray:
    """The best of some starts, by the inertia of the rows they are made from."""
    source = sample.shards[0].source
    best, least = None, None
    for start in range(starts):
        start_seed = seed if start == 0 else int(rng.raw(seed, rng.Purpose.RESTART, start, 1)[0])
        centroids = _one_start(sample, method, k, start_seed, source)
        if starts == 1:
            return centroids
        inertia = _inertia(sample, centroids)
        if least is None or inertia < least:
            best, least = centroids, inertia
    assert best is not None
    return best


def _one_start(sample: Problem, method: Init, k: int, seed: int, source: Source) -> np.ndarray:
    """Centroids of one start, in the dtype of the rows."""
    breathing = isinstance(method, str) and method == "breathing"
    found = start_from(sample, "random" if breathing else method, k, seed, source)
    centroids = np.ascontiguousarray(found, dtype=sample.fixed.dtype)
    return breathe(sample, centroids, seed) if breathing and sample.scan.n_positive > k else centroids


def _inertia(sample: Problem, centroids: np.ndarray) -> int:
    """Exact inertia of the sample."""
    shard = sample.shards[0]
    shard.begin(sample.fixed.grid)
    return shard.finish(centroids, sample.fixed.frame, keep_labels=False).inertia


def stream_step(
    source: Any,
    n_clusters: int,
    state: StreamState | None = None,
    *,
    init: Init = "auto",
    n_init: int | str = "auto",
    half_life: float | None = None,
    max_move: float | None = None,
    sample_weight: Any = None,
    seed: int = 0,
    metric: str = "euclidean",
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    read_rows: int | None = None,
) -> tuple[StreamState, tuple[HeldBack, ...]]:
    """Take more rows of a stream into account, as :func:`gpukm.core.stream.update` describes it.

    Parameters
    ----------
    source : array, Arrow or DLPack object, path or Source
        The new rows.
    n_clusters : int
    state : StreamState or None
        What the call before returned; None makes centroids from the new rows first, by ``init``.
    half_life, max_move : float or None
        As :func:`gpukm.core.stream.update` has them; positive, and at least zero.

    Returns
    -------
    (StreamState, tuple of HeldBack)
    """
    n_clusters = positive("n_clusters", n_clusters)
    if half_life is not None and not half_life > 0:
        raise ConfigError(f"half_life is {half_life!r}, expected a number above 0, or None")
    if max_move is not None and not max_move >= 0:
        raise ConfigError(f"max_move is {max_move!r}, expected a number >= 0, or None")
    selection = select_for(source, backend, device, threads)
    rows = as_source(source, sample_weight, metric, selection)
    least = n_clusters if state is None else 1
    problem = look_at(rows, selection, least, 1, 0.0, metric, read_rows, None, 1)
    if state is None:
        method, starts = _method(init, n_init, problem, n_clusters)
        state = StreamState.start(_start(problem, method, starts, n_clusters, seed))
    if state.centroids.shape != (n_clusters, rows.n_features):
        raise ConfigError(
            f"the stream has centroids of shape {state.centroids.shape}, expected {(n_clusters, rows.n_features)}; "
            "go on with the same number of clusters and features"
        )
    centroids = np.ascontiguousarray(state.centroids, dtype=rows.dtype)
    for shard in problem.shards:
        shard.begin(problem.fixed.grid)
    seen = observe(problem, centroids)
    return update(state, seen, half_life=half_life, max_move=max_move, spherical=metric == "cosine")


def _method(init: Init, n_init: int | str, problem: Problem, k: int) -> tuple[Init, int]:
    """What seeds, and how many starts are tried."""
    method: Init = "breathing" if isinstance(init, str) and init == "auto" else init
    if isinstance(method, str) and method == "breathing":
        return method, 1 if n_init == "auto" else positive("n_init", n_init)
    method, starts = resolve_init(method, n_init, problem.scan.n_samples, len(problem.fixed.reference), k)
    return method, min(starts, 3) if n_init == "auto" else starts
