"""The first look at the rows of a fit, which settles the grid of sums, the frame of screening and the shards."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpukm.backends import Selection
from gpukm.backends.base import Frame
from gpukm.backends.select import Choice
from gpukm.core.exact import to_float
from gpukm.core.lloyd import Fixed, Problem
from gpukm.core.shard import Scan, Shard
from gpukm.core.stats import Grid
from gpukm.core.stretch import Stretch
from gpukm.errors import ConfigError, DataError
from gpukm.executors.base import Executor, Opener, Placement
from gpukm.executors.local import LocalExecutor
from gpukm.sources.base import Source
from gpukm.sources.blocks import Blocks
from gpukm.sources.ranges import RowRange, cut

#: Shards that rows are cut into for each worker, so that they can be shared out anew when workers come and go.
SHARDS_A_WORKER = 4
_READ_BYTES = 1 << 26


def holds(rows: Source, selection: Selection, n_clusters: int) -> bool:
    """Whether rows that are in memory find room where the backend works."""
    held = rows.placed() is not None or rows.n_rows is None
    return held or selection.backend.holds(rows.n_rows or 0, rows.n_features, n_clusters, rows.dtype.itemsize)


def look_at(
    rows: Source,
    selection: Selection,
    n_clusters: int,
    max_iter: int,
    tol: float,
    metric: str,
    batch_size: int | None,
    memory_limit: int | str | None,
    n_shards: int,
    spread: bool = True,
    follow_bytes: int | None = None,
) -> Problem:
    """Cut the source into shards and look at every row once; ``spread`` as in :meth:`Shard.scan`."""
    from gpukm.sources.memory import available_bytes, batch_bytes, batch_rows, parse_bytes

    limit = available_bytes() // 2 if memory_limit is None else parse_bytes(memory_limit)
    row_bytes = rows.n_features * rows.dtype.itemsize
    centroid_bytes = n_clusters * rows.n_features * (4 * rows.dtype.itemsize + 64)
    if batch_size is None:
        batch_size = batch_rows(limit, row_bytes, centroid_bytes)
    else:
        batch_size = positive("batch_size", batch_size)
    own = selection.backend.batch_rows(rows.n_features, n_clusters, rows.dtype.itemsize)
    if own is not None:
        # Rows in memory need none for being read, and a device works best on many at a time.
        batch_size = own if rows.array() is not None else min(own, batch_size)
    if follow_bytes is None:
        follow_bytes = max(0, limit - centroid_bytes - batch_bytes(batch_size, row_bytes))
    executor = LocalExecutor()
    n_rows, resident = rows.n_rows, holds(rows, selection, n_clusters)
    if rows.placed() is not None and n_shards > 1:
        raise ConfigError(f"n_shards is {n_shards}, expected 1 for data on a GPU, which is not cut up there")
    cuts = [0] if n_rows is None else [n_rows * i // n_shards for i in range(n_shards)]
    shards = [
        Shard(rows, selection.backend, batch_size, start, stop, follow_bytes // n_shards, resident, number)
        for number, (start, stop) in enumerate(zip(cuts, [*cuts[1:], n_rows], strict=True))
    ]
    placed = executor.place(shards)
    look = _look_at_all(placed, executor, spread)
    return _problem(placed, executor, selection, look, n_clusters, max_iter, tol, metric, rows)


@dataclass(frozen=True)
class Reference:
    """A point near the data, the same on any sharding, and how many rows it was found in the midst of."""

    point: np.ndarray
    n_rows: int


@dataclass(frozen=True)
class Look:
    """The first look at some shards: what they tell together, and the kept rows of each by its number."""

    reference: Reference
    scan: Scan
    sizes: dict[int, int]
    digests: dict[int, str]
    backends: frozenset[str]

    def merge(self, other: Look) -> Look:
        """Both parts together."""
        return Look(
            self.reference,
            self.scan.merge(other.scan),
            self.sizes | other.sizes,
            self.digests | other.digests,
            self.backends | other.backends,
        )


_HEAD_ROWS = 1024


def _look_at_all(placed: Placement, executor: Executor, spread: bool) -> Look:
    """Look at every row, and at the first ones before."""
    first = 1
    while True:
        reference = placed.reduce(_head, operator.or_, first, last=_midst)[0]
        all_heads = first >= len(placed)
        look: Look | None = executor.map_reduce(placed, _look, _both, reference, spread, all_heads)
        if look is not None:
            return look
        # Where the first shards have few rows. Whether they have is not asked before, which would take as long again.
        first *= 8


def _both(a: Look | None, b: Look | None) -> Look | None:
    """Two looks together; all shards have the same reference, so it is either both or none."""
    return None if a is None or b is None else a.merge(b)


def _head(shard: Shard, first: int) -> dict[int, np.ndarray]:
    """The first rows of one of the first shards; others are opened, and no more."""
    return {shard.number: shard.head(_HEAD_ROWS)} if shard.number < first else {}


def _midst(heads: dict[int, np.ndarray]) -> Reference:
    """The median of the first 1,024 kept rows, in their dtype."""
    head = np.concatenate([heads[number] for number in sorted(heads)])[:_HEAD_ROWS]
    if not len(head) or not np.isfinite(head).all():
        return Reference(np.zeros(head.shape[1], head.dtype), len(head))
    return Reference(np.median(head.astype(np.float64), axis=0).astype(head.dtype), len(head))


def _look(shard: Shard, reference: Reference, spread: bool, all_heads: bool) -> Look | None:
    """Look at one shard; None if the reference lacks rows that there may be in other shards."""
    if reference.n_rows < _HEAD_ROWS and not all_heads:
        return None
    scan = shard.scan(reference.point, spread=spread)
    digests = {} if shard.digest is None else {shard.number: shard.digest()}
    return Look(reference, scan, {shard.number: shard.n_samples}, digests, frozenset([shard.backend.name]))


def place_there(
    rows: Source | Blocks,
    executor: Executor,
    choice: Choice,
    metric: str,
    batch_rows: int | None,
    n_shards: int = 1,
    hold: bool | None = None,
) -> Placement:
    """Cut rows into stretches for an executor's workers; None holds them where they find room."""
    width, row_bytes = executor.width(), rows.n_features * rows.dtype.itemsize
    room, read_rows = executor.room_bytes(), batch_rows or max(1, min(1 << 16, _READ_BYTES // row_bytes))
    if hold is None:
        hold = room is None or rows.n_rows is None or 2 * rows.n_rows * row_bytes <= room
    values = rows.values if isinstance(rows, Blocks) else None
    parts: list[RowRange | None] = [None] * len(values or ())
    if not isinstance(rows, Blocks):
        ranges = cut(rows, max(n_shards, SHARDS_A_WORKER * width), executor)
        parts = [RowRange(rows, start, stop) for start, stop in ranges]
    more: dict[str, Any] = {"batch_rows": read_rows, "hold": hold, "spherical": metric == "cosine"}
    more["follow_bytes"] = 0 if room is None or hold else room // 8 // max(1, len(parts))
    return executor.place([Stretch(part, choice, i, **more) for i, part in enumerate(parts)], values)


def look_there(
    rows: Source | Blocks,
    executor: Executor,
    choice: Choice,
    n_clusters: int,
    max_iter: int,
    tol: float,
    metric: str,
    batch_rows: int | None,
    n_shards: int,
) -> Problem:
    """As :func:`look_at`, where rows are worked on elsewhere."""
    placed = place_there(rows, executor, choice, metric, batch_rows, n_shards=n_shards)
    try:
        look = _look_at_all(placed, executor, True)
        placed.reopen([replace(part, known=look.digests[part.number]) for part in placed.openers])
        return _problem(placed, executor, choice, look, n_clusters, max_iter, tol, metric, rows)
    except BaseException:
        placed.close()
        raise


def _problem(
    placed: Placement,
    executor: Executor,
    backend: Opener,
    look: Look,
    n_clusters: int,
    max_iter: int,
    tol: float,
    metric: str,
    rows: Source | Blocks,
) -> Problem:
    """Put together what the first look told, unless that is something that cannot be clustered."""
    scan = look.scan
    if scan.n_samples == 0:
        raise DataError("the data has no rows; expected at least one")
    if scan.n_samples < n_clusters:
        raise DataError(f"n_samples={scan.n_samples} should be >= n_clusters={n_clusters}; ask for fewer clusters")
    if scan.n_positive == 0:
        raise DataError("all sample weights are zero; at least one row needs a positive weight")
    fixed = Fixed(
        grid=Grid.of(np.maximum(np.abs(scan.minimum), np.abs(scan.maximum)), to_float(scan.weight)),
        frame=_frame(scan, rows.dtype, rows.stored if isinstance(rows, Source) else None),
        reference=look.reference.point,
        dtype=rows.dtype,
        spherical=metric == "cosine",
    )
    return Problem(
        rows=placed,
        executor=executor,
        backend=backend,
        scan=scan,
        sizes=tuple(look.sizes[number] for number in range(len(placed))),
        weighted=scan.weighted,
        fixed=fixed,
        max_iter=max_iter,
        tol=float(tol),
        names=rows.names,
        backends=tuple(sorted(look.backends)),
    )


def _frame(scan: Scan, dtype: np.dtype, stored: str | None) -> Frame:
    """Origin for screening: the median of a sample, and how far data reaches from it."""
    rows = scan.sample[:: max(1, len(scan.sample) // _HEAD_ROWS)]  # of many shards there are more than it takes
    return Frame.of(rows, scan.minimum, scan.maximum, dtype, stored)


def positive(name: str, value: Any) -> int:
    """An integer of at least one."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ConfigError(f"{name} is {value!r}, expected an integer >= 1")
    return number
