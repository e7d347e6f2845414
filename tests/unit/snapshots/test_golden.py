"""Golden rows with the library's own assignment, for every metric and dtype."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gpukm.errors import SnapshotCorruptError
from gpukm.functional import assign_batches
from gpukm.snapshots import Golden, SnapshotContent, Store
from tests.conformance.store import make_content


def _content(metric: str, dtype: str) -> SnapshotContent:
    """Golden rows as ``assign_batches`` yields them: of unit length where the metric is cosine."""
    content = make_content(dtype=dtype, settings={"metric": metric})
    x = np.random.Generator(np.random.Philox(3)).standard_normal((9, 3)).astype(dtype)
    batch, labels, _, _ = next(assign_batches(x, content.centroids, metric=metric))
    rows = batch.x
    return dataclasses.replace(content, golden=Golden(rows, labels, np.arange(9, dtype=np.int64)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_golden_rows_are_labelled_again_by_default(tmp_path: Path, metric: str, dtype: str) -> None:
    content = _content(metric, dtype)
    store = Store.open(tmp_path, create=True)
    store.publish("m", content)
    snapshot = store.load("m")
    assert snapshot.metric == metric
    assert store.verify() == []
    labels = np.array(content.golden.labels)
    labels[2] = (labels[2] + 1) % 4
    with pytest.raises(SnapshotCorruptError, match="1 of 9 golden rows get another label here"):
        store.publish("m", dataclasses.replace(content, golden=dataclasses.replace(content.golden, labels=labels)))


def test_no_golden_rows_are_no_reason_to_fail(tmp_path: Path) -> None:
    none = Golden(np.empty((0, 3), np.float32), np.empty(0, np.int32), np.empty(0, np.int64))
    store = Store.open(tmp_path, create=True)
    store.publish("m", make_content(golden=none))
    assert store.load("m").golden.x.shape == (0, 3)
