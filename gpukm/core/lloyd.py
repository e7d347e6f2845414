"""Lloyd's algorithm as a generator of states (Lloyd, "Least squares quantization in PCM", 1982)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count
from typing import Any

import numpy as np

from gpukm.backends.base import Backend, Effort, Frame, Made
from gpukm.core.exact import fold, row_distances, to_float
from gpukm.core.result import IterationRecord, StopReason
from gpukm.core.shard import Candidate, Scan, Shard, Step, first_candidates, plain, step_together
from gpukm.core.stats import ClusterStats, Grid
from gpukm.executors.base import Executor, Handle, Opener, Placement, Rounds, together

#: Numbers of loops: a shard begins anew for every one of them, wherever it is opened.
_RUNS = count(1)


@dataclass(frozen=True)
class Fixed:
    """What every step of a fit is given.

    Attributes
    ----------
    grid : Grid
    frame : Frame
    reference : ndarray of shape (n_features,)
        A point near the data, in the working dtype.
    dtype : numpy.dtype
        Of the centroids.
    spherical : bool
        Centroids have length one.
    """

    grid: Grid
    frame: Frame
    reference: np.ndarray
    dtype: np.dtype
    spherical: bool


@dataclass(frozen=True)
class Ending:
    """When the loop ends, wherever that is decided.

    Attributes
    ----------
    fixed : Fixed
    tol : float
    max_iter : int
    weight, spread : float
        Of all rows; see :class:`Scan`.
    """

    fixed: Fixed
    tol: float
    max_iter: int
    weight: float
    spread: float

    def variance(self, total: ClusterStats) -> float:
        """Mean over features of the weighted variance, from the order-free total of all clusters."""
        reference = self.fixed.reference
        mean = total.sums(self.fixed.grid)[0] / self.weight
        offset = float(row_distances(mean[None], reference[None].astype(np.float64))[0])
        return max(self.spread / self.weight - offset, 0.0) / len(mean)

    def tolerance(self, total: ClusterStats | None) -> float:
        """The summed squared shift that ends the loop; ``total`` is that of the first iteration."""
        assert total is not None
        return self.tol * self.variance(total)

    def reason(self, settled: bool, shift: float, tolerance: float, iteration: int) -> StopReason | None:
        """Why to stop after an iteration, if at all."""
        if settled:
            return StopReason.CONVERGED
        if shift <= tolerance and self.tol > 0:
            return StopReason.TOLERANCE
        return StopReason.MAX_ITER if iteration == self.max_iter else None


@dataclass(frozen=True)
class Problem:
    """What stays the same during a fit: the rows, what the first look at them told, and the rules to stop.

    Attributes
    ----------
    rows : Placement
        Shards.
    executor : Executor
    backend : Opener
        The backend of work that is no shard's.
    scan : Scan
    sizes : tuple of int
        Kept rows of each shard.
    weighted : bool
        Whether rows have weights.
    fixed : Fixed
    max_iter : int
    tol : float
    names : tuple of str or None
        Of the features.
    backends : tuple of str
        Names of the backends that shards work on.
    """

    rows: Placement
    executor: Executor
    backend: Opener
    scan: Scan
    sizes: tuple[int, ...]
    weighted: bool
    fixed: Fixed
    max_iter: int
    tol: float
    names: tuple[str, ...] | None = None
    backends: tuple[str, ...] = ()

    @cached_property
    def shared(self) -> Handle:
        """What steps get for ``fixed``."""
        return self.executor.share(self.fixed)

    @cached_property
    def ending(self) -> Ending:
        """When its loop ends."""
        return Ending(self.fixed, self.tol, self.max_iter, self.total_weight, to_float(self.scan.spread))

    @property
    def total_weight(self) -> float:
        """Summed sample weight."""
        return to_float(self.scan.weight)

    @property
    def shards(self) -> list[Shard]:
        """The shards, of a fit in this process."""
        shards: list[Shard] = self.rows.parts  # type: ignore[attr-defined]
        return shards


class Centroids:
    """Centroids that lie where steps and means are made, in pieces of consecutive ones."""

    def __init__(self, problem: Problem, handles: Sequence[Handle]) -> None:
        self._executor, self.handles = problem.executor, list(handles)

    @classmethod
    def of(cls, problem: Problem, array: np.ndarray) -> Centroids:
        """Share centroids (n_clusters, n_features) that are here."""
        found = cls(problem, [problem.executor.share(Moved(array[part])) for part in _parts(problem, *array.shape)])
        found.array = array
        return found

    @cached_property
    def array(self) -> np.ndarray:
        """All of them, here."""
        return _joined([self._executor.fetch(handle) for handle in self.handles])


@dataclass(frozen=True)
class Moved:
    """Some consecutive centroids after an iteration, and what it told of them; only ``centroids`` at first.

    Attributes
    ----------
    centroids : ndarray of shape (n, n_features)
    shifts, gains : ndarray of float64 of shape (n,)
        As of :meth:`Backend.means`.
    empty : ndarray of int64
        Numbers of clusters that have no centre of their own.
    settled : bool
        All are as they were.
    totals : ClusterStats or None
        All sums together, after the first iteration.
    step : Step or None
        What labelling took, on the first piece; without sums.
    """

    centroids: np.ndarray
    shifts: np.ndarray = field(default_factory=lambda: np.empty(0))
    gains: np.ndarray = field(default_factory=lambda: np.empty(0))
    empty: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    settled: bool = False
    totals: ClusterStats | None = None
    step: Step | None = None


@dataclass(frozen=True)
class Decision:
    """What an iteration comes to, all clusters together."""

    shift: float
    gain: float
    empty: np.ndarray
    settled: bool
    totals: ClusterStats | None
    step: Step


@dataclass(frozen=True)
class LloydState:
    """The loop after an iteration, or after several where a backend makes them by itself.

    Attributes
    ----------
    reached : Centroids
        What the last iteration arrived at, where it lies.
    records : tuple of IterationRecord
        Of the iterations since the state before.
    tolerance : float
        Absolute tolerance of the summed squared shift, known once the variance is.
    stop : StopReason or None
        Set in the last state.
    n_scored, n_rechecked : int
        Rows labelled in these iterations, and rows that screening could not settle.
    effort : Effort
        How much of the labelling could be avoided.
    """

    reached: Centroids
    records: tuple[IterationRecord, ...]
    tolerance: float
    stop: StopReason | None
    n_scored: int
    n_rechecked: int
    effort: Effort

    @property
    def record(self) -> IterationRecord:
        """Of the last iteration."""
        return self.records[-1]

    @property
    def centroids(self) -> np.ndarray:
        """What the last iteration arrived at, of shape (n_clusters, n_features); brought here when first asked for."""
        return self.reached.array


def iterate(problem: Problem, centroids: np.ndarray, first_iteration: int = 1) -> Iterator[LloydState]:
    """Iterate from ``centroids`` until nothing moves, little moves, or ``max_iter`` is reached.

    Parameters
    ----------
    problem : Problem
    centroids : ndarray of shape (n_clusters, n_features)
    first_iteration : int
        Number of the first iteration, larger than one when a fit is resumed.

    Yields
    ------
    LloydState
        The last one has ``stop`` set.
    """
    executor, run = problem.executor, next(_RUNS)
    parts = _parts(problem, *centroids.shape)
    current = Centroids.of(problem, centroids)
    tolerance: float | None = None
    done, stop = first_iteration - 1, None
    ahead: _Iteration | None = None
    while stop is None and done < problem.max_iter:
        begun = 0, 0
        if tolerance is not None:
            for made in _made(problem, current, tolerance, problem.max_iter - done):
                current, begun = Centroids.of(problem, made.centroids), made.pending or (0, 0)
                if len(made.lines):
                    state = _state_made(problem, made, current, tolerance, done)
                    done, stop = state.record.iteration, state.stop
                    yield state
            if stop is not None or done == problem.max_iter:
                return
        rounds = _rounds(problem, run, parts, current, tolerance, problem.max_iter - done) if ahead is None else None
        if rounds is not None:
            tolerance = problem.ending.tolerance(rounds.told[0].totals) if tolerance is None else tolerance
            # One that leaves clusters empty ends here, as any other iteration does.
            whole = [made for made in rounds.told if not len(made.empty)]
            all_whole = len(whole) == len(rounds.told)
            reached: Moved = rounds.value if all_whole else rounds.before
            current = Centroids.of(problem, reached.centroids)
            if whole:
                state = _state_of(problem, whole, current, tolerance, done)
                done, stop = state.record.iteration, state.stop
                yield state
            if all_whole:
                continue
            turn, renewed = _Iteration([executor.share(rounds.value)]), False
            told: Decision = rounds.told[-1]
        else:
            turn = _iteration(problem, run, parts, current.handles, tolerance is None) if ahead is None else ahead
            decision, ahead = executor.apply(_decide, *turn.pieces), None
            renewed = executor.chain is not None and (done + 1) % executor.chain == 0
            if executor.ahead and not renewed:
                # Even if this was the last iteration: then these are the final labels.
                ahead = _iteration(problem, run, parts, turn.pieces, False)
            told = executor.fetch(decision)
        inertia, n_empty = display_inertia(problem, told.gain), len(told.empty)
        tolerance = problem.ending.tolerance(told.totals) if tolerance is None else tolerance
        step, settled, shift = told.step, told.settled, told.shift
        if n_empty:
            ahead = None
            moves = _moves(problem, told.empty, *current.handles)
            turn = _moved_again(problem, parts, turn, current.handles, moves)
            told = executor.fetch(executor.apply(_decide, *turn.pieces))
            settled, shift = told.settled, told.shift
        done += 1
        record = IterationRecord(done, inertia, shift, begun[0] + step.n_moved, n_empty)
        stop = problem.ending.reason(settled, shift, tolerance, done)
        current = Centroids(problem, turn.pieces)
        rechecked = begun[1] + step.n_rechecked
        yield LloydState(current, (record,), tolerance, stop, step.n_scored, rechecked, step.effort)
        if renewed and stop is None:
            current = Centroids.of(problem, current.array)


@dataclass(frozen=True)
class _Advance:
    """How iterations follow each other where the executor makes several of them at once."""

    ending: Ending
    backend: Opener
    part: slice
    tolerance: float | None

    def __call__(self, step: Step, before: Moved, told: list[Decision]) -> tuple[Moved, Decision, bool]:
        """Move the centroids, and tell whether that was the last time."""
        tolerance = self.tolerance
        moved = _move_last(step, self.ending.fixed, before, self.backend, self.part, tolerance is None and not told)
        decision = _decide(moved)
        if tolerance is None:
            tolerance = self.ending.tolerance((told[0] if told else decision).totals)
        # How many there may be at most is seen to by who makes them.
        reason = self.ending.reason(decision.settled, decision.shift, tolerance, 0)
        return moved, decision, reason is None and not len(decision.empty)


def _rounds(
    problem: Problem, run: int, parts: list[slice], current: Centroids, tolerance: float | None, most: int
) -> Rounds | None:
    """Iterations that the executor makes without being asked for each; None where it makes none."""
    if len(parts) > 1:
        return None
    advance = _Advance(problem.ending, problem.backend, parts[0], tolerance)
    size = 16 * parts[0].stop * len(problem.fixed.reference)
    made = problem.rows.rounds(
        _step, Step.merge, advance, current.handles[0], problem.shared, run, most=most, size_bytes=size
    )
    return made if made is not None and made.told else None


#: Clusters and the rows they are given.
Moves = Sequence[tuple[int, Candidate]]


def _parts(problem: Problem, k: int, d: int) -> list[slice]:
    """Consecutive centroids that are summed and moved together."""
    n = min(k, problem.executor.pieces(16 * k * d))
    return [slice(k * i // n, k * (i + 1) // n) for i in range(n)]


def _joined(pieces: Sequence[Moved]) -> np.ndarray:
    """All centroids; those of one piece as they are, by which a shard knows them again."""
    return pieces[0].centroids if len(pieces) == 1 else np.concatenate([piece.centroids for piece in pieces])


@together
def _step(shards: list[Shard], fixed: Fixed, run: int, *pieces: Moved) -> Step:
    """Some shards' part of an iteration."""
    for shard in shards:
        shard.begin_run(run, fixed.grid)
    return step_together(shards, _joined(pieces), fixed.frame)


