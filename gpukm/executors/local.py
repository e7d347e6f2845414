"""Shards one after another in this process; threads live inside the kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import TypeVar

S = TypeVar("S")
R = TypeVar("R")


class LocalExecutor:
    """Runs every step here."""

    def map(self, step: Callable[[S], R], shards: Sequence[S]) -> list[R]:
        """Results of ``step`` in the order of the shards."""
        return [step(shard) for shard in shards]

    def map_reduce(self, step: Callable[[S], R], shards: Sequence[S], merge: Callable[[R, R], R]) -> R:
        """Results of ``step`` merged; ``merge`` is associative."""
        return reduce(merge, map(step, shards))
