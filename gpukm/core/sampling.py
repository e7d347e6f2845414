"""A few rows chosen by their row number, so that every batching and sharding chooses the same ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpukm.core.rng import Purpose, raw
from gpukm.sources.base import Batch


@dataclass(frozen=True)
class Rows:
    """Rows kept aside with what is known of them.

    Attributes
    ----------
    keys : ndarray of float64 or uint64 of shape (n,)
        What they are ordered by, smallest first; equal keys stand in order of row numbers.
    numbers : ndarray of int64 of shape (n,)
        Row numbers in the source.
    x : ndarray of shape (n, n_features)
    """

    keys: np.ndarray
    numbers: np.ndarray
    x: np.ndarray

    @classmethod
    def none(cls, n_features: int, dtype: np.dtype, key_dtype: type) -> Rows:
        """Return the identity of :meth:`merge`."""
        return cls(np.empty(0, key_dtype), np.empty(0, np.int64), np.empty((0, n_features), dtype))

    def merge(self, other: Rows, size: int) -> Rows:
        """Return the first ``size`` rows of both parts together."""
        keys = np.concatenate([self.keys, other.keys])
        numbers = np.concatenate([self.numbers, other.numbers])
        order = np.lexsort((numbers, keys))[:size]
        return Rows(keys[order], numbers[order], np.concatenate([self.x, other.x])[order])

    def join(self, keys: np.ndarray, numbers: np.ndarray, x: np.ndarray, size: int) -> Rows:
        """Return the first ``size`` of these rows and of those in a batch; copies only rows that get in."""
        if len(self.keys) >= size:
            found = np.flatnonzero(keys <= self.keys[-1])
        elif len(keys) > size:
            found = np.flatnonzero(keys <= np.partition(keys, size - 1)[size - 1])
        else:
            found = np.arange(len(keys))
        if not len(found):
            return self
        if len(found) > size:
            found = found[np.lexsort((numbers[found], keys[found]))[:size]]
        return self.merge(Rows(keys[found], numbers[found], x[found]), size)


def sample_size(n_features: int, largest: int = 1 << 14, cells: int = 1 << 24) -> int:
    """Rows to sample so that the sample has at most ``cells`` values, but never fewer than 512 rows."""
    return max(512, min(largest, cells // max(1, n_features)))


def sample(rows: Rows, batch: Batch, seed: int, size: int) -> Rows:
    """Add a batch to a sample: the ``size`` rows with the smallest random keys (seed, row number)."""
    keys = raw(seed, Purpose.SAMPLE, batch.first_row, batch.n_rows)
    if batch.kept is not None:
        keys = keys[batch.kept]
    return rows.join(keys, batch.row_numbers, batch.x, size)
