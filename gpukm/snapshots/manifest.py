"""Manifest: the canonical JSON whose SHA-256 is the snapshot's id.

::

    {"format": 1, "kind": "kmeans",
     "blob": {"sha256": ..., "bytes": ...},                one safetensors file with every array
     "tensors": {"centroids": {"dtype": "F32", "shape": [8, 5]}, "golden/x": ..., "preprocessing/...": ..., ...},
     "non_finite": [...],                                  arrays that may hold NaN or infinity
     "schema": {...}, "preprocessing": {...}, "settings": {...}, "data": {...}, "result": {...}}

Both manifest and arrays are blobs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gpukm.errors import ConfigError, DataError, SnapshotCorruptError
from gpukm.snapshots.blobs import get_blob, put_blob
from gpukm.snapshots.canonical import canonical_json, field, parse_json
from gpukm.snapshots.files import Files
from gpukm.snapshots.golden import check_shapes
from gpukm.snapshots.snapshot import Golden, Snapshot, SnapshotContent
from gpukm.snapshots.tensors import decode, describe, encode

MANIFEST_FORMAT = 1
MANIFEST_LIMIT_BYTES = 64 << 20
_SECTIONS = ("schema", "preprocessing", "settings", "data", "result")
_OWN = ("centroids", "golden/x", "golden/labels", "golden/rows")
_PREPROCESSING = "preprocessing/"


def write_content(files: Files, content: SnapshotContent) -> str:
    """Store a snapshot's arrays and then its manifest, and return the id; nothing refers to them yet.

    Raises
    ------
    ConfigError, DataError
        Something in ``content`` is not JSON, not finite, or does not fit together.
    """
    check_shapes(content)
    tensors = _flatten(content)
    non_finite = sorted(content.non_finite & content.tensors.keys())
    sections = {name: dict(getattr(content, name)) for name in _SECTIONS}
    canonical_json(sections)  # what is wrong with the settings is said before gigabytes are written
    parts = encode(tensors, non_finite)
    digest = put_blob(files, parts)
    manifest = {
        "format": MANIFEST_FORMAT,
        "kind": content.kind,
        "blob": {"sha256": digest, "bytes": sum(len(part) for part in parts)},
        "tensors": {name: describe(array) for name, array in tensors.items()},
        "non_finite": non_finite,
        **sections,
    }
    data = canonical_json(manifest)
    if len(data) > MANIFEST_LIMIT_BYTES:
        raise ConfigError(f"the manifest takes {len(data)} bytes, expected at most {MANIFEST_LIMIT_BYTES}")
    return put_blob(files, [data])


def read_manifest(files: Files, snapshot_id: str) -> dict[str, Any]:
    """A manifest, checked against its id.

    Raises
    ------
    SnapshotCorruptError
        It is missing or damaged.
    ConfigError
        Its format is newer than this version of gpukm.
    """
    what = f"manifest {snapshot_id} in {files.root}"
    manifest = parse_json(get_blob(files, snapshot_id, MANIFEST_LIMIT_BYTES), what)
    if field(manifest, "format", int, what) > MANIFEST_FORMAT:
        raise ConfigError(f"{what} has the format {manifest['format']}, newer than {MANIFEST_FORMAT}; update gpukm")
    for name in _SECTIONS:
        field(manifest, name, dict, what)
    return manifest


def read_content(files: Files, snapshot_id: str) -> Snapshot:
    """A snapshot without its address, every byte checked."""
    what = f"snapshot {snapshot_id} in {files.root}"
    manifest = read_manifest(files, snapshot_id)
    blob = field(manifest, "blob", dict, what)
    non_finite = frozenset(str(name) for name in field(manifest, "non_finite", list, what))
    data = get_blob(files, field(blob, "sha256", str, what), field(blob, "bytes", int, what))
    tensors = decode(data, field(manifest, "tensors", dict, what), non_finite, what)
    missing = [name for name in _OWN if name not in tensors]
    if missing:
        raise SnapshotCorruptError(f"{what} has no tensors {missing}; it was not written by gpukm")
    centroids, x, labels, row_numbers = (tensors.pop(name) for name in _OWN)
    cut = len(_PREPROCESSING)
    snapshot = Snapshot(
        centroids=centroids,
        golden=Golden(x, labels, row_numbers),
        tensors={name: array for name, array in tensors.items() if not name.startswith(_PREPROCESSING)},
        preprocessing_tensors={n[cut:]: array for n, array in tensors.items() if n.startswith(_PREPROCESSING)},
        **{name: manifest[name] for name in _SECTIONS},
        non_finite=non_finite,
        kind=field(manifest, "kind", str, what),
        id=snapshot_id,
    )
    try:
        check_shapes(snapshot)
    except DataError as error:
        raise SnapshotCorruptError(f"{what} is damaged: {error}") from None
    return snapshot


def _flatten(content: SnapshotContent) -> dict[str, np.ndarray]:
    """Every array of a snapshot under one name each."""
    golden = replace(
        content.golden,
        labels=np.asarray(content.golden.labels, dtype=np.int32),
        row_numbers=np.asarray(content.golden.row_numbers, dtype=np.int64),
    )
    own = dict(zip(_OWN, (content.centroids, golden.x, golden.labels, golden.row_numbers), strict=True))
    for name in content.tensors:
        if name in own or name.startswith(_PREPROCESSING):
            raise ConfigError(f"a statistic is named {name!r}, a name that snapshots keep for themselves; rename it")
    prepared = {_PREPROCESSING + name: array for name, array in content.preprocessing_tensors.items()}
    return {**own, **content.tensors, **prepared}
