"""Numbers that are none: NaN and infinity, counted over all rows and reported once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpukm.errors import DataError
from gpukm.sources.base import Batch

_BLOCK_VALUES = 1 << 18


def first_bad(x: np.ndarray) -> tuple[int, int, int] | None:
    """How many values of a matrix (n, d) are NaN or infinite, and row and column of the first; None for none.

    A sum tells nearly always that all is well, without a mask the size of the data.
    """
    count, row, column = 0, 0, 0
    step = max(1, _BLOCK_VALUES // max(1, x.shape[1]))
    for i in range(0, len(x), step):
        part = x[i : i + step]
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(part.sum(dtype=x.dtype)):
                continue
        bad = ~np.isfinite(part)
        found = int(np.count_nonzero(bad))
        if found and not count:
            row, column = divmod(int(np.argmax(bad)), x.shape[1])
            row += i
        count += found
    return (count, row, column) if count else None


class FiniteCheck:
    """Looks at batches one after the other; :meth:`close` raises for all that was wrong in them.

    Parameters
    ----------
    names : sequence of str or None
        Feature names for the message.
    stored_dtype : dtype or None
        How the values were stored: what overflowed in float16 gets advice of its own.
    """

    def __init__(self, names: Sequence[str] | None = None, stored_dtype: Any = None) -> None:
        self.names, self._half = names, str(stored_dtype) == "float16"
        self.count = 0
        self._first = ""

    def add(self, batch: Batch) -> bool:
        """Look at a batch; False when it holds a bad value."""
        found = first_bad(batch.x)
        if found is None:
            return True
        count, row, column = found
        if not self.count:
            kind = "NaN" if np.isnan(batch.x[row, column]) else "infinity"
            number = batch.first_row + (row if batch.kept is None else int(batch.kept[row]))
            name = f"column {self.names[column]!r}" if self.names else f"feature {column}"
            self._first = f"the first ({kind}) in row {number}, {name}"
            self._half = self._half and kind == "infinity"
        self.count += count
        return False

    def close(self) -> None:
        """Raise DataError if there was a bad value."""
        if not self.count:
            return
        values = "value" if self.count == 1 else "values"
        what = f"the data contains NaN or infinity: {self.count} {values}, {self._first}"
        if self._half:
            raise DataError(f"{what}; the data is float16, which ends at 65504: store it as float32")
        raise DataError(f"{what}; drop or fill these rows first")


def check_finite(batch: Batch, names: Sequence[str] | None = None, stored_dtype: Any = None) -> None:
    """Raise DataError if a batch holds NaN or infinity: how many, and row and column of the first."""
    check = FiniteCheck(names, stored_dtype)
    check.add(batch)
    check.close()
