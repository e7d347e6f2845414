"""What stands for values that tasks are given."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distributed import Future

#: Bytes of a value that is sent along with tasks, of all workers together.
_CARRIED_BYTES = 1 << 17


@dataclass(frozen=True)
class Shared:
    """A value that tasks are given: a small one with each task, which then has to fetch nothing, others by a future.

    Attributes
    ----------
    value : object
    put : callable
        Puts a value on a worker, for a future.
    """

    value: Any
    put: Callable[[Any], Future]

    def given(self, width: int) -> Any:
        """What a task gets, where so many workers have one each."""
        return self.value if self._size_bytes * width <= _CARRIED_BYTES else self._future

    @cached_property
    def _future(self) -> Future:
        return self.put(self.value)

    @cached_property
    def _size_bytes(self) -> float:
        """Pickled; what only Dask can pickle, or nobody, counts as large."""
        buffers: list[pickle.PickleBuffer] = []
        try:
            rest = len(pickle.dumps(self.value, 5, buffer_callback=buffers.append))
            return rest + sum(buffer.raw().nbytes for buffer in buffers)
        except Exception:  # whatever the value's own code raises, Dask will come upon it and say so
            return float("inf")
