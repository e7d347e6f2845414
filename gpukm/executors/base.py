"""How steps over parts of the data are run; knows nothing of k-means.

Parts are opened where they are worked on: in this process, or by the workers of a cluster. What steps, merges and
functions are given has to be picklable, and they have to be free to run twice, on another worker.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

#: A value that lies where it was made; what stands for it is given to steps and functions like the value itself, as an
#: argument of its own and not within another.
Handle = Any


F = TypeVar("F", bound=Callable[..., Any])


def together(step: F) -> F:
    """Mark a step that takes a list of parts, all that lie in one place, instead of one after another."""
    step.together = True  # type: ignore[attr-defined]
    return step


def results(step: Callable[..., Any], parts: Iterable[Any], *args: Any) -> Iterator[Any]:
    """What a step makes of parts that lie in one place: a result each, or one for all of them."""
    if getattr(step, "together", False):
        yield step(list(parts), *args)
        return
    for part in parts:
        yield step(part, *args)


class Opener(Protocol):
    """What a part is made from, where it is worked on; picklable."""

    def open(self, *value: Any) -> Any:
        """Make the part, from a value that was placed with it if there is one."""


class Reopener(Opener, Protocol):
    """What a part is made from, that knows how the part should be."""

    def confirms(self, part: Any) -> bool:
        """Whether a part that is open will do, which was made by what stood in this one's place before."""


@dataclass(frozen=True)
class Rounds:
    """What rounds came to.

    Attributes
    ----------
    told : list
        By each round, in order; empty where none was made.
    value, before : object
        What the last round made, and what it was given.
    """

    told: list[Any]
    value: Any
    before: Any


class Placement(ABC):
    """Parts of the data, each where it is worked on, in the order of the data.

    Attributes
    ----------
    openers : sequence of Opener
    """

    openers: Sequence[Any]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def map(self, step: Callable[..., Any], *args: Any, each: Mapping[int, tuple[Any, ...]] | None = None) -> list[Any]:
        """Results of ``step(part, *args)`` for every part, in order.

        With ``each`` only of the parts it names, ``step(part, *args, *each[number])``.
        """

    @abstractmethod
    def reduce(
        self,
        step: Callable[..., Any],
        merge: Callable[[Any, Any], Any],
        *args: Any,
        cut: Callable[[Any], Sequence[Any]] | None = None,
        pieces: int = 1,
        last: Callable[..., Any] | None = None,
        more: Sequence[Any] = (),
    ) -> list[Handle]:
        """Results of ``step(part, *args)`` merged, in any order, and left where they are.

        ``step`` may be one for several parts, marked by :func:`together`; ``merge`` is associative and commutative.
        Where there is more than one piece, ``cut`` makes so many of a result, and they are merged one by one. ``last``
        is called where all has been merged, ``last(merged, *more)``, and makes what is left there.
        """

    def rounds(
        self,
        step: Callable[..., Any],
        merge: Callable[[Any, Any], Any],
        advance: Callable[[Any, Any, list[Any]], tuple[Any, Any, bool]],
        value: Handle,
        *args: Any,
        most: int,
        size_bytes: int,
    ) -> Rounds | None:
        """Take a step again and again, each time with what came of the one before; None where only the caller can.

        A round merges ``step(part, *args, value)`` of all parts, and calls ``advance(merged, value, told)`` with what
        the rounds before told, for the next value, what this one tells, and whether to go on. How many rounds are made
        at once, of ``most`` at most, is up to the placement. ``size_bytes`` is about that of a result of ``step``.
        """
        return None

    @abstractmethod
    def reopen(self, parts: Sequence[Reopener]) -> None:
        """Open parts from these from now on; those that are open stay where these confirm them."""

    @abstractmethod
    def close(self) -> None:
        """Forget the parts."""


class Executor(ABC):
    """Where work is done."""

    #: After how many values, each made from the one before, the next should be shared anew; None: it makes no odds.
    chain: int | None = None
    #: Whether to ask for the next step before it is known that there will be one.
    ahead = False

    @abstractmethod
    def place(self, parts: Sequence[Opener], values: Sequence[Handle] | None = None) -> Placement:
        """Parts to be worked on, opened when they are first needed; ``values`` holds what each is made of, if any."""

    @abstractmethod
    def share(self, value: Any) -> Handle:
        """A value that many steps will be given."""

    @abstractmethod
    def apply(self, function: Callable[..., Any], *args: Any) -> Handle:
        """``function(*args)``, computed once, somewhere."""

    @abstractmethod
    def fetch(self, handle: Handle) -> Any:
        """The value, here."""

    @abstractmethod
    def width(self) -> int:
        """How many parts are worked on side by side."""

    @abstractmethod
    def room_bytes(self) -> int | None:
        """Memory for parts, all together; None where it is not limited."""

    def work(self) -> dict[str, int] | None:
        """What the work took so far, by name; None where there is nothing to tell."""
        return None

    @abstractmethod
    def pieces(self, size_bytes: int) -> int:
        """Into how many pieces to cut a value of this size, for its pieces to be merged side by side."""

    def map_reduce(
        self, rows: Placement, step: Callable[..., Any], merge: Callable[[Any, Any], Any], *args: Any
    ) -> Any:
        """Results of ``step(part, *args)`` merged, here."""
        return self.fetch(rows.reduce(step, merge, *args)[0])
