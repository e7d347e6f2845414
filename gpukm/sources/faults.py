"""What is wrong with data that is read in ranges: told as if it had been read from the first row to the last.

A range that finds something wrong hands its error over as a value, and errors are merged as everything else is. Which
one is raised depends on no batch and no range: first what could not be read, then what checks counted over all rows,
then the first row that a step could not use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpukm.errors import DataError


@dataclass(frozen=True)
class Finding:
    """How many values are wrong in one way, and the first of them in order of rows.

    Attributes
    ----------
    count, row : int
    before : str
        The message up to the count.
    one, many : str
        What stands between the count and the row.
    after : str
        The rest, of the first one.
    """

    count: int
    row: int
    before: str
    one: str
    many: str
    after: str

    def merge(self, other: Finding) -> Finding:
        """Both together."""
        return replace(self if self.row <= other.row else other, count=self.count + other.count)

    def __str__(self) -> str:
        return f"{self.before}{self.count} {self.one if self.count == 1 else self.many} {self.row}{self.after}"


class Fault(DataError):
    """An error that says where it stands among those of other ranges.

    Attributes
    ----------
    place : tuple of int
        The smallest one is raised.
    """

    def __init__(self, message: str, *place: int) -> None:
        super().__init__(message)
        self.place = place

    def merge(self, other: Fault) -> Fault:
        """The error of both ranges together."""
        return min(self, other, key=lambda fault: fault.place)

    def __reduce__(self) -> tuple[Any, ...]:
        return Fault, (str(self), *self.place)


class Unreadable(Fault):
    """Rows of a range that begins at ``start`` could not be read."""

    def __init__(self, message: str, start: int) -> None:
        super().__init__(message, 0, start)


class Refused(Fault):
    """What checks counted, by what is said first; the first kind that was found is the message."""

    def __init__(self, findings: Mapping[int, Finding]) -> None:
        super().__init__(str(findings[min(findings)]), 1)
        self.findings = dict(findings)

    def merge(self, other: Fault) -> Fault:
        if not isinstance(other, Refused):
            return super().merge(other)
        mine, theirs = self.findings, other.findings
        both = {kind: mine[kind].merge(theirs[kind]) for kind in mine.keys() & theirs.keys()}
        return Refused({**mine, **theirs, **both})

    def __reduce__(self) -> tuple[Any, ...]:
        return Refused, (self.findings,)


class Unusable(Fault):
    """A step cannot use row ``row``."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message, 2, row)
