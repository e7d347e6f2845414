"""Parts one after another in this process; threads live inside the kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

from gpukm.executors.base import Executor, Opener, Placement, Reopener, results


class LocalPlacement(Placement):
    """Parts in this process; ``parts`` are open."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = self.openers = list(parts)

    def __len__(self) -> int:
        return len(self.parts)

    def map(self, step: Callable[..., Any], *args: Any, each: Mapping[int, tuple[Any, ...]] | None = None) -> list[Any]:
        if each is None:
            return [step(part, *args) for part in self.parts]
        return [step(self.parts[i], *args, *more) for i, more in sorted(each.items())]

    def reduce(
        self,
        step: Callable[..., Any],
        merge: Callable[[Any, Any], Any],
        *args: Any,
        cut: Callable[[Any], Sequence[Any]] | None = None,
        pieces: int = 1,
        last: Callable[..., Any] | None = None,
        more: Sequence[Any] = (),
    ) -> list[Any]:
        whole = reduce(merge, results(step, self.parts, *args))
        merged = [whole] if cut is None or pieces == 1 else list(cut(whole))
        return merged if last is None else [last(value, *more) for value in merged]

    def reopen(self, parts: Sequence[Reopener]) -> None:
        """Nothing to do: what is open here stays."""

    def close(self) -> None:
        self.parts = []


class LocalExecutor(Executor):
    """Does everything here; values are their own handles."""

    def place(self, parts: Sequence[Opener], values: Sequence[Any] | None = None) -> LocalPlacement:
        if values is None:
            return LocalPlacement([part.open() for part in parts])
        return LocalPlacement([part.open(value) for part, value in zip(parts, values, strict=True)])

    def share(self, value: Any) -> Any:
        return value

    def apply(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    def fetch(self, handle: Any) -> Any:
        return handle

    def width(self) -> int:
        return 1

    def room_bytes(self) -> None:
        return None

    def pieces(self, size_bytes: int) -> int:
        return 1
