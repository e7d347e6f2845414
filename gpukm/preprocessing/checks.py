"""Input checks: what is wrong is counted over all rows, and said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gpukm.errors import DataError
from gpukm.preprocessing.columns import place
from gpukm.preprocessing.reading import Block, Reader, missing
from gpukm.preprocessing.spec import NullPolicy
from gpukm.preprocessing.sums import LARGEST


@dataclass
class _Finding:
    """How many values are wrong, and the first of them in order of rows."""

    count: int = 0
    row: int = 0
    column: str = ""

    def note(self, count: int, row: int, column: str) -> None:
        """Count more."""
        if not self.count:
            self.row, self.column = row, column
        self.count += count

    def __str__(self) -> str:
        values = "value" if self.count == 1 else "values"
        return f"{self.count} {values}, the first in row {self.row}, column {self.column!r}"


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
        self._missing, self._infinite = _Finding(), _Finding()
        self._no_weight, self._negative = _Finding(), _Finding()

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        """Blocks without dropped rows; after the first bad one only counts, and raises DataError at the end."""
        for raw in self.reader.blocks(rows, start, stop):
            block = self._clean(raw)
            if not self._bad:
                yield block
        self._raise()

    @property
    def _bad(self) -> bool:
        return any(f.count for f in (self._missing, self._infinite, self._no_weight, self._negative))

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
                self._note(block, np.isinf(block.x), self._infinite)
                if self.policy == "error":
                    self._note(block, np.isnan(block.x), self._missing)
            if self.policy == "error":
                for column, gap in zip(self.reader.categories, gaps, strict=True):
                    if gap is not None:
                        self._missing.note(int(gap.sum()), block.row(int(np.argmax(gap))), column.name)
            self._weights(block)
        return block

    def _note(self, block: Block, wrong: np.ndarray, finding: _Finding) -> None:
        """Note wrong numbers."""
        count = int(np.count_nonzero(wrong))
        if count:
            row, column = divmod(int(np.argmax(wrong)), wrong.shape[1])
            finding.note(count, block.row(row), self.reader.features[column])

    def _weights(self, block: Block) -> None:
        """Note wrong weights."""
        if block.weight is None:
            return
        name = self.reader.weight_column or "sample_weight"
        for wrong, finding in ((~(block.weight <= LARGEST), self._no_weight), (block.weight < 0, self._negative)):
            if wrong.any():
                finding.note(int(wrong.sum()), block.row(int(np.argmax(wrong))), name)

    def _raise(self) -> None:
        """Raise DataError for what was found."""
        where = place(self.reader.raw)
        if self._infinite.count:
            column = next((c for c in self.reader.numeric if self._infinite.column in c.features), None)
            half = (column is not None and column.type == "halffloat") or _stored_half(self.reader)
            advice = "float16 ends at 65504, so store it as float32" if half else "replace or remove them"
            raise DataError(f"{where} has infinite {self._infinite}; {advice}")
        if self._missing.count:
            raise DataError(
                f"{where} has missing (null or NaN) {self._missing}; "
                "choose a null policy, drop or mean, or leave the column out"
            )
        if self._no_weight.count:
            raise DataError(f"{where} has missing or infinite weights: {self._no_weight}; expected finite numbers")
        if self._negative.count:
            raise DataError(f"{where} has negative weights: {self._negative}; expected numbers from 0")


def _all_finite(x: np.ndarray) -> bool:
    """Whether no number is NaN or infinite; a sum tells nearly always."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(x.sum(dtype=x.dtype)) or np.isfinite(x).all())


def _stored_half(reader: Reader) -> bool:
    """Whether a matrix is stored as float16."""
    return str(getattr(reader.raw, "stored_dtype", "")) == "float16"