def _cut(step: Step, parts: Sequence[slice]) -> list[Step]:
    """A step in pieces of clusters; what concerns them all stays with the first."""
    none = Effort(frozenset(), 0, 0)
    first = Step(step.stats.part(parts[0]), step.n_moved, step.n_scored, step.n_rechecked, step.effort)
    return [first, *(Step(step.stats.part(part), 0, 0, 0, none) for part in parts[1:])]


@dataclass(frozen=True)
class _Iteration:
    """Pieces of centroids after an iteration; and the sums they were made of, where these were merged apart."""

    pieces: list[Handle]
    steps: list[Handle] | None = None


def _iteration(problem: Problem, run: int, parts: list[slice], before: Sequence[Handle], first: bool) -> _Iteration:
    """Take a step on every shard, merge what they say, and move the centroids."""
    rows, backend, fixed = problem.rows, problem.backend, problem.shared
    if len(parts) == 1:
        # Moved by the very task that merges: one less to wait for.
        last = partial(_move_last, backend=backend, part=parts[0], first=first)
        return _Iteration(rows.reduce(_step, Step.merge, fixed, run, *before, last=last, more=(fixed, before[0])))
    cut = partial(_cut, parts=parts)
    steps = rows.reduce(_step, Step.merge, fixed, run, *before, cut=cut, pieces=len(parts))
    return _Iteration(_moved(problem, parts, steps, before, first), steps)


