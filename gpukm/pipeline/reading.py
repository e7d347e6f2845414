"""The first pass over prepared rows: what they are, to the bit, and the rows themselves where they fit in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpukm.core.exact import exact_sum, to_float
from gpukm.errors import DataError
from gpukm.pipeline.held import Held
from gpukm.pipeline.progress import Progress
from gpukm.sources.base import Source


@dataclass(frozen=True)
class Reading:
    """What the pass told.

    Attributes
    ----------
    n_rows : int
        Rows of the source.
    n_samples : int
        Rows kept.
    total_weight : float
    fingerprint : str
        Digest of row numbers, prepared values and weights; independent of batching.
    held : Held or None
        The rows, when they were to be kept.
    """

    n_rows: int
    n_samples: int
    total_weight: float
    fingerprint: str
    held: Held | None

    def data_fields(self) -> dict[str, Any]:
        """What a manifest and a checkpoint say of the data."""
        return {
            "n_rows": self.n_rows,
            "n_samples": self.n_samples,
            "total_weight": self.total_weight,
            "fingerprint": self.fingerprint,
        }


def read(source: Source, batch_rows: int, hold_rows: int, progress: Progress) -> Reading:
    """Read every row once.

    Parameters
    ----------
    source : Source
    batch_rows : int
    hold_rows : int
        Hold the rows in memory unless there are more.
    progress : Progress
    """
    from gpukm.sources.fingerprint import RowDigest

    rows_digest, weight_digest = RowDigest(), RowDigest()
    hold = hold_rows > 0 if source.n_rows is None else source.n_rows <= hold_rows
    store = _Growing(source.n_features, source.dtype, source.n_rows) if hold else None
    places: list[tuple[int, int, np.ndarray | None]] = []
    weights: list[np.ndarray] = []
    n_rows = n_samples = total = 0
    weighted = dropped = False
    for batch in source.batches(batch_rows):
        row_numbers = batch.row_numbers
        rows_digest.update(batch.x, row_numbers)
        n_rows, n_samples = n_rows + batch.n_rows, n_samples + len(batch.x)
        dropped |= batch.kept is not None and len(batch.kept) != batch.n_rows
        if batch.weight is not None:
            weighted = True
            weight_digest.update(batch.weight[:, None], row_numbers)
            total += int(exact_sum(batch.weight))
        if store is not None and n_samples > hold_rows:
            store, places, weights = None, [], []
        if store is not None:
            store.add(batch.x)
            places.append((batch.first_row, batch.n_rows, batch.kept))
            weights += [] if batch.weight is None else [batch.weight]
        progress.seen(batch.n_rows)
    if n_samples == 0:
        raise DataError(
            f"no rows are left to cluster: all {n_rows} rows were dropped; see --null-policy"
            if n_rows
            else "the data has no rows; expected at least one"
        )
    held = None
    if store is not None:
        kept = np.concatenate([_numbers(*place) for place in places]) if dropped else None
        held = Held(store.take(), np.concatenate(weights) if weighted else None, kept, n_rows, source.names)
    fingerprint = rows_digest.hexdigest() + (weight_digest.hexdigest() if weighted else "")
    return Reading(n_rows, n_samples, to_float(total) if weighted else float(n_samples), fingerprint, held)


def _numbers(first: int, n: int, kept: np.ndarray | None) -> np.ndarray:
    """Row numbers of one batch."""
    return np.arange(first, first + n, dtype=np.int64) if kept is None else first + kept


class _Growing:
    """A matrix that rows are appended to; made in full size where the number of rows is known."""

    def __init__(self, n_features: int, dtype: np.dtype, n_rows: int | None) -> None:
        self._x = np.empty((n_rows or 1024, n_features), dtype)
        self._n = 0

    def add(self, x: np.ndarray) -> None:
        """Append rows."""
        end = self._n + len(x)
        if end > len(self._x):
            larger = np.empty((max(end, 2 * len(self._x)), self._x.shape[1]), self._x.dtype)
            larger[: self._n] = self._x[: self._n]
            self._x = larger
        self._x[self._n : end] = x
        self._n = end

    def take(self) -> np.ndarray:
        """The rows; unused space at the end is never touched, so it takes no memory."""
        return self._x[: self._n]
