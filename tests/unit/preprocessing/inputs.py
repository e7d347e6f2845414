"""The numbers of a fit as bytes, and all rows of a prepared source."""

from __future__ import annotations

import numpy as np

from gpukm.preprocessing import Fitted, PreparedSource
from gpukm.snapshots.canonical import canonical_json


def bits(fitted: Fitted) -> bytes:
    """Everything that is stored, to the bit."""
    arrays = fitted.tensors()
    return canonical_json(fitted.to_json()) + b"".join(
        name.encode() + np.ascontiguousarray(arrays[name]).tobytes() for name in sorted(arrays)
    )


def rows_of(source: PreparedSource, rows: int = 1 << 16) -> np.ndarray:
    """All prepared rows."""
    return np.concatenate([batch.x for batch in source.batches(rows)])