def _moved_again(
    problem: Problem, parts: list[slice], made: _Iteration, before: Sequence[Handle], moves: Moves
) -> _Iteration:
    """The same iteration with some rows moved to empty clusters first."""
    if made.steps is not None:
        return _Iteration(_moved(problem, parts, made.steps, before, False, moves), made.steps)
    backend, fixed = problem.backend, problem.shared
    again = problem.executor.apply(_move_kept, backend, fixed, parts[0], made.pieces[0], before[0], moves)
    return _Iteration([again])


def _move_last(step: Step, fixed: Fixed, before: Moved, backend: Opener, part: slice, first: bool) -> Moved:
    """As :func:`_move`, keeping the sums where clusters are empty, for these to be moved again."""
    moved = _move(backend, fixed, part, step, before, first)
    return replace(moved, step=step) if len(moved.empty) else moved


def _move_kept(backend: Opener, fixed: Fixed, part: slice, moved: Moved, before: Moved, moves: Moves) -> Moved:
    """As :func:`_move`, of sums that were kept."""
    assert moved.step is not None
    return _move(backend, fixed, part, moved.step, before, False, moves)


def _moved(
    problem: Problem,
    parts: list[slice],
    steps: list[Handle],
    before: Sequence[Handle],
    first: bool,
    moves: Moves = (),
) -> list[Handle]:
    """All pieces moved."""
    return [
        problem.executor.apply(_move, problem.backend, problem.shared, part, step, piece, first, moves)
        for part, step, piece in zip(parts, steps, before, strict=True)
    ]


