"""The state of a stream as bytes: nothing in them is executed when they are read."""

from __future__ import annotations

import hashlib
from dataclasses import fields

import numpy as np

from gpukm.core.stream import StreamState
from gpukm.errors import SnapshotCorruptError
from gpukm.snapshots.tensors import decode, describe, encode

_MAGIC = b"gpukm stream 1\n"


def to_bytes(state: StreamState) -> bytes:
    """A line that names the format, the SHA-256 of what follows, and a safetensors file; equal states, equal bytes."""
    body = b"".join(encode(_arrays(state)))
    return _MAGIC + hashlib.sha256(body).digest() + body


def from_bytes(data: bytes) -> StreamState:
    """Undo :func:`to_bytes`.

    Raises
    ------
    SnapshotCorruptError
        The bytes are something else, or not those that were written.
    """
    start = len(_MAGIC) + 32
    body = bytes(data[start:])
    if data[: len(_MAGIC)] != _MAGIC or hashlib.sha256(body).digest() != data[len(_MAGIC) : start]:
        raise SnapshotCorruptError("these bytes are not a stream's state, or damaged; take those that were saved")
    from safetensors.numpy import load

    # The digest vouches for the shapes; decode() then refuses what is not finite.
    found = {name: array.copy() for name, array in load(body).items()}
    decode(body, {name: describe(array) for name, array in found.items()}, (), "the state of the stream")
    steps = int(found.pop("n_steps")[0])
    return StreamState(**found, n_steps=steps)


def _arrays(state: StreamState) -> dict[str, np.ndarray]:
    """Every field as an array."""
    arrays = {f.name: getattr(state, f.name) for f in fields(state) if f.name != "n_steps"}
    return {**arrays, "n_steps": np.array([state.n_steps], np.int64)}
