"""Local files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from gpukm.errors import ConfigError


def check_writable(path: str | os.PathLike[str], what: str) -> Path:
    """Raise ConfigError, before any long work, unless a file can be made at ``path``."""
    if "://" in os.fspath(path):
        raise ConfigError(f"{what} {path} is a URL; expected a local path, so write there and copy it")
    target = Path(path)
    if target.is_dir():
        raise ConfigError(f"{what} {path} is a folder; expected the name of a file")
    folder = target.parent
    if not folder.is_dir():
        raise ConfigError(f"{what} {path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{what} {path}: no permission to write in {folder}; choose another place")
    return target


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file beside ``path`` that takes its name, durably, when the block ends well, and vanishes otherwise."""
    target = Path(path)
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make a new name durable; Windows neither needs nor allows it."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
