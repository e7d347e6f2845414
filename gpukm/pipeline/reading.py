"""The first pass over prepared rows: what they are, to the bit, and the rows themselves where they fit in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpukm.core.exact import exact_sum, to_float
from gpukm.errors import DataError
from gpukm.pipeline.held import Held
from gpukm.pipeline.progress import Progress
from gpukm.pipeline.spread import HERE, Spread
from gpukm.sources.base import Batch, Source
from gpukm.sources.fingerprint import RowDigest
from gpukm.sources.ranges import over


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


def read(source: Source, batch_rows: int, hold_rows: int, progress: Progress, spread: Spread = HERE) -> Reading:
    """Read every row once.

    Parameters
    ----------
    source : Source
    batch_rows : int
    hold_rows : int
        Hold the rows in memory unless there are more; rows that are read elsewhere are not held.
    progress : Progress
    spread : Spread
        Where; changes no result.
    """
    hold = hold_rows > 0 if source.n_rows is None else source.n_rows <= hold_rows
    store = _Store(source, hold_rows) if hold and spread.here else None
    with spread.placed(source) as placed:
        account: _Account = over(spread.executor, placed, _take, batch_rows, store, spread.told(progress))
    if not spread.here:
        progress.seen(account.n_rows)
    if account.n_samples == 0:
        raise DataError(
            f"no rows are left to cluster: all {account.n_rows} rows were dropped; see --null-policy"
            if account.n_rows
            else "the data has no rows; expected at least one"
        )
    return Reading(
        account.n_rows,
        account.n_samples,
        to_float(account.weight) if account.weighted else float(account.n_samples),
        account.rows.hexdigest() + (account.weights.hexdigest() if account.weighted else ""),
        None if store is None else store.take(account.n_rows),
    )


def _take(rows: Source, batch_rows: int, store: _Store | None, progress: Progress) -> _Account:
    """Read a range."""
    account = _Account()
    for batch in rows.batches(batch_rows):
        account.add(batch)
        if store is not None:
            store.add(batch)
        progress.seen(batch.n_rows)
    return account


class _Account:
    """What rows are, to the bit; a commutative monoid under :meth:`merge`."""

    def __init__(self) -> None:
        self.n_rows = self.n_samples = self.weight = 0
        self.weighted = False
        self.rows, self.weights = RowDigest(), RowDigest()

    def add(self, batch: Batch) -> None:
        """Take in a batch."""
        row_numbers = batch.row_numbers
        self.rows.update(batch.x, row_numbers)
        self.n_rows, self.n_samples = self.n_rows + batch.n_rows, self.n_samples + len(batch.x)
        if batch.weight is not None:
            self.weighted = True
            self.weights.update(batch.weight[:, None], row_numbers)
            self.weight += int(exact_sum(batch.weight))

    def merge(self, other: _Account) -> None:
        """Take in the account of another range."""
        self.n_rows += other.n_rows
        self.n_samples += other.n_samples
        self.weight += other.weight
        self.weighted |= other.weighted
        self.rows.merge(other.rows)
        self.weights.merge(other.weights)


class _Store:
    """Rows of one range after the other, held unless they become too many."""

    def __init__(self, source: Source, most_rows: int) -> None:
        self._names, self._most = source.names, most_rows
        self._x: _Growing | None = _Growing(source.n_features, source.dtype, source.n_rows)
        self._places: list[tuple[int, int, np.ndarray | None]] = []
        self._weights: list[np.ndarray] = []
        self._n = 0
        self._dropped = False

    def add(self, batch: Batch) -> None:
        """Append rows."""
        self._n += len(batch.x)
        if self._n > self._most:
            self._x, self._places, self._weights = None, [], []
        if self._x is None:
            return
        self._x.add(batch.x)
        self._places.append((batch.first_row, batch.n_rows, batch.kept))
        self._dropped |= batch.kept is not None and len(batch.kept) != batch.n_rows
        self._weights += [] if batch.weight is None else [batch.weight]

    def take(self, n_rows: int) -> Held | None:
        """The rows, if they were few enough."""
        if self._x is None:
            return None
        kept = np.concatenate([_numbers(*place) for place in self._places]) if self._dropped else None
        weight = np.concatenate(self._weights) if self._weights else None
        return Held(self._x.take(), weight, kept, n_rows, self._names)


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
