"""Input checks: what is wrong is counted over all rows, and said in one line."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpukm.preprocessing.columns import place
from gpukm.preprocessing.reading import Block, Reader, missing
from gpukm.preprocessing.spec import NullPolicy
from gpukm.preprocessing.sums import LARGEST
from gpukm.sources.faults import Finding, Refused

#: What is said first comes first.
_INFINITE, _MISSING, _NO_WEIGHT, _NEGATIVE = range(4)
_WORDS = {
    _INFINITE: ("infinite", "replace or remove them"),
    _MISSING: ("missing (null or NaN)", "choose a null policy, drop or mean, or leave the column out"),
    _NO_WEIGHT: ("missing or infinite weights:", "expected finite numbers"),
    _NEGATIVE: ("negative weights:", "expected numbers from 0"),
}


class Checks:
    """Looks at raw blocks in order, applies the null policy, and raises what it found at the end.

    Parameters
    ----------
    reader : Reader
    policy : {"error", "drop", "mean"}
    thorough : bool
        False skips what an earlier pass over the same data has checked.
    """

    def __init__(self, reader: Reader, policy: NullPolicy, thorough: bool = True) -> None:
        self.reader, self.policy, self.thorough = reader, policy, thorough
        self.n_dropped = 0
        self._findings: dict[int, Finding] = {}

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        """Blocks without dropped rows; after the first bad one only counts, and raises DataError at the end."""
        for raw in self.reader.blocks(rows, start, stop):
            block = self._clean(raw)
            if not self._findings:
                yield block
        if self._findings:
            raise Refused(self._findings)

    def _clean(self, block: Block) -> Block:
        """Drop rows as the policy says, and note what is wrong with the rest."""
        if not self.thorough and self.policy != "drop":
            return block
        gaps = [missing(values) for values in block.values]
        finite = _all_finite(block.x)
        if self.policy == "drop" and not (finite and all(gap is None for gap in gaps)):
            keep = ~np.isnan(block.x).any(axis=1)
            for gap in gaps:
                keep &= True if gap is None else ~gap
            if not keep.all():
                self.n_dropped += int(len(keep) - keep.sum())
                block = block.select(keep)
        if self.thorough:
            if not finite:
                self._note_numbers(block, np.isinf(block.x), _INFINITE)
                if self.policy == "error":
                    self._note_numbers(block, np.isnan(block.x), _MISSING)
            if self.policy == "error":
                for column, gap in zip(self.reader.categories, gaps, strict=True):
                    if gap is not None:
                        self._note(_MISSING, int(gap.sum()), block.row(int(np.argmax(gap))), column.name)
            self._weights(block)
        return block

    def _note_numbers(self, block: Block, wrong: np.ndarray, kind: int) -> None:
        """Note wrong numbers."""
        count = int(np.count_nonzero(wrong))
        if count:
            row, column = divmod(int(np.argmax(wrong)), wrong.shape[1])
            self._note(kind, count, block.row(row), self.reader.features[column])

    def _weights(self, block: Block) -> None:
        """Note wrong weights."""
        if block.weight is None:
            return
        name = self.reader.weight_column or "sample_weight"
        for wrong, kind in ((~(block.weight <= LARGEST), _NO_WEIGHT), (block.weight < 0, _NEGATIVE)):
            if wrong.any():
                self._note(kind, int(wrong.sum()), block.row(int(np.argmax(wrong))), name)

    def _note(self, kind: int, count: int, row: int, column: str) -> None:
        """Count more."""
        what, advice = _WORDS[kind]
        if kind == _INFINITE and self._is_half(column):
            advice = "float16 ends at 65504, so store it as float32"
        found = Finding(
            count,
            row,
            f"{place(self.reader.raw)} has {what} ",
            "value, the first in row",
            "values, the first in row",
            f", column {column!r}; {advice}",
        )
        self._findings[kind] = self._findings[kind].merge(found) if kind in self._findings else found

    def _is_half(self, feature: str) -> bool:
        """Whether a feature is stored as float16."""
        column = next((c for c in self.reader.numeric if feature in c.features), None)
        half = column is not None and column.type == "halffloat"
        return half or str(getattr(self.reader.raw, "stored_dtype", "")) == "float16"


def _all_finite(x: np.ndarray) -> bool:
    """Whether no number is NaN or infinite; a sum tells nearly always."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(x.sum(dtype=x.dtype)) or np.isfinite(x).all())
