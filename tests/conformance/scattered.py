"""An executor as unkind as a cluster: nothing is shared, work runs twice, and merges come in any order."""

from __future__ import annotations

import functools
import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpukm.executors import Executor, Placement
from gpukm.executors.base import Rounds, results


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
        next(results(step, [shared], *args))
        return sent(next(results(step, [shared], *args)))

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
        last: Callable[..., Any] | None = None,
        more: Sequence[Any] = (),
    ) -> list[Any]:
        if last is not None:
            merged = self.reduce(step, merge, *args, cut=cut, pieces=pieces)
            return [sent(sent(last)(value, *sent(more))) for value in merged]
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

    def __init__(self, seed: int = 1, room_bytes: int | None = None) -> None:
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
        return 1 + 2 * (self.seed % 2)


class FicklePlacement(Placement):
    """Parts on workers that come and go: they change owners, are lost, and steps of long ago are taken again."""

    def __init__(self, parts: Sequence[Any], values: Sequence[Any] | None, choose: random.Random) -> None:
        self.openers, self._choose = list(parts), choose
        self._values = [() for _ in parts] if values is None else [(value,) for value in values]
        self._open: list[dict[int, Any]] = [{} for _ in range(3)]
        self._owner = [choose.randrange(3) for _ in parts]
        self._version = 0
        self._past: list[tuple[int, Callable[..., Any], tuple[Any, ...]]] = []

    def __len__(self) -> int:
        return len(self.openers)

    def _part(self, worker: int, number: int) -> Any:
        opener, values = sent((self.openers[number], self._values[number]))
        held = self._open[worker]
        if number not in held or (held[number][0] < self._version and not opener.confirms(held[number][1])):
            held[number] = self._version, opener.open(*values)
        held[number] = self._version, held[number][1]
        return held[number][1]

    def _befall(self) -> None:
        """What may happen between two steps; a worker keeps parts that it does not own any more."""
        for number in range(len(self)):
            if self._choose.random() < 0.1:
                self._owner[number] = self._choose.randrange(3)
        if self._choose.random() < 0.1:
            self._open[self._choose.randrange(3)].clear()
        if self._past and self._choose.random() < 0.3:
            worker, step, args = self._choose.choice(self._past[-6:])
            mine = [i for i in range(len(self)) if self._owner[i] == worker]
            list(results(step, [self._part(worker, i) for i in mine], *args)) if mine else None

    def map(self, step: Callable[..., Any], *args: Any, each: Mapping[int, tuple[Any, ...]] | None = None) -> list[Any]:
        self._befall()
        numbers = list(range(len(self))) if each is None else sorted(each)
        more = [() if each is None else each[i] for i in numbers]
        return [
            sent(step(self._part(self._owner[i], i), *sent(args), *sent(m))) for i, m in zip(numbers, more, strict=True)
        ]

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
        if last is not None:
            merged = self.reduce(step, merge, *args, cut=cut, pieces=pieces)
            return [sent(sent(last)(value, *sent(more))) for value in merged]
        self._befall()
        found = []
        for worker in self._choose.sample(range(3), 3):
            mine = [i for i in range(len(self)) if self._owner[i] == worker]
            if mine:
                found += [sent(r) for r in results(step, [self._part(worker, i) for i in mine], *sent(args))]
                self._past.append((worker, step, sent(args)))
        if cut is None or pieces == 1:
            return [functools.reduce(merge, found)]
        cuts = [cut(value) for value in found]
        return [functools.reduce(merge, [cut[i] for cut in cuts]) for i in range(pieces)]

    def rounds(
        self,
        step: Callable[..., Any],
        merge: Callable[[Any, Any], Any],
        advance: Callable[[Any, Any, list[Any]], tuple[Any, Any, bool]],
        value: Any,
        *args: Any,
        most: int,
        size_bytes: int,
    ) -> Rounds | None:
        """None at all, or some until something goes wrong, which may be at once."""
        n = self._choose.choice([None, 0, 1, 2, 5])
        if n is None:
            return None
        told: list[Any] = []
        before, goes_on = value, True
        while goes_on and len(told) < min(n, most):
            merged = self.reduce(step, merge, *args, value)[0]
            following, decision, goes_on = sent(advance)(merged, value, told)
            before, value = value, sent(following)
            told.append(sent(decision))
        return Rounds(told, value, before)

    def reopen(self, parts: Sequence[Any]) -> None:
        self.openers, self._version = list(parts), self._version + 1

    def close(self) -> None:
        self._open = [{} for _ in range(3)]


class FickleExecutor(ScatteredExecutor):
    """Keeps what it can, and does again what was done before."""

    def place(self, parts: Sequence[Any], values: Sequence[Any] | None = None) -> FicklePlacement:  # type: ignore[override]
        return FicklePlacement(parts, values, random.Random(self.seed))
