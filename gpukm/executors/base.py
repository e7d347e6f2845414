"""How steps over parts of the data are run; knows nothing of k-means.

Parts are opened where they are worked on: in this process, or by the workers of a cluster. What steps, merges and
functions are given has to be picklable, and they have to be free to run twice, on another worker.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

#: A value that lies where it was made; what stands for it is given to steps and functions like the value itself.
Handle = Any


class Opener(Protocol):
    """What a part is made from, where it is worked on; picklable."""

    def open(self) -> Any:
        """Make the part."""


class Placement(ABC):
    """Parts of the data, each where it is worked on, in the order of the data."""

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
    ) -> list[Handle]:
        """Results of ``step(part, *args)`` merged, in any order, and left where they are.

        ``merge`` is associative and commutative. With ``cut`` a result is cut into ``pieces``, merged one by one.
        """

    @abstractmethod
    def reopen(self, parts: Sequence[Opener]) -> None:
        """Open parts from these from now on, where they have to be opened again; those that are open stay."""

    @abstractmethod
    def close(self) -> None:
        """Forget the parts."""


class Executor(ABC):
    """Where work is done."""

    #: After how many values, each made from the one before, the next should be shared anew; None: it makes no odds.
    chain: int | None = None

    @abstractmethod
    def place(self, parts: Sequence[Opener]) -> Placement:
        """Parts to be worked on; they are opened when they are first needed."""

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
    def pieces(self, size_bytes: int) -> int:
        """Into how many pieces to cut a value of this size, for its pieces to be merged side by side."""

    def map_reduce(
        self, rows: Placement, step: Callable[..., Any], merge: Callable[[Any, Any], Any], *args: Any
    ) -> Any:
        """Results of ``step(part, *args)`` merged, here."""
        return self.fetch(rows.reduce(step, merge, *args)[0])
