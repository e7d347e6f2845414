"""Rows in a random order, taken in portions: what nested mini-batches are made of.

A row's place in the order is its key, a random number that depends on the seed and the row number alone; rows of
weight zero are left out. Hence the first n rows are the same ones whether the source is in memory or read in batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpukm.core.lloyd import Problem
from gpukm.core.rng import Purpose, raw
from gpukm.core.shard import Shard
from gpukm.sources.array import ArraySource
from gpukm.sources.base import Source
from gpukm.sources.device import DeviceSource

#: The key of rows that are left out, above all others.
_NEVER = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class Portions:
    """Rows to take from.

    Attributes
    ----------
    keys : ndarray of uint64 of shape (n,)
    rows : ArraySource or DeviceSource
        In the order of the source.
    available : int
        Rows of positive weight.
    """

    keys: np.ndarray
    rows: ArraySource | DeviceSource
    available: int

    @classmethod
    def resident(cls, source: Source, seed: int) -> Portions:
        """Rows that lie in memory, or on a device, where they are; the order takes eight bytes a row."""
        x, weight = source.array(), source.weights()
        if x is None and not isinstance(source, DeviceSource):
            raise RuntimeError("these rows are not in memory")
        rows = source if isinstance(source, DeviceSource) else ArraySource(x, weight=weight)
        keys = _keys(seed, 0, rows.n_rows)
        if weight is not None:
            keys[weight <= 0] = _NEVER
        return cls(keys, rows, int((keys < _NEVER).sum()))

    @classmethod
    def held(cls, source: Source, seed: int, size: int, batch_rows: int) -> Portions:
        """The first ``size`` rows of the order, kept in one pass over a source that is read in batches."""
        found = _Reservoir(size)
        for batch in source.batches(batch_rows):
            keys = _keys(seed, batch.first_row, batch.n_rows)
            keys = keys if batch.kept is None else keys[batch.kept]
            inside = keys < found.cut
            if batch.weight is not None:
                inside &= batch.weight > 0
            if inside.any():
                found.add(keys[inside], batch.x[inside], None if batch.weight is None else batch.weight[inside])
        keys, x, weight = found.rows(source)
        return cls(keys, ArraySource(x, weight=weight), len(keys))

    def take(self, start: int, stop: int) -> ArraySource | DeviceSource:
        """Copy the rows at places ``start .. stop`` of the order; they stand as in the source."""
        low = _cut(self.keys, start) if start else np.uint64(0)
        chosen = np.flatnonzero((self.keys >= low) & (self.keys < _cut(self.keys, stop)))
        return self.rows.pick(chosen)


class _Reservoir:
    """The rows with the smallest keys so far."""

    def __init__(self, size: int) -> None:
        self.cut = _NEVER
        self._size, self._n = size, 0
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []

    def add(self, keys: np.ndarray, x: np.ndarray, weight: np.ndarray | None) -> None:
        """Take in rows with keys below the cut, and let go of the last ones once there are twice too many."""
        self._parts.append((keys, x, weight))
        self._n += len(keys)
        if self._n > 2 * self._size:
            self._shrink()

    def rows(self, source: Source) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Keys, rows and weights in the order of the source."""
        self._shrink()
        parts = self._parts or [(np.empty(0, np.uint64), np.empty((0, source.n_features), source.dtype), None)]
        weights = [w for _, _, w in parts if w is not None]
        self._parts = []
        return (
            np.concatenate([keys for keys, _, _ in parts]),
            np.concatenate([x for _, x, _ in parts]),
            np.concatenate(weights) if weights else None,
        )

    def _shrink(self) -> None:
        """Let go of rows past the size."""
        if self._n <= self._size:
            return
        self.cut = _cut(np.concatenate([keys for keys, _, _ in self._parts]), self._size)
        kept = [(keys < self.cut, keys, x, w) for keys, x, w in self._parts]
        self._parts = [(keys[i], x[i], None if w is None else w[i]) for i, keys, x, w in kept if i.any()]
        self._n = sum(len(keys) for keys, _, _ in self._parts)


def portion(problem: Problem, rows: ArraySource | DeviceSource) -> Shard:
    """Make a shard of copied rows, on the grid of the whole fit."""
    shard = Shard(rows, problem.shards[0].backend, max(rows.n_rows, 1))
    shard.begin(problem.fixed.grid)
    return shard


def _keys(seed: int, first_row: int, n: int) -> np.ndarray:
    """Keys of consecutive rows."""
    return np.minimum(raw(seed, Purpose.PORTION, first_row, n), _NEVER - np.uint64(1))


def _cut(keys: np.ndarray, size: int) -> np.uint64:
    """A key that so many keys lie below, or all that count where there are no more."""
    if size >= len(keys):
        return _NEVER
    # A narrow guess first: keys are uniform, so hardly more than needed have to be ordered.
    guess = np.uint64(min(2.0**64 * (size + 8 * size**0.5 + 64) / len(keys), 2.0**64 - 2048))
    few = keys[keys < guess]
    return np.uint64(np.partition(few if len(few) > size else keys, size)[size])
