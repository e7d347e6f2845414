"""Rows that live somewhere, with their per-row state; the only place that walks over data."""

from __future__ import annotations

import os
import tempfile
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from typing import Any, TypeVar

import numpy as np

from gpukm.backends.base import Backend, Effort, Frame, Made, Rechecks
from gpukm.backends.notices import say_once
from gpukm.core.exact import exact_sum
from gpukm.core.stats import ClusterStats, Grid
from gpukm.errors import DataError
from gpukm.sources.base import Batch, Source

T = TypeVar("T")

_SAMPLE_ROWS = 1024
#: Squares of larger values, and their sums, may leave float64.
_MOST_VALUE = 1e140
_STATE_ROWS = 1 << 20
_CHANGED = (
    "the data changed while it was read: {} rows in the first pass, {} now; train on a copy that nobody writes to"
)


@dataclass(frozen=True)
class Scan:
    """What one look at the data tells; mergeable.

    ``minimum``, ``maximum`` and ``spread`` cover rows of positive weight; ``spread`` is the exact sum of
    ``w * D(x, reference)``; ``sample`` holds some rows and serves screening only.
    """

    n_rows: int
    n_samples: int
    n_positive: int
    weighted: bool
    minimum: np.ndarray
    maximum: np.ndarray
    weight: int
    spread: int
    sample: np.ndarray

    def merge(self, other: Scan) -> Scan:
        """Both parts together."""
        return Scan(
            self.n_rows + other.n_rows,
            self.n_samples + other.n_samples,
            self.n_positive + other.n_positive,
            self.weighted or other.weighted,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.weight + other.weight,
            self.spread + other.spread,
            np.concatenate([self.sample, other.sample])[-8 * _SAMPLE_ROWS :],
        )


@dataclass(frozen=True)
class Step:
    """A shard's answer to one set of centroids; mergeable."""

    stats: ClusterStats
    n_moved: int
    n_scored: int
    n_rechecked: int
    effort: Effort

    def merge(self, other: Step) -> Step:
        """Both parts together."""
        return Step(
            self.stats.merge(other.stats),
            self.n_moved + other.n_moved,
            self.n_scored + other.n_scored,
            self.n_rechecked + other.n_rechecked,
            self.effort.merge(other.effort),
        )


@dataclass(frozen=True)
class Taken:
    """What a step took on one shard; mergeable."""

    n_moved: int
    n_scored: int
    n_rechecked: int
    effort: Effort

    def merge(self, other: Taken) -> Taken:
        """Both parts together."""
        return Taken(
            self.n_moved + other.n_moved,
            self.n_scored + other.n_scored,
            self.n_rechecked + other.n_rechecked,
            self.effort.merge(other.effort),
        )


class Sums:
    """Sums of the rows of some shards, under the labels that these keep.

    Parameters
    ----------
    members : tuple of int
        Numbers of the shards.

    Attributes
    ----------
    held : object of the backend or None
        Sums of rows whose labels are kept, from step to step.
    """

    def __init__(self, members: tuple[int, ...]) -> None:
        self.members, self.held = members, None
        self._now: Any = None  # of rows whose labels are not kept, for one step

    def of_all(self, backend: Backend, k: int, d: int, weighted: bool) -> Any:
        """Sums to which rows are added once, and from then on only move."""
        if self.held is None:
            self.held = backend.sums(k, d, weighted)
        return self.held

    def of_now(self, backend: Backend, k: int, d: int, weighted: bool) -> Any:
        """Sums of this step alone."""
        if self._now is None:
            self._now = backend.sums(k, d, weighted)
        return self._now

    def collect(self, backend: Backend, k: int, d: int) -> ClusterStats:
        """All of it, once a step."""
        parts = [backend.collect(sums) for sums in (self.held, self._now) if sums is not None]
        self._now = None
        return reduce(ClusterStats.merge, parts) if parts else ClusterStats.zero(k, d, False)


