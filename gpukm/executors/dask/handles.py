"""What stands for values on a cluster: Dask's futures, and values that need not lie there, or not yet."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

from distributed import Future

#: Bytes of values that are sent along with tasks, of all workers together.
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
        """Pickled; what only Dask can pickle counts as large."""
        buffers: list[pickle.PickleBuffer] = []
        try:
            rest = len(pickle.dumps(self.value, 5, buffer_callback=buffers.append))
        except (pickle.PicklingError, AttributeError, TypeError):
            return float("inf")
        return rest + sum(buffer.raw().nbytes for buffer in buffers)


@dataclass(frozen=True)
class Merged:
    """Several values that are merged where they are wanted: here, or on a worker.

    Attributes
    ----------
    parts : sequence of Future
    merge : callable
    put : callable
        Merges futures on a worker, for a future.
    """

    parts: Sequence[Future]
    merge: Callable[[Any, Any], Any]
    put: Callable[..., Future]

    def given(self, width: int) -> Future:
        """What a task gets."""
        return self._future

    @cached_property
    def _future(self) -> Future:
        return self.put(self.merge, *self.parts)


def futures_of(handle: Any) -> Sequence[Future]:
    """What has to be waited for."""
    return () if isinstance(handle, Shared) else handle.parts if isinstance(handle, Merged) else (handle,)


def value_of(handle: Any, values: Sequence[Any]) -> Any:
    """The value that a handle stands for, from those of its futures."""
    if isinstance(handle, Shared):
        return handle.value
    return reduce(handle.merge, values) if isinstance(handle, Merged) else values[0]
