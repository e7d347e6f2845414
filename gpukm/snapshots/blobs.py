"""Immutable bytes named by their SHA-256: ``blobs/sha256/ab/abcd…``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from gpukm.errors import SnapshotCorruptError
from gpukm.snapshots.files import Buffer, Files

DIGEST = re.compile(r"[0-9a-f]{64}")


def put_blob(files: Files, parts: Sequence[Buffer]) -> str:
    """Store the concatenation of ``parts`` unless it is there already, and return its digest.

    Raises
    ------
    SnapshotCorruptError
        A file of that name is there but holds other bytes.
    """
    digest = _digest(parts)
    if not files.create(_path(digest), parts):
        _check_blob(files, digest)
    return digest


def get_blob(files: Files, digest: str, limit_bytes: int) -> bytes:
    """A blob's bytes, checked; SnapshotCorruptError when it is missing, too long, or not what its name says."""
    try:
        data = files.read(_path(digest), limit_bytes)
    except FileNotFoundError:
        raise _missing(files, digest) from None
    if _digest([data]) != digest:
        raise _damaged(files, digest)
    return data


def _check_blob(files: Files, digest: str) -> None:
    """Read a blob through, in constant memory, and raise SnapshotCorruptError unless it is what its name says."""
    try:
        found = _digest(files.chunks(_path(digest)))
    except FileNotFoundError:
        raise _missing(files, digest) from None
    if found != digest:
        raise _damaged(files, digest)


def _path(digest: str) -> str:
    """Where a blob lies; a digest that is not one never becomes a path."""
    if not DIGEST.fullmatch(digest):
        raise SnapshotCorruptError(f"{digest[:80]!r} is not a SHA-256 digest (64 lower-case hexadecimal digits)")
    return f"blobs/sha256/{digest[:2]}/{digest}"


def _digest(parts: Iterable[Buffer]) -> str:
    """SHA-256 of the concatenation."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


def _missing(files: Files, digest: str) -> SnapshotCorruptError:
    """A manifest or record names a blob that is not there."""
    return SnapshotCorruptError(f"blob {digest} is missing from {files.root}; restore {_path(digest)} from a copy")


def _damaged(files: Files, digest: str) -> SnapshotCorruptError:
    """The bytes changed after they were written."""
    return SnapshotCorruptError(
        f"blob {digest} in {files.root} is damaged: its bytes have another SHA-256; "
        f"restore {_path(digest)} from a copy, or delete it and publish the same fit again"
    )