def _move(
    backend: Opener, fixed: Fixed, part: slice, step: Step, before: Moved, first: bool, moves: Moves = ()
) -> Moved:
    """Move some centroids to where their sums say."""
    stats = step.stats
    empty = without_centre(fixed, stats)
    if moves:
        stats = stats.copy()
        for cluster, candidate in moves:
            for sign, target in ((-1, candidate.label), (1, cluster)):
                if part.start <= target < part.stop:
                    stats.add(candidate.x, candidate.weight, target - part.start, sign, fixed.grid)
    updated, shifts, gains = advance(backend.open(), fixed, stats, before.centroids)
    return Moved(
        updated,
        shifts,
        gains,
        part.start + np.flatnonzero(empty),
        updated.tobytes() == before.centroids.tobytes(),
        stats.total() if first else None,
        Step(ClusterStats.zero(0, 0, False), step.n_moved, step.n_scored, step.n_rechecked, step.effort),
    )


def _decide(*pieces: Moved) -> Decision:
    """Put the pieces together, but for the centroids."""
    steps = [piece.step for piece in pieces if piece.step is not None]
    totals = [piece.totals for piece in pieces if piece.totals is not None]
    step = steps[0]
    for other in steps[1:]:
        step = step.merge(other)
    step = replace(step, stats=ClusterStats.zero(0, 0, False))
    total = totals[0] if totals else None
    for more in totals[1:]:
        total = more if total is None else total.merge(more)
    return Decision(
        fold(np.concatenate([piece.shifts for piece in pieces])),
        fold(np.concatenate([piece.gains for piece in pieces])),
        np.concatenate([piece.empty for piece in pieces]),
        all(piece.settled for piece in pieces),
        total,
        step,
    )


def _made(problem: Problem, current: Centroids, tolerance: float, most: int) -> Iterator[Made]:
    """Iterations that the backend makes by itself."""
    parts: list[Shard] = getattr(problem.rows, "parts", [])
    if len(parts) != 1 or problem.fixed.spherical:
        return iter(())
    fixed, least = problem.fixed, tolerance if problem.tol > 0 else -1.0
    return parts[0].run(current.array, fixed.frame, fixed.reference.astype(np.float64), least, most)


