"""Where a CSV file may be cut: at the ends of lines that lie outside of quotes.

Whether a byte lies inside of quotes depends on all quotes before it. So each chunk of a file is looked at by itself for
both cases, and which one it was is known once the quotes of the chunks before it are added up (as parallel parsers of
CSV do: Ge, Li, Eilebrecht, Chandramouli and Kossmann, "Speculative distributed CSV data parsing for big data
analytics", SIGMOD 2019). A quote amid an unquoted value is an ordinary character to the parser; a file that has one is
not cut at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpukm.sources.location import Files

#: Pieces of a file are about so long.
CHUNK_BYTES = 1 << 25
_QUOTE, _LF, _CR = b'"\n\r'


@dataclass(frozen=True)
class Piece:
    """Some whole lines of a CSV file.

    Attributes
    ----------
    begin : int
        First byte; 0 is the header line.
    end : int or None
        The byte behind the last one; None: to the end.
    names : tuple of str or None
        Of the columns, where the header is not among the lines.
    line : int
        Rows of the file before it.
    """

    begin: int = 0
    end: int | None = None
    names: tuple[str, ...] | None = None
    line: int = 0


@dataclass(frozen=True)
class Look:
    """What a chunk tells of where it may be cut; pairs are for a chunk that begins outside and inside of quotes.

    Attributes
    ----------
    odd : bool
        Whether it changes sides.
    breaks : pair of int or None
        First byte of the first line that begins in it.
    proper : pair of bool
        Whether every quote that opens stands where a value begins.
    """

    odd: bool
    breaks: tuple[int | None, int | None]
    proper: tuple[bool, bool]


@dataclass(frozen=True)
class Chunk:
    """Bytes of a file to be looked at; opens as itself, wherever that is."""

    files: Files
    path: str
    begin: int
    end: int
    delimiter: bytes

    def open(self) -> Chunk:
        """Nothing to be opened before it is looked at."""
        return self

    def look(self) -> Look:
        """Read the bytes and find their quotes and lines."""
        with self.files.reading(self.path, "CSV") as handle:
            # The byte before tells whether a value begins with the first one.
            handle.seek(max(self.begin - 1, 0))
            data = handle.read(self.end - handle.tell())
        raw = np.frombuffer(data if self.begin else b"\n" + data, np.uint8)
        before, here = raw[:-1], raw[1:]
        quotes = np.flatnonzero(here == _QUOTE)
        lines = np.flatnonzero(here == _LF)
        # Behind a quote that closes, one that opens makes both of them a quote within the value.
        starts = np.isin(before[quotes], np.frombuffer(self.delimiter + bytes([_LF, _CR, _QUOTE]), np.uint8))
        passed = np.searchsorted(quotes, lines)
        breaks: list[int | None] = []
        for inside in (0, 1):
            outside = np.flatnonzero((passed + inside) % 2 == 0)
            breaks.append(self.begin + int(lines[outside[0]]) + 1 if len(outside) else None)
        return Look(len(quotes) % 2 == 1, (breaks[0], breaks[1]), (bool(starts[::2].all()), bool(starts[1::2].all())))


def pieces_of(chunks: Sequence[Chunk], looks: Sequence[Look], names: tuple[str, ...]) -> list[Piece]:
    """Pieces of one file, from looks at all of its chunks in order."""
    inside, cuts = 0, [0]
    for chunk, look in zip(chunks, looks, strict=True):
        if not look.proper[inside]:
            return [Piece()]
        at = look.breaks[inside]
        if chunk.begin and at is not None and at < chunks[-1].end:
            cuts.append(at)
        inside ^= look.odd
    ends = [*cuts[1:], chunks[-1].end]
    return [Piece(a, b, names if a else None) for a, b in zip(cuts, ends, strict=True)]