@dataclass(frozen=True)
class Final:
    """Final labels' totals; mergeable. ``inertia`` is exact, in units of 2**-1126; labels stay with the shard."""

    stats: ClusterStats
    inertia: int
    n_scored: int
    n_rechecked: int

    def merge(self, other: Final) -> Final:
        """Both parts together."""
        return Final(
            self.stats.merge(other.stats),
            self.inertia + other.inertia,
            self.n_scored + other.n_scored,
            self.n_rechecked + other.n_rechecked,
        )


@dataclass(frozen=True)
class Candidate:
    """A row that may become the centre of an empty cluster; ordered by (distance descending, row ascending)."""

    distance: float
    row: int
    label: int
    weight: float
    x: np.ndarray


@dataclass(frozen=True)
class Block:
    """Some consecutive kept rows: ``x`` (n, d), their weights, and where they stand among the shard's kept rows.

    ``x`` and ``placed_weight`` are where the backend works, ``weight`` is NumPy's.
    """

    x: Any
    weight: np.ndarray | None
    rows: slice
    row_numbers: np.ndarray | range
    placed_weight: Any


class RowState:
    """One number per row, where the backend works or, when rows are streamed, in an unlinked scratch file."""

    def __init__(self, n: int, dtype: Any, fill: float, backend: Backend | None) -> None:
        self._dtype = np.dtype(dtype)
        spill = backend is None
        self._array = None if backend is None else backend.place(np.full(n, fill, self._dtype))
        self._file = None
        if spill:
            # Read and written by plain calls: mapped pages would count as this process's memory.
            self._file = tempfile.TemporaryFile(prefix="gpukm-")  # noqa: SIM115
            weakref.finalize(self, self._file.close)
            for start in range(0, n, _STATE_ROWS):
                self._file.write(np.full(min(_STATE_ROWS, n - start), fill, self._dtype).tobytes())

    def close(self) -> None:
        """Free the memory or the scratch file."""
        self._array = None
        if self._file is not None:
            self._file.close()

    def read(self, rows: slice) -> Any:
        """Values of some rows; a view when they are in memory, which may then be changed in place of :meth:`write`."""
        if self._array is not None:
            return self._array[rows]
        if self._file is None:
            raise RuntimeError("read of row state that was closed")
        self._file.seek(rows.start * self._dtype.itemsize)
        data = bytearray(self._file.read((rows.stop - rows.start) * self._dtype.itemsize))
        return np.frombuffer(data, self._dtype)

    def write(self, rows: slice, values: np.ndarray) -> None:
        """Store values of some rows."""
        if self._array is not None:
            return
        if self._file is None:
            raise RuntimeError("write to row state that was closed")
        self._file.seek(rows.start * self._dtype.itemsize)
        self._file.write(np.ascontiguousarray(values).tobytes())


@dataclass
class _Followed:
    """What a fit keeps of a block that is read anew for every step: a tracker, and the labels of the last one."""

    tracker: Any
    labels: Any = None
    spare: Any = None  # memory for the next labels
    summed: bool = False  # whether the rows are in the shard's sums, under these labels


