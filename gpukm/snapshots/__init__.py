"""Immutable, verifiable snapshots of fitted models.

>>> store = Store.open("store", create=True)                         # doctest: +SKIP
>>> ref = store.publish("flights", content, {"data": "flights.parquet"})  # doctest: +SKIP
>>> store.load("flights").centroids                                  # doctest: +SKIP
"""

from gpukm.snapshots.log import Once, Record
from gpukm.snapshots.redact import redact, redact_uri
from gpukm.snapshots.snapshot import Golden, Snapshot, SnapshotContent, SnapshotRef, result_fields
from gpukm.snapshots.store import Store

__all__ = [
    "Golden",
    "Once",
    "Record",
    "Snapshot",
    "SnapshotContent",
    "SnapshotRef",
    "Store",
    "redact",
    "redact_uri",
    "result_fields",
]
