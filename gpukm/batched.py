"""Many k-means problems at once: each as a fit of its own, to the bit, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpukm.backends import Selection
from gpukm.backends.batch import Fits, Problems
from gpukm.backends.gpu_rows import joined
from gpukm.backends.select import gpu_array, select_for
from gpukm.core import rng
from gpukm.core.batch import BatchedResult
from gpukm.core.result import FitResult, on_host
from gpukm.core.seeding import auto_init, trials
from gpukm.errors import ConfigError, DataError
from gpukm.functional import INITS, Init, as_source, check_rules, count_starts, doubts, kmeans, on_device
from gpukm.small import METHODS, STOPS
from gpukm.sources.array import ArraySource, check_weights
from gpukm.sources.device import DeviceSource

#: Rows of one matrix, or of all: where they are.
_Matrix = ArraySource | DeviceSource

#: Problems given to a backend at a time: their records take memory until they are cut to what was used.
_AT_ONCE = 4096


def kmeans_batched(
    x: Any,
    n_clusters: int,
    *,
    offsets: Any = None,
    groups: Any = None,
    init: Init = "auto",
    n_init: int | str = "auto",
    max_iter: int = 300,
    tol: float = 1e-4,
    sample_weight: Any = None,
    seed: Any = 0,
    metric: str = "euclidean",
    backend: str = "auto",
    device: str = "auto",
    precision: str = "exact",
    threads: int | None = None,
    names: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
) -> BatchedResult:
    """Cluster the rows of each of many problems into ``n_clusters`` groups.

    Problem b gets what :func:`gpukm.kmeans` makes of its rows and the seed ``result.seeds[b]``: the same bits of
    centroids, labels and inertia, the same iterations and reason to stop. Small problems are solved side by side: where
    the native kernels run, by a thread each (up to 2**18 values and 2**20 distances an iteration), and on a GPU by a
    block of threads each (up to 2**20 values, 2**22 distances and 1,024 clusters). Larger ones, and all on the NumPy
    backend or with ``init`` pooled or callable, are solved one after another.

    Parameters
    ----------
    x : array of shape (B, n_samples, n_features), or of shape (n_rows, n_features), or sequence of B matrices
        Rows; of a matrix ``offsets`` or ``groups`` tells which problem a row belongs to. Never changed. Arrays on a GPU
        are shared, and leave the labels there; matrices of a sequence, and rows in groups, are put together there.
    n_clusters : int
        The same for all.
    offsets : array of int of shape (B + 1,) or None
        Problem b has the rows ``offsets[b]:offsets[b + 1]`` of a matrix; from 0 to n_rows.
    groups : array of shape (n_rows,) or None
        A value a row of a matrix; rows of equal values are a problem, in ascending order of the values.
    init : {"auto", "k-means++", "random", "pooled"}, array or callable
        As in :func:`gpukm.functional.fit_iter`; an array has the shape (B, n_clusters, n_features), or
        (n_clusters, n_features) for the same start everywhere.
    n_init, max_iter, tol, metric, backend, device, precision, threads
        As in :func:`gpukm.functional.fit_iter`; ``tol`` is relative to each problem's own variance.
    sample_weight : array or sequence or None
        Of the shape of ``x`` without features.
    seed : int, or array of int of shape (B,)
        An integer is the seed of problem 0, and problem b > 0 has element b of the Philox stream of
        (seed, ``Purpose.PROBLEM``), see :func:`problem_seeds`; an array gives the seed of each.
    names : sequence of str or None
        Names of the features, for warnings.
    keys : sequence of str or None
        What messages call the problems; None counts them.

    Returns
    -------
    BatchedResult

    Raises
    ------
    ConfigError
        For a setting out of range, or problems that cannot be told apart.
    DataError
        For data that cannot be clustered; the message begins with the problem.
    """
    n_clusters, max_iter = check_rules(n_clusters, max_iter, tol, metric)
    if precision != "exact":
        raise ConfigError(f"precision is {precision!r}, expected 'exact'; only kmeans() knows another")
    first = next((part for part in x if gpu_array(part)), None) if isinstance(x, Sequence) else x
    selection = select_for(first, backend, device, threads)
    shared = gpu_array(first)
    place = device if shared is None else shared[1]
    rows = _Rows.of(x, sample_weight, offsets, groups, ArraySource if shared is None else _placed_by(selection))
    if keys is not None and len(keys) != len(rows.sizes):
        raise ConfigError(f"there are {len(keys)} keys for {len(rows.sizes)} problems; expected one for each")
    rows = replace(rows, keys=keys)
    n = rows.sizes
    small = np.flatnonzero(n < n_clusters)
    if len(small):
        b = int(small[0])
        raise DataError(
            f"{rows.name(b)}: n_samples={n[b]} should be >= n_clusters={n_clusters}; ask for fewer clusters"
            + (f" ({len(small)} of {len(n)} problems have too few rows)" if len(small) > 1 else "")
        )
    init = _check_init(init, len(n), n_clusters, rows.held.n_features, rows.held.dtype)
    start = init if isinstance(init, np.ndarray) else None
    starts = count_starts(init, n_init)
    methods = _methods(init, n, n_clusters)
    seeds = _seeds(seed, len(n))
    problems = Problems(
        x=_as_clustered(rows, metric, selection),
        dtype=rows.held.dtype,
        weight=rows.weight,
        offsets=rows.offsets,
        seeds=seeds,
        start=start,
        n_clusters=n_clusters,
        trials=0 if isinstance(init, str) and init == "random" else trials(n_clusters),
        n_init=starts,
        max_iter=max_iter,
        tol=float(tol),
        spherical=metric == "cosine",
    )
    native = np.array([method in (*METHODS, "array") for method in methods], bool)
    takes = selection.backend.takes(n, rows.held.n_features, n_clusters) & native
    columns = None if names is None else tuple(names)

    def alone(b: int) -> FitResult:
        """One problem by the ordinary engine."""
        with _named(rows, b):
            own = rows.part(b)
            own.names = columns
            return kmeans(
                own,
                n_clusters,
                init=init if start is None else start[b],
                n_init=starts,
                max_iter=max_iter,
                tol=tol,
                seed=int(seeds[b]),
                metric=metric,
                backend=selection.backend.name,
                device=place,
                threads=threads,
            )

    fits, history, warnings = _solve(problems, takes, selection, alone, columns)
    labels = fits.labels
    if rows.order is not None:
        labels = np.empty_like(fits.labels)
        labels[rows.order] = fits.labels
    labels = labels.reshape(rows.shape)
    return BatchedResult(
        centroids=fits.centroids,
        labels=rows.held.device.place(labels) if isinstance(rows.held, DeviceSource) else labels,
        inertia=fits.inertia,
        counts=fits.counts,
        weights=fits.weights,
        n_samples=n,
        total_weight=fits.total_weight,
        n_iter=fits.n_iter,
        init=methods,
        stop=tuple(STOPS[i] for i in fits.stop.tolist()),
        history=tuple(history),
        seeds=seeds,
        offsets=rows.offsets,
        rows=rows.order,
        groups=rows.groups,
        n_init=starts,
        best_init=fits.best_init,
        # Every pass labels every row: one an iteration, and the last.
        n_scored=n * (fits.n_iter + 1),
        n_rechecked=fits.n_rechecked,
        backend=selection.backend.name,
        rejected=selection.rejected,
        warnings=tuple(warnings),
        settings={
            "n_clusters": n_clusters,
            "n_init": starts,
            "max_iter": max_iter,
            "tol": float(tol),
            "metric": metric,
            "precision": precision,
            "quality": "standard",
        },
    )


def problem_seeds(seed: int, n_problems: int) -> np.ndarray:
    """Seeds of problems made from one, uint64 of shape (n_problems,): the seed itself, then a Philox stream of it."""
    seeds = rng.raw(seed, rng.Purpose.PROBLEM, 0, n_problems)
    seeds[:1] = seed
    return seeds


@dataclass(frozen=True)
class _Rows:
    """Rows of all problems, one after another.

    ``order`` tells where they stood when they were brought in groups, ``shape`` that of the labels.
    """

    held: _Matrix
    weight: np.ndarray | None
    offsets: np.ndarray
    shape: tuple[int, ...]
    order: np.ndarray | None = None
    groups: np.ndarray | None = None
    keys: Sequence[str] | None = None

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each problem."""
        return np.diff(self.offsets)

    def name(self, b: int) -> str:
        """What a message calls a problem."""
        if self.keys is not None:
            return self.keys[b]
        return f"problem {b}" if self.groups is None else f"group {self.groups[b]}"

    def part(self, b: int) -> _Matrix:
        """The rows of a problem."""
        mine = slice(int(self.offsets[b]), int(self.offsets[b + 1]))
        weight = None if self.weight is None else self.weight[mine]
        if isinstance(self.held, DeviceSource):
            return DeviceSource(self.held.x[mine], self.held.device, weight)
        return ArraySource(self.held.x[mine], weight)

    @classmethod
    def of(cls, x: Any, weight: Any, offsets: Any, groups: Any, make: Callable[[Any], _Matrix]) -> _Rows:
        """Make sense of what a caller brings; ``make`` knows a matrix where it is."""
        if offsets is not None and groups is not None:
            raise ConfigError("both offsets and groups are given; expected one of them")
        if isinstance(x, Sequence):
            if offsets is not None or groups is not None:
                raise ConfigError("a sequence of matrices tells its problems; leave out offsets and groups")
            return cls._of_parts(x, weight, make)
        if make is ArraySource:
            if np.ma.is_masked(x):
                raise DataError("the data is a masked array; fill it first")
            x = np.asarray(on_host(x))
        if len(x.shape) == 3:
            if offsets is not None or groups is not None:
                raise ConfigError("an array of three axes tells its problems; leave out offsets and groups")
            b, n, d = x.shape
            matrix = make(x.reshape(b * n, d))
            return cls._checked(matrix, weight, n * np.arange(b + 1, dtype=np.int64), (b, n))
        if len(x.shape) != 2:
            raise DataError(
                f"the data has shape {tuple(x.shape)}, expected (problems, rows, features) or (rows, features)"
            )
        if groups is not None:
            return cls._of_groups(make(x), weight, groups)
        if offsets is None:
            raise ConfigError(
                "the data is one matrix; give offsets or groups to tell its problems apart, or use kmeans"
            )
        offsets = _check_offsets(offsets, len(x))
        return cls._checked(make(x), weight, offsets, (len(x),))

    @classmethod
    def _checked(cls, matrix: _Matrix, weight: Any, offsets: np.ndarray, shape: tuple[int, ...]) -> _Rows:
        """Weights of the shape of the labels."""
        if weight is not None:
            weight = np.asarray(on_host(weight))
            if weight.shape != shape:
                raise DataError(f"sample_weight has shape {weight.shape}, expected {shape}")
            weight = _check_weights(weight.reshape(-1), offsets)
        return cls(matrix, weight, offsets, shape)

    @classmethod
    def _of_parts(cls, parts: Sequence[Any], weight: Any, make: Callable[[Any], _Matrix]) -> _Rows:
        """One matrix a problem."""
        matrices = []
        for b, part in enumerate(parts):
            try:
                matrices.append(make(part))
            except DataError as error:
                raise DataError(f"problem {b}: {error}") from None
        kinds = {(m.n_features, m.dtype.name) for m in matrices}
        if len(kinds) > 1:
            shown = " and ".join(f"{d} features of {dtype}" for d, dtype in sorted(kinds)[:2])
            raise DataError(f"the problems have {shown}; expected the same for all, so convert them first")
        if not matrices:
            raise DataError("there are no problems; give at least one")
        sizes = [m.n_rows for m in matrices]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        if weight is not None:
            if len(weight) != len(sizes) or any(tuple(np.shape(w)) != (n,) for w, n in zip(weight, sizes, strict=True)):
                raise DataError("sample_weight does not fit the problems; expected one number for each row of each")
            weight = np.concatenate([np.asarray(on_host(w)) for w in weight])
        first, xs = matrices[0], [m.x for m in matrices]
        whole: _Matrix
        if isinstance(first, DeviceSource):
            whole = DeviceSource(joined(first.device, xs), first.device)
        else:
            whole = ArraySource(np.concatenate(xs))
        return cls._checked(whole, weight, offsets, (int(offsets[-1]),))

    @classmethod
    def _of_groups(cls, matrix: _Matrix, weight: Any, groups: Any) -> _Rows:
        """Rows brought together group by group, each in the order it had."""
        groups, n = np.asarray(on_host(groups)), matrix.n_rows
        if groups.shape != (n,):
            raise ConfigError(f"groups has shape {groups.shape}, expected ({n},): a value for each row")
        try:
            values, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
        except TypeError:
            raise ConfigError("groups holds values that cannot be ordered; give numbers or text") from None
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise DataError("groups holds NaN; give every row a group, or leave such rows out")
        order = np.argsort(codes, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        if weight is not None:
            weight = np.asarray(on_host(weight))
            if weight.shape != (n,):
                raise DataError(f"sample_weight has shape {weight.shape}, expected ({n},)")
            weight = weight[order]
        found = cls._checked(matrix.pick(order), weight, offsets, (n,))
        return cls(found.held, found.weight, offsets, found.shape, order, values)


def _check_offsets(offsets: Any, n_rows: int) -> np.ndarray:
    """Offsets as int64, ascending from 0 to the number of rows."""
    found = np.asarray(offsets)
    if found.ndim != 1 or found.dtype.kind not in "iu" or len(found) < 2:
        raise ConfigError(
            f"offsets has shape {found.shape} and dtype {found.dtype}, expected integers (problems + 1,): "
            "where each problem begins, and the number of rows"
        )
    found = found.astype(np.int64)
    if found[0] != 0 or found[-1] != n_rows or (np.diff(found) < 0).any():
        raise ConfigError(f"offsets go from {found[0]} to {found[-1]}; expected ascending ones from 0 to {n_rows}")
    return found


def _check_weights(weight: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Weights as float64; an error names the problem and the row within it."""
    try:
        return check_weights(weight, len(weight))
    except DataError:
        for b in range(len(offsets) - 1):
            mine = slice(int(offsets[b]), int(offsets[b + 1]))
            try:
                check_weights(weight[mine], mine.stop - mine.start)
            except DataError as error:
                raise DataError(f"problem {b}: {error}") from None
        raise


def _check_init(init: Init, b: int, k: int, d: int, dtype: np.dtype) -> Init:
    """A method's name, a callable, or the starts of all problems in the dtype of the rows."""
    if isinstance(init, str):
        if init not in INITS:
            raise ConfigError(f"init is {init!r}, expected one of {', '.join(INITS)}, an array or a callable")
        return init
    if callable(init):
        return init
    start = np.asarray(on_host(init))
    if start.shape not in ((b, k, d), (k, d)):
        raise ConfigError(f"init has shape {start.shape}, expected {(b, k, d)}, or {(k, d)} for all problems")
    if not np.isfinite(start).all():
        raise ConfigError("the initial centers contain NaN or infinity; give finite ones")
    return np.ascontiguousarray(np.broadcast_to(start, (b, k, d)), dtype=dtype)


def _methods(init: Init, n_samples: np.ndarray, k: int) -> tuple[str, ...]:
    """What each problem starts from, by name; ``auto`` is settled by its rows."""
    if isinstance(init, str) and init == "auto":
        return tuple(auto_init(n, k) for n in n_samples.tolist())
    name = init if isinstance(init, str) else "array" if isinstance(init, np.ndarray) else "callable"
    return (name,) * len(n_samples)


def _seeds(seed: Any, n: int) -> np.ndarray:
    """A seed for each problem."""
    given = np.asarray(seed)
    if given.dtype.kind not in "iu" or (given < 0).any():
        raise ConfigError(f"seed is {seed!r}, expected integers from 0 to 2**64 - 1")
    if given.ndim == 0:
        return problem_seeds(int(given), n)
    if given.shape != (n,):
        raise ConfigError(f"seed has shape {given.shape}, expected one integer, or ({n},): one for each problem")
    return np.ascontiguousarray(given, np.uint64)


def _placed_by(selection: Selection) -> Callable[[Any], DeviceSource]:
    """Knows a matrix on the device of the chosen backend."""
    return lambda matrix: on_device(matrix, selection)


def _as_clustered(rows: _Rows, metric: str, selection: Selection) -> Any:
    """Rows as the metric stores them: of unit length for cosine."""
    if metric != "cosine":
        return rows.held.x

    def normalised(matrix: _Matrix) -> Any:
        """Where they are."""
        if isinstance(matrix, DeviceSource):
            return matrix.normalised().x
        return as_source(matrix, None, metric, selection).array()

    try:
        return normalised(rows.held)
    except DataError:
        for b in range(len(rows.offsets) - 1):
            with _named(rows, b):
                normalised(rows.part(b))
        raise


@contextmanager
def _named(rows: _Rows, b: int) -> Iterator[None]:
    """Say in an error which problem it is about."""
    try:
        yield
    except (ConfigError, DataError) as error:
        kind = ConfigError if isinstance(error, ConfigError) else DataError
        raise kind(f"{rows.name(b)}: {error}") from None


def _solve(
    problems: Problems,
    takes: np.ndarray,
    selection: Selection,
    alone: Callable[[int], FitResult],
    names: tuple[str, ...] | None,
) -> tuple[Fits, list[np.ndarray], list[tuple[str, ...]]]:
    """Solve all problems: those that the backend ``takes`` together, what is left over one by one."""
    fits = Fits.empty(problems)
    history: list[np.ndarray] = []
    warnings: list[tuple[str, ...]] = []
    for first in range(0, len(takes), _AT_ONCE):
        part = slice(first, min(first + _AT_ONCE, len(takes)))
        chosen = np.flatnonzero(takes[part])
        records = dict.fromkeys(range(part.stop - part.start), np.empty((0, 4)))
        if len(chosen):
            found = selection.backend.solve(problems.part(part), chosen, fits.part(part))
            records.update(zip(chosen.tolist(), found, strict=True))
        doubtful = fits.constant[part].any(axis=1) | (fits.counts[part] == 0).any(axis=1)
        for b in range(part.start, part.stop):
            if fits.solved[b]:
                said = doubts(np.flatnonzero(fits.constant[b]), names, fits.counts[b]) if doubtful[b - first] else ()
                history.append(records[b - first])
                warnings.append(said)
                continue
            result = alone(b)
            _fill(fits, b, problems, result)
            history.append(np.array([(r.inertia, r.shift, r.n_moved, r.n_empty) for r in result.history]))
            warnings.append(result.warnings)
    return fits, history, warnings


def _fill(fits: Fits, b: int, problems: Problems, result: FitResult) -> None:
    """Put a fit of its own beside the others."""
    fits.centroids[b] = result.centroids
    fits.labels[problems.offsets[b] : problems.offsets[b + 1]] = on_host(result.labels)
    fits.counts[b], fits.weights[b] = result.counts, result.weights
    fits.inertia[b], fits.total_weight[b] = result.inertia, result.total_weight
    fits.n_iter[b], fits.best_init[b], fits.n_rechecked[b] = result.n_iter, result.best_init, result.n_rechecked
    fits.stop[b] = STOPS.index(result.stop)