class Shard:
    """A stretch of a source on one backend.

    Parameters
    ----------
    source : Source
    backend : Backend
    batch_rows : int
        Source rows read at a time when the source is not in memory.
    start, stop : int
        Source rows of this shard; ``stop`` None reads to the end.
    follow_bytes : int
        Memory that labels and trackers of rows that are not in memory may take; later blocks go without.
    resident : bool
        Keep rows that are in memory where the backend works, all at once.
    number : int
        Which of the shards this is.
    row_numbers : ndarray of int64, range or None
        Of all rows of a source in memory; None counts them from 0.
    """

    def __init__(
        self,
        source: Source,
        backend: Backend,
        batch_rows: int,
        start: int = 0,
        stop: int | None = None,
        follow_bytes: int = 0,
        resident: bool = True,
        number: int = 0,
        row_numbers: np.ndarray | range | None = None,
    ) -> None:
        self.source, self.backend, self.batch_rows, self.number = source, backend, batch_rows, number
        self.start, self.stop, self.follow_bytes, self._numbers = start, stop, follow_bytes, row_numbers
        self.in_memory = source.array() is not None or source.placed() is not None
        self.resident = resident and self.in_memory
        self.n_samples = 0
        self.n_rows = 0
        self.looked = False
        self._placed: Block | None = None  # rows in memory, where the backend works
        self._labels: Any = None
        self._spare: Any = None  # where the next labels go, so that no iteration asks for new memory
        self._labels_for: np.ndarray | None = None
        self._found: Any = None  # labels that `finish` leaves
        self._found_for: np.ndarray | None = None
        self._final: Final | None = None
        self._sums: Sums | None = None  # where the rows of this shard are, under ``_labels``
        self._tracker: Any = None
        self._alone = False  # whether there was no memory for iterations that the backend makes by itself
        self._followed: list[_Followed | None] = []  # a block; those beyond are not known yet
        self._follow_room = follow_bytes
        self._grid: Grid | None = None
        self._run = self._k = 0  # the loop that labels and trackers are of, and its number of centroids
        self._nearest: RowState | None = None
        self._seeding: tuple[int, int] = (0, 0)  # which seeding, and how many of its seeds have been looked at
        self._weights: RowState | None = None
        #: Digest of the rows as they were read, where they may be read again elsewhere.
        self.digest: Callable[[], str] | None = None

    def open(self) -> Shard:
        """Itself: it is open already."""
        return self

    def blocks(self) -> Iterator[Block]:
        """All kept rows in order."""
        if self.resident:
            yield self._block()
            return
        done = 0
        for batch, x, weight in self._staged():
            n = len(batch.x)
            if self.n_samples and done + n > self.n_samples:
                raise DataError(_CHANGED.format(self.n_samples, done + n))
            if n:
                yield Block(x, batch.weight, slice(done, done + n), batch.row_numbers, weight)
            done += n
        if self.n_samples and done != self.n_samples:
            raise DataError(_CHANGED.format(self.n_samples, done))

    def _block(self) -> Block:
        """All rows, of a source in memory."""
        if self._placed is None:
            held, weight = self.source.placed(), self.source.weights()
            x: Any = self.source.array() if held is None else held
            rows = slice(self.start, len(x) if self.stop is None else self.stop)
            w = None if weight is None else weight[rows]
            inner = slice(0, rows.stop - rows.start)
            numbers = range(len(x)) if self._numbers is None else self._numbers
            self._placed = Block(self._place(x[rows]), w, inner, numbers[rows], self._place(w))
        return self._placed

    def _staged(self) -> Iterator[tuple[Batch, Any, Any]]:
        """Batches of a source that is not in memory, and their rows and weights where the backend works."""
        read: deque[Batch] = deque()

        def arrays() -> Iterator[tuple[np.ndarray | None, ...]]:
            for batch in self.source.batches(self.batch_rows, self.start, self.stop):
                read.append(batch)
                yield batch.x, batch.weight

        for x, weight in self.backend.stage(arrays()):
            yield read.popleft(), x, weight

    def _place(self, array: np.ndarray | None) -> Any:
        """An array where the backend works."""
        return None if array is None else self.backend.place(array)

    def scan(self, reference: np.ndarray, *, spread: bool = True) -> Scan:
        """Look at every row once: counts, range, weights, finiteness; without ``spread`` that one is left zero."""
        return self._within_memory(lambda: self._scan(reference, spread))

    def _scan(self, reference: np.ndarray, spread: bool) -> Scan:
        """Scan all blocks."""
        scan: Scan | None = None
        pieces: Iterator[tuple[Any, np.ndarray | None, Any, int, int]]
        if self.resident:
            block = self._block()
            first = int(block.row_numbers[0]) if len(block.x) else 0
            pieces = iter([(block.x, block.weight, block.placed_weight, first, len(block.x))])
        else:
            pieces = ((x, b.weight, w, b.first_row, b.n_rows) for b, x, w in self._staged())
        for x, w, placed_weight, first, n_rows in pieces:
            part = self._scan_block(x, w, placed_weight, first, n_rows, reference, spread)
            if w is not None and not self.in_memory:
                if scan is None:
                    self._weights = RowState(0, np.float64, 0.0, None)
                done = 0 if scan is None else scan.n_samples
                assert self._weights is not None
                self._weights.write(slice(done, done + len(w)), w)
            scan = part if scan is None else scan.merge(part)
        if scan is None:
            empty = np.empty((0, self.source.n_features), self.source.dtype)
            scan = self._scan_block(empty, None, None, 0, 0, reference, spread)
        self.n_samples, self.n_rows, self.looked = scan.n_samples, scan.n_rows, True
        return scan

    def _scan_block(
        self,
        x: Any,
        w: np.ndarray | None,
        placed_weight: Any,
        first: int,
        n_rows: int,
        reference: np.ndarray,
        spread: bool,
    ) -> Scan:
        """Scan one block."""
        d, backend = self.source.n_features, self.backend
        none = np.full(d, np.inf), np.full(d, -np.inf)
        minimum, maximum = backend.column_range(x) if len(x) else none
        # The ends of a column are finite only where all its values are.
        if len(x) and not (np.isfinite(minimum).all() and np.isfinite(maximum).all()):
            _raise_not_finite(backend.fetch(x), first, self.source.names)
        largest = float(max(-minimum.min(), maximum.max())) if len(x) else 0.0
        if largest > _MOST_VALUE:
            raise DataError(
                f"values reach {largest:g}; squared distances would overflow, so scale the data below {_MOST_VALUE:g}"
            )
        used, n_used = x, len(x)
        if w is not None and (w == 0).any():
            used = backend.take(x, np.flatnonzero(w > 0))
            n_used = len(used)
            minimum, maximum = backend.column_range(used) if n_used else none
        sample = np.arange(0, n_used, max(1, n_used // _SAMPLE_ROWS))[:_SAMPLE_ROWS]
        return Scan(
            n_rows,
            len(x),
            n_used,
            w is not None,
            minimum,
            maximum,
            len(x) << 1126 if w is None else int(exact_sum(w)),  # type: ignore[arg-type]
            backend.total(x, placed_weight, reference[None], None) if spread else 0,
            backend.fetch(backend.take(used, sample)).astype(np.float64),
        )

    def begin(self, grid: Grid) -> None:
        """Start a fit: forget labels and sums of an earlier one."""
        self._grid, self._labels, self._labels_for, self._sums = grid, None, None, None
        self._found, self._found_for, self._final = None, None, None
        self._tracker, self._spare = None, None
        self._followed, self._follow_room = [], self.follow_bytes

    def shared_sums(self) -> Sums | None:
        """The sums that hold this shard's rows."""
        return self._sums

    def begin_run(self, run: int, grid: Grid) -> None:
        """Begin, unless this loop has begun here already."""
        if self._run != run:
            self.begin(grid)
            self._run = run

    def begin_once(self, grid: Grid) -> None:
        """Begin, unless some fit has begun here already."""
        if self._grid is None:
            self.begin(grid)

    def step(self, centroids: np.ndarray, frame: Frame) -> Step:
        """Label every row and sum it into its cluster."""
        return step_together([self], centroids, frame)

    def step_into(self, sums: Sums, centroids: np.ndarray, frame: Frame, prepare: Callable[[], Any]) -> Taken:
        """Label every row, and see that it is in sums where it should be; ``prepare`` packs the centroids once."""
        step = self._step_resident if self.resident else self._step_streamed
        if self._sums is not sums:
            for kept in self._followed:
                if kept is not None:
                    kept.summed = False
        before, self._sums, self._k = self._sums, None, len(centroids)
        taken = step(sums, before is sums, centroids, frame, prepare)
        self._sums, self._labels_for = sums, centroids
        return taken

    def _within_memory(self, work: Callable[[], T]) -> T:
        """Do a pass, again with fewer rows at a time where a device's memory does not suffice."""
        while True:
            try:
                return work()
            except MemoryError as error:
                self.retreat(error)

    def retreat(self, error: MemoryError) -> None:
        """Begin anew with fewer rows at a time; raises the error where that is no way out."""
        fewer = self.backend.fewer_rows(self.batch_rows)
        if self.source.placed() is not None or fewer is None or (fewer < 1 and not self.resident):
            raise error
        say_once("memory", f"{error}; going on with fewer rows at a time")
        if not self.resident:
            self.batch_rows = fewer
        self.resident, self._placed = False, None
        if self._grid is not None:
            self.begin(self._grid)

    def _step_streamed(
        self, sums: Sums, summed: bool, centroids: np.ndarray, frame: Frame, prepare: Callable[[], Any]
    ) -> Taken:
        """Step that keeps labels and trackers of as many blocks as there is memory for; others are summed anew."""
        assert self._grid is not None
        k, d = len(centroids), self.source.n_features
        effort = None
        moved = scored = rechecked = 0
        labelled = self._label_streamed(centroids, frame, prepare, follow=True)
        for number, (block, labels, before, n) in enumerate(labelled):
            kept = self._followed[number]
            if kept is None:
                fresh = sums.of_now(self.backend, k, d, block.weight is not None)
                self.backend.accumulate(fresh, block.x, block.placed_weight, labels, None, self._grid)
                moved, part = moved + len(labels), plain(len(labels))
            else:
                held = sums.of_all(self.backend, k, d, block.weight is not None)
                past = before if summed and kept.summed else None
                n_moved = self.backend.accumulate(held, block.x, block.placed_weight, labels, past, self._grid)
                moved += n_moved if past is not None or before is None else int((labels != before).sum())
                kept.summed = True
                part = self.backend.effort(kept.tracker)
            effort = part if effort is None else effort.merge(part)
            scored, rechecked = scored + len(labels), rechecked + n
        return Taken(moved, scored, rechecked, effort or plain(scored))

    def _label_streamed(
        self, centroids: np.ndarray, frame: Frame, prepare: Callable[[], Any], follow: bool
    ) -> Iterator[tuple[Block, Any, Any, int]]:
        """Blocks, their labels, those of the last step where they were kept, and the rows rechecked.

        With ``follow`` blocks seen for the first time get a state of their own, and trackers move on; without it labels
        that are at hand for these very centroids are used again.
        """
        at_hand = not follow and self._labels_for is not None and _same(self._labels_for, centroids)
        for number, block in enumerate(self.blocks()):
            if follow and number == len(self._followed):
                self._followed.append(self._follow(block, centroids))
            kept = self._followed[number] if number < len(self._followed) else None
            if kept is None:
                labels = self.backend.zeros(len(block.x), np.int32)
                yield block, labels, None, self.backend.assign(block.x, prepare(), labels)
                continue
            before = kept.labels
            if before is not None and len(before) != len(block.x):
                raise DataError(_CHANGED.format(len(before), len(block.x)))
            if at_hand and before is not None:
                yield block, before, before, 0
                continue
            labels = self.backend.zeros(len(block.x), np.int32) if kept.spare is None else kept.spare
            n = self.backend.track(kept.tracker, block.x, centroids, frame, labels, before)
            kept.labels, kept.spare = labels, before
            yield block, labels, before, n

    def _follow(self, block: Block, centroids: np.ndarray) -> _Followed | None:
        """State for a block seen for the first time, if there is room and it pays."""
        n, d = block.x.shape
        size = 8 * n + self.backend.tracker_bytes(n, d, len(centroids), self.source.dtype.itemsize)
        tracker = None if size > self._follow_room else self.backend.tracker(block.x, centroids, resident=False)
        if tracker is None:
            return None
        self._follow_room -= size
        return _Followed(tracker)

    def _step_resident(
        self, sums: Sums, summed: bool, centroids: np.ndarray, frame: Frame, prepare: Callable[[], Any]
    ) -> Taken:
        """Step that keeps labels, so that later sums touch only the rows that moved."""
        assert self._grid is not None
        block = self._block()
        before = self._labels
        labels, rechecked = self._label_resident(block, centroids, frame, prepare)
        held = sums.of_all(self.backend, len(centroids), block.x.shape[1], block.weight is not None)
        past = before if summed else None
        moved = self.backend.accumulate(held, block.x, block.placed_weight, labels, past, self._grid)
        if past is None and before is not None:
            moved = int((labels != before).sum())
        self._labels, self._spare = labels, before
        effort = plain(len(labels)) if self._tracker is None else self.backend.effort(self._tracker)
        return Taken(moved, len(labels), rechecked, effort)

    def _label_resident(
        self, block: Block, centroids: np.ndarray, frame: Frame, prepare: Callable[[], Any]
    ) -> tuple[Any, int]:
        """Exact labels of rows in memory, with what is known from the step before; and the rows rechecked."""
        if self._labels is None:
            self._tracker = self.backend.tracker(block.x, centroids)
        labels = self.backend.zeros(len(block.x), np.int32) if self._spare is None else self._spare
        if self._tracker is None:
            return labels, self.backend.assign(block.x, prepare(), labels)
        return labels, self.backend.track(self._tracker, block.x, centroids, frame, labels, self._labels)

    def run(
        self, centroids: np.ndarray, frame: Frame, reference: np.ndarray, tolerance: float, most: int
    ) -> Iterator[Made]:
        """Iterations that the backend makes by itself after a step, if it does, as of :meth:`Backend.run`."""
        if not self.resident or self._labels is None or self._sums is None or self._alone:
            return
        assert self._grid is not None
        block = self._block()
        try:
            made = self.backend.run(
                self._tracker,
                self._sums.held,
                block.x,
                block.placed_weight,
                self._labels,
                centroids,
                frame,
                self._grid,
                reference,
                tolerance,
                most,
            )
            for part in made or ():
                # Labels are those of what was labelled last: of these centroids only where they stayed as they were.
                self._labels_for = part.centroids if part.settled or part.pending else None
                yield part
        except MemoryError:
            # Steps one by one take less, or fewer rows at a time; what was kept may be half of one iteration's.
            self.begin(self._grid)
            self._alone = True

    def row_weights(self) -> Iterator[tuple[slice, np.ndarray | None]]:
        """Ranges of kept rows in order with their weights (n,) or None; rows that are streamed are not read again."""
        held = self.source.weights() if self.in_memory else None
        for start in range(0, self.n_samples, _STATE_ROWS):
            rows = slice(start, min(start + _STATE_ROWS, self.n_samples))
            if held is not None:
                yield rows, held[self.start + rows.start : self.start + rows.stop]
            else:
                yield rows, None if self._weights is None else self._weights.read(rows)

    def look_at_seeds(self, seeding: int, seeds: np.ndarray) -> None:
        """Lower the distance of every row to the nearest seed, by those seeds that have not been looked at yet."""
        if self._seeding[0] != seeding or self._nearest is None:
            self.forget_seeds()
            place = self.backend if self.resident else None
            self._nearest, self._seeding = RowState(self.n_samples, np.float64, np.inf, place), (seeding, 0)
        newest = seeds[self._seeding[1] :]
        if len(newest):
            for block in self.blocks():
                nearest = self._nearest.read(block.rows)
                self.backend.lower(nearest, block.x, newest)
                self._nearest.write(block.rows, nearest)
        self._seeding = seeding, len(seeds)

    def forget_seeds(self) -> None:
        """Free what :meth:`look_at_seeds` keeps."""
        if self._nearest is not None:
            self._nearest.close()
        self._nearest = None

    def nearest_seeds(self) -> Iterator[tuple[Any, Any]]:
        """Squared distances to the nearest seed so far, float64 (n,), and weights, range by range.

        Those of rows that are kept where the backend works are there as well, others are NumPy's.
        """
        if self._nearest is None:
            raise RuntimeError("seeding has not begun on this shard")
        if self.resident:
            block = self._block()
            yield self._nearest.read(block.rows), block.placed_weight
            return
        for rows, weight in self.row_weights():
            yield self._nearest.read(rows), weight

    def with_nearest(self) -> Iterator[tuple[Block, Any]]:
        """Blocks with the squared distance of each row to the nearest seed so far, (n,) float64."""
        if self._nearest is None:
            raise RuntimeError("seeding has not begun on this shard")
        for block in self.blocks():
            yield block, self._nearest.read(block.rows)

    def head(self, n: int) -> np.ndarray:
        """The first kept rows, n at most, of shape (at most n, n_features)."""
        parts, found = [np.empty((0, self.source.n_features), self.source.dtype)], 0
        x = self.source.array() if self.in_memory and self.source.placed() is None else None
        if x is not None:
            return x[self.start : self.stop][:n]
        # As many as asked for, however few of them a batch holds: where rows are dropped, or a file's groups are small.
        for batch in self.source.batches(n, self.start, self.stop):
            parts.append(batch.x[: n - found])
            found += len(parts[-1])
            if found == n:
                break
        return np.concatenate(parts)

    def farthest(self, centroids: np.ndarray, frame: Frame, n: int) -> list[Candidate]:
        """The n rows of positive weight farthest from their centroid, best first."""
        return self._within_memory(lambda: self._farthest(centroids, frame, n))

    def _farthest(self, centroids: np.ndarray, frame: Frame, n: int) -> list[Candidate]:
        """Look for them in all blocks."""
        best: list[Candidate] = []
        for block, labels, _ in self.labelled(centroids, frame):
            d = self.backend.distances(block.x, centroids, labels)
            if block.weight is not None:
                d = np.where(block.weight > 0, d, -1.0)
            keep = np.flatnonzero(d > 0)
            if len(keep) > n:
                cut = np.partition(d[keep], len(keep) - n)[len(keep) - n]
                keep = keep[d[keep] >= cut]
            keep = keep[np.argsort(-d[keep], kind="stable")][:n]
            rows, owners = self.backend.fetch(self.backend.take(block.x, keep)), self.backend.fetch(labels)
            for i, row in zip(keep, rows, strict=True):
                w = 1.0 if block.weight is None else float(block.weight[i])
                best.append(Candidate(float(d[i]), int(block.row_numbers[i]), int(owners[i]), w, row))
            best = first_candidates(best, n)
        return best

    def labelled(self, centroids: np.ndarray, frame: Frame) -> Iterator[tuple[Block, Any, int]]:
        """Blocks with their exact labels and the rows rechecked; labels at hand are used again."""
        prepare = lru_cache(lambda: self.backend.prepare(centroids, frame))
        if self._labels is not None and self._labels_for is not None and _same(self._labels_for, centroids):
            yield self._block(), self._labels, 0
            return
        known = self._k == len(centroids)
        if known and self._tracker is not None and self._labels is not None:
            block = self._block()
            labels, rechecked = self._label_resident(block, centroids, frame, prepare)
            # The tracker has moved on to these centroids, so the labels must follow; no sums are of these any more.
            self._labels, self._labels_for, self._spare, self._sums = labels, centroids, None, None
            yield block, labels, rechecked
            return
        if known and not self.resident:
            if self._labels_for is None or not _same(self._labels_for, centroids):
                # Trackers move on, and labels with them, but sums do not.
                self._sums, self._labels_for = None, None
            for block, labels, _, rechecked in self._label_streamed(centroids, frame, prepare, follow=False):
                yield block, labels, rechecked
            return
        for block in self.blocks():
            labels = self.backend.zeros(len(block.x), np.int32)
            rechecked = self.backend.assign(block.x, prepare(), labels)
            yield block, labels, rechecked

    def _certified(self, centroids: np.ndarray, frame: Frame) -> Iterator[tuple[Block, Any, int]]:
        """As :meth:`labelled`; exact also where the labels of steps are not."""
        exact = self.backend.certified
        if exact is self.backend:
            yield from self.labelled(centroids, frame)
            return
        prepared = exact.prepare(centroids, frame)
        for block in self.blocks():
            labels = exact.zeros(len(block.x), np.int32)
            yield block, labels, exact.assign(block.x, prepared, labels)

    def finish(self, centroids: np.ndarray, frame: Frame, keep_labels: bool) -> Final:
        """Label against the final centroids and add up the inertia exactly; what was done for them already is kept."""
        if self._final is None or not self._finished(centroids) or (keep_labels and self._found is None):
            self._final = self._within_memory(lambda: self._finish(centroids, frame, keep_labels))
        return self._final

    def _finished(self, centroids: np.ndarray) -> bool:
        """Whether what :meth:`finish` left is of these centroids."""
        return self._found_for is not None and _same(self._found_for, centroids)

    def _finish(self, centroids: np.ndarray, frame: Frame, keep_labels: bool) -> Final:
        """Finish all blocks."""
        assert self._grid is not None
        total = ClusterStats.zero(len(centroids), 0, False)
        counted: Any = None
        no_features = replace(self._grid, exponents=self._grid.exponents[:0])
        inertia, scored, rechecked = 0, 0, 0
        on_device = self.source.placed() is not None
        kept: Any = np.empty(self.n_samples, np.int32) if keep_labels and not on_device else None
        for block, labels, n in self._certified(centroids, frame):
            inertia += self.backend.total(block.x, block.placed_weight, centroids, labels)
            rechecked += n
            scored += len(labels)
            if counted is None:
                counted = self.backend.sums(len(centroids), 0, block.weight is not None)
            self.backend.accumulate(counted, block.x[:, :0], block.placed_weight, labels, None, no_features)
            if kept is not None:
                kept[block.rows] = self.backend.fetch(labels)
        if on_device and keep_labels:
            # They stay where the rows are.
            kept = labels
        if counted is not None:
            stats = self.backend.collect(counted)
            total.counts, total.weight_hi, total.weight_lo = stats.counts, stats.weight_hi, stats.weight_lo
        self._labels, self._labels_for, self._tracker, self._spare = None, None, None, None
        # Where another step of the same loop follows, rows of which no labels are kept would be summed again.
        self._sums = None
        self._found, self._found_for = kept, centroids
        self._followed, self._follow_room = [], self.follow_bytes
        return Final(total, inertia, scored, rechecked)

    def labels(self, centroids: np.ndarray) -> Any:
        """Labels left by :meth:`finish`, on the host, or on the device where the source is; None if of others."""
        return self._found if self._finished(centroids) else None


def step_together(shards: Sequence[Shard], centroids: np.ndarray, frame: Frame) -> Step:
    """Take a step on several shards that share their sums: from step to step only rows that moved are touched."""
    backend, members = shards[0].backend, tuple(shard.number for shard in shards)
    while True:
        sums = shards[0].shared_sums()
        if sums is None or sums.members != members or any(shard.shared_sums() is not sums for shard in shards):
            sums = Sums(members)
        prepare = lru_cache(lambda: backend.prepare(centroids, frame))
        taken: Taken | None = None
        for shard in shards:
            try:
                part = shard.step_into(sums, centroids, frame, prepare)
            except MemoryError as error:
                shard.retreat(error)
                break
            taken = part if taken is None else taken.merge(part)
        else:
            assert taken is not None
            stats = sums.collect(backend, len(centroids), shards[0].source.n_features)
            return Step(stats, taken.n_moved, taken.n_scored, taken.n_rechecked, taken.effort)


def rechecks_of(shard: Shard) -> tuple[str, Rechecks | None]:
    """What the backend of a shard has counted so far, and which of all on all machines it is."""
    return f"{uuid.getnode()} {os.getpid()} {id(shard.backend)}", shard.backend.rechecks()


def first_candidates(candidates: list[Candidate], n: int) -> list[Candidate]:
    """The first n by (distance descending, row ascending)."""
    return sorted(candidates, key=lambda c: (-c.distance, c.row))[:n]


def plain(n: int) -> Effort:
    """Rows labelled with no state."""
    return Effort(frozenset(["plain"]), n, n)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit equality."""
    return a is b or (a.shape == b.shape and a.tobytes() == b.tobytes())


def _raise_not_finite(x: np.ndarray, first: int, names: tuple[str, ...] | None) -> None:
    """Say how many values are not finite and where the first stands."""
    bad = ~np.isfinite(x)
    row, column = np.argwhere(bad)[0]
    kind = "NaN" if np.isnan(x[row, column]) else "infinity"
    name = names[column] if names else f"feature {column}"
    raise DataError(
        f"Input contains NaN or infinity: {int(bad.sum())} values, the first ({kind}) in row {first + int(row)}, "
        f"{name}; drop or fill these rows first"
    )
