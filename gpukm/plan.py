"""What a training run will take, told from the settings and the file's metadata before any row is read."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gpukm.backends.base import Backend, DevicePlan
    from gpukm.config import Settings
    from gpukm.preprocessing import Preprocessing
    from gpukm.preprocessing.columns import Column
    from gpukm.sources.base import Source
    from gpukm.sources.table import Table

#: Labels, distances and what else a row held in memory has beside its features and its bounds.
_ROW_STATE_BYTES = 32
#: What candidates for centres list of a sampled row, for each that is drawn a centre, while lists are made.
_LISTED_BYTES = 120
#: Passes that fitting a step makes, robust at most, beside the one that all share.
_FITTING_PASSES = {"standardize": 1, "minmax": 1, "robust": 5, "pca": 2}
#: The interpreter, NumPy, Arrow and the rest, once all of them are in use.
_LIBRARIES_BYTES = 200 << 20
_SHARE_OF_LIMIT = 0.7
_LARGEST_BATCH_ROWS = 1 << 18


@dataclass(frozen=True)
class Passes:
    """How often the rows are gone through for one purpose.

    Attributes
    ----------
    purpose : str
    count : int
    at_most : bool
        ``count`` is a limit, or a typical number where chance decides.
    reads : str
        ``"file"`` or ``"memory"``.
    """

    purpose: str
    count: int
    at_most: bool
    reads: str


@dataclass(frozen=True)
class TrainPlan:
    """Memory, passes and work of a training run.

    Attributes
    ----------
    n_rows, n_features : int or None
        None where only reading tells: rows of a CSV file, indicators of a one-hot column.
    dtype : str
        Type of the prepared numbers.
    resident : bool
        The prepared rows are held in memory; otherwise every pass reads the file.
    data_bytes : int or None
        Size of the prepared rows.
    memory_limit_bytes : int
        What the process may use.
    memory_bytes : int
        What it is expected to use.
    batch_rows : int
        Rows read at a time.
    follow_bytes : int
        What labels and bounds of streamed rows may take of that.
    hold_rows : int
        Rows that are held in memory if there are no more.
    passes : tuple of Passes
    device : DevicePlan or None
        What it takes on the GPU that it runs on.
    flop_per_iteration : float or None
        Dense work of one pass over all rows and centroids, 2 N D K; bounds may save most of it.
    notes : tuple of str
    algorithm : str
    """

    source: str
    n_rows: int | None
    n_features: int | None
    n_clusters: int
    dtype: str
    resident: bool
    data_bytes: int | None
    memory_limit_bytes: int
    memory_bytes: int
    batch_rows: int
    hold_rows: int
    passes: tuple[Passes, ...]
    flop_per_iteration: float | None
    notes: tuple[str, ...] = ()
    algorithm: str = "lloyd"
    follow_bytes: int = 0
    device: DevicePlan | None = None

    @property
    def file_passes(self) -> int:
        """Passes over the file, at most."""
        return sum(p.count for p in self.passes if p.reads == "file")

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return {**asdict(self), "file_passes": self.file_passes}


def plan(
    raw: Source | Table,
    settings: Settings,
    preprocessing: Preprocessing,
    location: str,
    n_features: int | None = None,
    backend: Backend | None = None,
) -> TrainPlan:
    """Plan a training run.

    Parameters
    ----------
    raw : Source or Table
        Opened, not read.
    settings : Settings
    preprocessing : Preprocessing
    location : str
        How the data is called.
    n_features : int or None
        Width of the prepared rows where it is known already.
    backend : Backend or None
        What the fit runs on; None says nothing of devices.
    """
    from gpukm.backends.cpu import bounds_bytes, boxes_bytes, heads_bytes
    from gpukm.backends.gpu_memory import locked_bytes
    from gpukm.preprocessing.columns import read_dtype, resolve
    from gpukm.sources.memory import available_bytes, batch_bytes, batch_rows

    n_rows, k = raw.n_rows, settings.n_clusters or 1
    columns = resolve(raw, preprocessing, settings.weight_column)
    notes: list[str] = []
    if n_features is None:
        n_features, notes = _n_features(columns, preprocessing)
    dtype = read_dtype(columns) if preprocessing.dtype == "auto" else np.dtype(preprocessing.dtype)
    limit = available_bytes() // 2 if settings.memory_limit is None else settings.memory_limit
    # A limit that the user sets is for the whole process, libraries included.
    used = _process_bytes()
    free = max(limit - used, limit // 8) if settings.memory_limit is not None else limit
    width = n_features or 1
    row_bytes = width * dtype.itemsize
    centroid_bytes = k * width * (4 * dtype.itemsize + 64)
    data_bytes = None if n_rows is None or n_features is None else n_rows * row_bytes
    follow_row_bytes = bounds_bytes(row_bytes, k)
    head_bytes = heads_bytes(width) if follow_row_bytes else 0
    state_bytes = max(follow_row_bytes + head_bytes, boxes_bytes(row_bytes, width))
    held_bytes = row_bytes + _ROW_STATE_BYTES + state_bytes
    minibatch = settings.algorithm == "minibatch"
    # Mini-batches copy up to half of the rows, and keep a number a row for their order.
    held_bytes += row_bytes // 2 + 8 if minibatch else 0
    seed_bytes = 0 if minibatch else _seed_bytes(settings.init, n_rows, k, row_bytes)
    hold_rows = max(0, int(_SHARE_OF_LIMIT * free) - centroid_bytes - seed_bytes) // held_bytes
    if n_rows is None:
        hold_rows //= 3  # a matrix that grows is copied into one of twice the size
    resident = data_bytes is not None and n_rows is not None and n_rows <= hold_rows
    batch = settings.batch_rows or min(_LARGEST_BATCH_ROWS, batch_rows(free, row_bytes, centroid_bytes + seed_bytes))
    if n_rows is None:
        notes.append("the number of rows is known only after a pass; the plan is for rows that are streamed")
    kept_bytes = n_rows * held_bytes if resident and n_rows is not None else 0
    if minibatch and not resident:
        kept_bytes = limit // 8 if n_rows is None else min(limit // 8, n_rows * (row_bytes + 8))
    memory = used + kept_bytes + centroid_bytes + seed_bytes + batch_bytes(batch, row_bytes)
    follow_bytes = 0
    if not (resident or minibatch):
        # Reading is the hungrier the larger its rows are: a quarter of what seems left is not touched.
        follow_bytes = max(0, limit - memory) * 3 // 4
        if n_rows is not None:
            follow_bytes = min(follow_bytes, n_rows * (follow_row_bytes + 8) + centroid_bytes)
        follow_bytes = follow_bytes if follow_row_bytes else 0
        memory += follow_bytes
    device = None
    if backend is not None and n_features is not None and n_rows is not None:
        device = backend.device_plan(n_rows, n_features, k, dtype.itemsize)
        if device is not None and not device.resident:
            # Rows that are streamed from the file come as they are read.
            rows = device.batch_rows if resident else min(device.batch_rows, batch)
            locked = locked_bytes(rows, row_bytes, n_rows * row_bytes if resident else 0)
            device = replace(device, batch_rows=rows, locked_bytes=locked)
            memory += locked
    if memory > limit and settings.memory_limit is not None:
        notes.append("the memory limit is below what is expected; fewer rows at a time may help (--batch-rows)")
    return TrainPlan(
        source=location,
        n_rows=n_rows,
        n_features=n_features,
        n_clusters=k,
        dtype=dtype.name,
        resident=resident,
        data_bytes=data_bytes,
        memory_limit_bytes=limit,
        memory_bytes=memory,
        batch_rows=batch,
        hold_rows=hold_rows if n_features is not None else 0,
        passes=_passes(settings, preprocessing, n_rows, k, resident),
        flop_per_iteration=None if n_rows is None or n_features is None else 2.0 * n_rows * n_features * k,
        notes=tuple(notes),
        algorithm=settings.algorithm,
        follow_bytes=follow_bytes,
        device=device,
    )


def _passes(
    settings: Settings, preprocessing: Preprocessing, n_rows: int | None, k: int, resident: bool
) -> tuple[Passes, ...]:
    """Passes in the order they are made."""
    from gpukm.core.seeding import auto_init
    from gpukm.core.swaps import GROWN_ITERATIONS, MOST_SWAPS

    later = "memory" if resident else "file"
    minibatch = settings.algorithm == "minibatch"
    # A step of k-means++ lowers distances, fetches candidates and weighs them; all else fetches its rows once.
    greedy = settings.init == "k-means++" or (settings.init == "auto" and auto_init(n_rows, k) == "k-means++")
    seeding = 3 * (k - 1) + 1 if greedy else 1
    starts = settings.n_init if settings.n_init != "auto" else 10 if settings.init == "random" else 1
    # A swap draws rows, fetches them, iterates, measures the use of each centroid, iterates and labels.
    swaps = MOST_SWAPS * (4 + GROWN_ITERATIONS + settings.max_iter) if settings.quality == "best" else 0
    if minibatch:
        # Centroids start from the first batch; one pass takes it from rows that are not in memory.
        starts, seeding = 1, 0 if resident else 1
    fitting = sum(_FITTING_PASSES.get(step.kind, 0) for step in preprocessing.steps)
    found = (
        Passes("fit preprocessing", 1 + fitting, any(step.kind == "robust" for step in preprocessing.steps), "file"),
        Passes("read and fingerprint", 1, False, "file"),
        Passes("check and scan", 1, False, later),
        Passes("hold a sample" if minibatch else "seed", starts * seeding, not minibatch, later),
        Passes("iterate", starts * settings.max_iter, True, later),
        Passes("swap centroids", swaps, True, later),
        Passes("label", starts, False, later),
        Passes("summarize", 2, True, later),
    )
    return tuple(p for p in found if p.count)


def _n_features(columns: Sequence[Column], preprocessing: Preprocessing) -> tuple[int | None, list[str]]:
    """Width of the prepared rows, where metadata tells."""
    from gpukm.preprocessing import PCA
    from gpukm.preprocessing.steps import Feature, chosen

    features = [Feature(name, column.name) for column in columns for name in column.features]
    known = not preprocessing.one_hot
    for number, step in enumerate(preprocessing.steps):
        # Raises where a step names a column that is not there, long before the step is fitted.
        places = set(chosen(step, features).tolist()) if known else set()
        if not isinstance(step, PCA):
            continue
        if step.columns is None:
            features, known = [], True
        else:
            features = [feature for i, feature in enumerate(features) if i not in places]
        # Which names the components get matters to the steps behind; here they only have to be told apart.
        taken = {feature.column for feature in features}
        prefix = next(p for p in ("pca", *(f"pca{i}" for i in range(2, number + 3))) if p not in taken)
        features += [Feature(f"{prefix}[{i}]", prefix) for i in range(step.n_components)]
    if not known:
        return None, ["the number of features is known only once the preprocessing is fitted"]
    return len(features), []


def _seed_bytes(init: str, n_rows: int | None, k: int, row_bytes: int) -> int:
    """The sample that seeding works on, candidates as packed, their lists, and a few numbers a row."""
    from gpukm.core.pooled import Shape
    from gpukm.core.seeding import auto_init

    if init not in ("auto", "pooled") or (init == "auto" and auto_init(n_rows, k) == "k-means++"):
        return 0
    shape = Shape.of(n_rows or 1 << 62, k)
    return shape.rows * (2 * row_bytes + _ROW_STATE_BYTES + _LISTED_BYTES * shape.trials)


def _process_bytes() -> int:
    """Memory this process takes without data: what it has in use already, but at least what its libraries come to."""
    try:
        used = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        used = 0
    return max(used, _LIBRARIES_BYTES)


def describe(value: Sequence[Passes]) -> list[tuple[str, str, str]]:
    """Passes as rows of a table: purpose, count, where from."""
    return [(p.purpose, ("up to " if p.at_most else "") + str(p.count), p.reads) for p in value]


def human_bytes(value: int | None) -> str:
    """A size people can read."""
    if not value:
        return "unknown" if value is None else "0 B"
    power = min(4, int(math.log(value, 1024)))
    return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
