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

    def __init__(self, parts: Sequence[Any], values: Sequence[Any] | None, seed: int) -> None:
        self.openers, self.seed = list(parts), seed
        self._values = [() for _ in parts] if values is None else [(value,) for value in values]
        self.reopen(parts)

    def __len__(self) -> int:
        return len(self._pickled)

    def _run(self, number: int, step: Callable[..., Any], *args: Any) -> Any:
        """The first result is lost; the arguments were left as they were, or the second run goes wrong."""
        opener, values = pickle.loads(self._pickled[number])
        shared, (step, *args) = opener.open(*values), sent((step, *args))
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
        found, merge = self.map(step, *args), sent(merge)
        if cut is None or pieces == 1:
            return [self._merged(found, merge)]
        cuts = [sent(cut(value)) for value in found]
        return [self._merged([cut[i] for cut in cuts], merge) for i in range(pieces)]

    def _merged(self, found: list[Any], merge: Callable[[Any, Any], Any]) -> Any:
        """All values as one."""
        found, choose = list(found), random.Random(self.seed)
        while len(found) > 1:
            a, b = (found.pop(choose.randrange(len(found))) for _ in range(2))
            merge(a, b)
            found.append(sent(merge(a, b)))
        return found[0]

    def reopen(self, parts: Sequence[Any]) -> None:
        self.openers = list(parts)
        self._pickled = [pickle.dumps(part) for part in zip(parts, self._values, strict=True)]

    def close(self) -> None:
        self._pickled = []


class ScatteredExecutor(Executor):
    """Pickles whatever goes in and out, shares values anew all the time, and cuts them in pieces."""

    chain = 2
    ahead = True

    def __init__(self, seed: int = 0, room_bytes: int | None = None) -> None:
        self.seed, self._room_bytes = seed, room_bytes

    def place(self, parts: Sequence[Any], values: Sequence[Any] | None = None) -> ScatteredPlacement:
        return ScatteredPlacement(parts, values, self.seed)

    def width(self) -> int:
        return 2

    def room_bytes(self) -> int | None:
        return self._room_bytes

    def share(self, value: Any) -> Any:
        return sent(value)

    def apply(self, function: Callable[..., Any], *args: Any) -> Any:
        return sent(function(*sent(args)))

    def fetch(self, handle: Any) -> Any:
        return handle

    def pieces(self, size_bytes: int) -> int:
        return 3