def _state_of(
    problem: Problem, made: Sequence[Decision], reached: Centroids, tolerance: float, done: int
) -> LloydState:
    """Say what several iterations came to."""
    records = tuple(
        IterationRecord(done + i, display_inertia(problem, one.gain), one.shift, one.step.n_moved, 0)
        for i, one in enumerate(made, 1)
    )
    last, number = made[-1], records[-1].iteration
    stop = problem.ending.reason(last.settled, last.shift, tolerance, number)
    scored, rechecked = sum(one.step.n_scored for one in made), sum(one.step.n_rechecked for one in made)
    return LloydState(reached, records, tolerance, stop, scored, rechecked, last.step.effort)


def _state_made(problem: Problem, made: Made, reached: Centroids, tolerance: float, done: int) -> LloydState:
    """Say what a backend made."""
    records = tuple(
        IterationRecord(done + i, display_inertia(problem, gain), shift, int(moved), 0)
        for i, (shift, gain, moved, _) in enumerate(made.lines.tolist(), 1)
    )
    stop = problem.ending.reason(made.settled, records[-1].shift, tolerance, records[-1].iteration)
    rows, rechecked = len(records) * problem.scan.n_samples, int(made.lines[:, 3].sum())
    return LloydState(reached, records, tolerance, stop, rows, rechecked, made.effort or plain(rows))


def without_centre(fixed: Fixed, stats: ClusterStats) -> np.ndarray:
    """Which clusters have no weight, or no direction, bool of shape (n_clusters,)."""
    empty = stats.weights(fixed.grid) <= 0
    if fixed.spherical:
        empty |= ~(stats.hi.any(axis=1) | stats.lo.any(axis=1))
    return empty


def _moves(problem: Problem, empty: np.ndarray, *pieces: Handle) -> Moves:
    """The rows farthest from their centroids for empty clusters, which are in ascending order."""
    n = len(empty)
    found: list[Candidate] = problem.executor.map_reduce(
        problem.rows, _farthest, partial(_first, n=n), problem.shared, n, *pieces
    )
    # Fewer candidates than empty clusters means fewer distinct rows than clusters: the rest stay as they are.
    return [(int(cluster), candidate) for cluster, candidate in zip(empty, found, strict=False)]


def _farthest(shard: Shard, fixed: Fixed, n: int, *pieces: Moved) -> list[Candidate]:
    """One shard's candidates."""
    return shard.farthest(_joined(pieces), fixed.frame, n)


def _first(a: list[Candidate], b: list[Candidate], n: int) -> list[Candidate]:
    """The first n of both."""
    return first_candidates(a + b, n)


def fill_empty(problem: Problem, stats: ClusterStats, centroids: np.ndarray) -> int:
    """Give empty clusters, in ascending order, the rows farthest from their centroids; return how many were empty."""
    empty = np.flatnonzero(without_centre(problem.fixed, stats))
    if len(empty):
        for cluster, candidate in _moves(problem, empty, Moved(centroids)):
            for sign, target in ((-1, candidate.label), (1, cluster)):
                stats.add(candidate.x, candidate.weight, target, sign, problem.fixed.grid)
    return len(empty)


def advance(
    backend: Backend, fixed: Fixed, stats: ClusterStats, centroids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Next centroids, their squared shifts, and the gains of :meth:`Backend.means`, each of length n_clusters."""
    updated, shifts, gains = backend.means(stats, fixed.grid, centroids, fixed.reference.astype(np.float64))
    if fixed.spherical:
        updated = _directions(fixed, stats, centroids)
        shifts = row_distances(updated, centroids)
    return updated, shifts, gains


def display_inertia(problem: Problem, gain: float) -> float:
    """Inertia from what clusters gained on the spread: cheap, and for display only, since large terms cancel."""
    return max(to_float(problem.scan.spread) + gain, 0.0)


def _directions(fixed: Fixed, stats: ClusterStats, previous: np.ndarray) -> np.ndarray:
    """Sums at length one, in the working dtype; a cluster without weight or direction keeps its centroid."""
    sums = stats.sums(fixed.grid)
    # D to the origin, in the fixed tree, is the squared length.
    lengths = np.sqrt(row_distances(sums, np.zeros_like(sums)))[:, None]
    used = (stats.weights(fixed.grid)[:, None] > 0) & (lengths > 0)
    mean = np.divide(sums, lengths, out=np.zeros_like(sums), where=used)
    return np.where(used, mean.astype(fixed.dtype), previous)


def finish_shard(shard: Shard, fixed: Fixed, centroids: np.ndarray, keep_labels: bool) -> Any:
    """Final labels of one shard against the centroids; see :meth:`Shard.finish`."""
    shard.begin_once(fixed.grid)
    return shard.finish(centroids, fixed.frame, keep_labels)
