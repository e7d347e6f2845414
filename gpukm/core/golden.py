"""Golden rows: rows stored with their labels, so that every later load can check that assigning still agrees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpukm.core.sampling import Rows
from gpukm.sources.base import Batch

N_TYPICAL = 24
N_FARTHEST = 4
N_BORDER = 4


@dataclass(frozen=True, eq=False)
class GoldenRows:
    """Rows with the labels they must get, in order of their row numbers.

    Attributes
    ----------
    x : ndarray of shape (n, n_features)
        n is at most 32.
    row_numbers : ndarray of int64 of shape (n,)
    labels : ndarray of int32 of shape (n,)
    distances : ndarray of float64 of shape (n,)
        Squared distance to the centroid.
    """

    x: np.ndarray
    row_numbers: np.ndarray
    labels: np.ndarray
    distances: np.ndarray


class GoldenTracker:
    """Finds golden rows during a pass: sampled ones of the largest clusters, the farthest, the most contested.

    A commutative monoid under :meth:`merge`. Copied or pickled it holds what it found, and looks at no more rows.
    """

    def __init__(self, sampled: Rows) -> None:
        self._numbers: np.ndarray = np.sort(sampled.numbers)
        self._found: dict[int, tuple[int, float]] = {}
        empty = Rows.none(sampled.x.shape[1], sampled.x.dtype, np.float64)
        self._farthest, self._border = empty, empty

    def add(self, batch: Batch, labels: np.ndarray, nearest: np.ndarray, second: np.ndarray) -> None:
        """Look at some rows."""
        numbers = batch.row_numbers
        low, high = np.searchsorted(self._numbers, (numbers[0], numbers[-1] + 1))
        self._remember(numbers, np.searchsorted(numbers, self._numbers[low:high]), labels, nearest)
        for name, keys, size in (("_farthest", -nearest, N_FARTHEST), ("_border", second - nearest, N_BORDER)):
            before = getattr(self, name)
            after = before.join(keys, numbers, batch.x, size)
            setattr(self, name, after)
            if after is not before:
                at = np.searchsorted(numbers, after.numbers)
                here = at[(at < len(numbers)) & (numbers[np.minimum(at, len(numbers) - 1)] == after.numbers)]
                self._remember(numbers, here, labels, nearest)

    def merge(self, other: GoldenTracker) -> None:
        """Take in what another part found."""
        self._found |= other._found
        self._farthest = self._farthest.merge(other._farthest, N_FARTHEST)
        self._border = self._border.merge(other._border, N_BORDER)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_numbers": None}

    def finish(self, sampled: Rows, counts: np.ndarray) -> GoldenRows:
        """Choose: the largest clusters in turn give a sampled row each, until 24 are found; then the extremes."""
        chosen: dict[int, np.ndarray] = {}
        queues: dict[int, list[int]] = {}
        for i, number in enumerate(sampled.numbers.tolist()):
            queues.setdefault(self._found[number][0], []).append(i)
        order = sorted(queues, key=lambda c: (-int(counts[c]), c))[: N_TYPICAL // 2]
        turn = 0
        while len(chosen) < N_TYPICAL and any(len(queues[c]) > turn for c in order):
            for cluster in order:
                if len(queues[cluster]) > turn and len(chosen) < N_TYPICAL:
                    i = queues[cluster][turn]
                    chosen[int(sampled.numbers[i])] = sampled.x[i]
            turn += 1
        for rows in (self._farthest, self._border):
            chosen |= dict(zip(rows.numbers.tolist(), rows.x, strict=True))
        numbers = sorted(chosen)
        found = [self._found[n] for n in numbers]
        shape = (len(numbers), sampled.x.shape[1])
        return GoldenRows(
            np.array([chosen[n] for n in numbers], sampled.x.dtype).reshape(shape),
            np.array(numbers, np.int64),
            np.array([label for label, _ in found], np.int32),
            np.array([distance for _, distance in found], np.float64),
        )

    def _remember(self, numbers: np.ndarray, at: np.ndarray, labels: np.ndarray, nearest: np.ndarray) -> None:
        """Note labels and distances of rows at these positions of a batch."""
        for i in at.tolist():
            self._found[int(numbers[i])] = (int(labels[i]), float(nearest[i]))
