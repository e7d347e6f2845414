"""An executor as unkind as a cluster: nothing is shared, work runs twice, and merges come in any order."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpukm.executors import Executor, Placement


def sent(value: Any) -> Any:
    """What arrives elsewhere."""
    return pickle.loads(pickle.dumps(value))


class ScatteredPlacement(Placement):
    """Parts that are opened anew for every step, as after the loss of a worker."""

    def __init__(self, parts: Sequence[Any], seed: int) -> None:
        self.parts = [pickle.dumps(part) for part in parts]
        self.seed = seed

    def __len__(self) -> int:
        return len(self.parts)

    def _run(self, number: int, step: Callable[..., Any], *args: Any) -> Any:
        """The first result is lost; the arguments were left as they were, or the second run goes wrong."""
        shared, (step, *args) = pickle.loads(self.parts[number]).open(), sent((step, *args))
        step(shared, *args)
        return sent(step(shared, *args))

    def map(self, step: Callable[..., Any], *args: Any, each: Mapping[int, tuple[Any, ...]] | None = None) -> list[Any]:
        numbers = list(range(len(self))) if each is None else sorted(each)
        shuffled = random.Random(self.seed).sample(numbers, len(numbers))
        found = {i: self._run(i, step, *args, *(() if each is None else each[i])) for i in shuffled}
        return [found[i] for i in numbers]

    def reduce(
        self,
        step: Callable[..., Any],
        merge: Callable[[Any, Any], Any],
        *args: Any,
        cut: Callable[[Any], Sequence[Any]] | None = None,
        pieces: int = 1,
    ) -> list[Any]:
        assert cut is None
        found, merge, choose = self.map(step, *args), sent(merge), random.Random(self.seed)
        while len(found) > 1:
            a, b = (found.pop(choose.randrange(len(found))) for _ in range(2))
            merge(a, b)
            found.append(sent(merge(a, b)))
        return found

    def reopen(self, parts: Sequence[Any]) -> None:
        self.parts = [pickle.dumps(part) for part in parts]

    def close(self) -> None:
        self.parts = []


class ScatteredExecutor(Executor):
    """Pickles whatever goes in and out."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def place(self, parts: Sequence[Any]) -> ScatteredPlacement:
        return ScatteredPlacement(parts, self.seed)

    def share(self, value: Any) -> Any:
        return sent(value)

    def apply(self, function: Callable[..., Any], *args: Any) -> Any:
        return sent(function(*sent(args)))

    def fetch(self, handle: Any) -> Any:
        return handle

    def pieces(self, size_bytes: int) -> int:
        return 1
