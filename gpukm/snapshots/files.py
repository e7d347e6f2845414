"""What stores and checkpoints ask of a place: create a whole file if it is absent.

Paths are relative, with ``/``, and made by this package from checked names and digests; nothing a store's files
say becomes a path.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from gpukm.errors import ConfigError, SnapshotCorruptError
from gpukm.snapshots.redact import redact_text

Buffer = bytes | memoryview
TEMPORARY = "tmp"
_CHUNK_BYTES = 1 << 20
_STALE_SECONDS = 24 * 3600.0
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_MEMORY_LOCK = threading.Lock()  # memory:// looks first and writes then


class Files(ABC):
    """Files under one root.

    Attributes
    ----------
    root : str
        The root as shown to people, without secrets.
    """

    root: str

    @abstractmethod
    def create(self, path: str, parts: Sequence[Buffer]) -> bool:
        """Write a file whole and durably if none is there; False, and nothing changed, if one is.

        Of any number of processes that create one path at once exactly one gets True.

        Raises
        ------
        ConfigError
            The place is full, read-only, forbidden or unreachable; nothing was created.
        """

    @abstractmethod
    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield a file's bytes; FileNotFoundError when there is none."""

    @abstractmethod
    def size_bytes(self, path: str) -> int:
        """A file's length; FileNotFoundError when there is none."""

    @abstractmethod
    def names(self, path: str) -> list[str]:
        """Names in a folder, sorted; none when there is no such folder."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file; nothing happens when there is none.

        Raises
        ------
        ConfigError
            It may not be removed, or the place is unreachable.
        """

    @abstractmethod
    def remove_folder(self, path: str) -> None:
        """Remove a folder in which nothing is left; of the root also what interrupted writers left behind."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raise ConfigError where it is plain already, before any long work, that nothing can be created."""

    @abstractmethod
    def clean(self) -> None:
        """Remove what interrupted writers left behind, once it is a day old."""

    def read(self, path: str, limit_bytes: int) -> bytes:
        """A file's bytes; SnapshotCorruptError when it is longer than ``limit_bytes``, before it is read."""
        size = self.size_bytes(path)
        if size > limit_bytes:
            raise SnapshotCorruptError(f"{self.root}/{path} has {size} bytes, expected at most {limit_bytes}")
        return b"".join(self.chunks(path))


class LocalFiles(Files):
    """A folder. A file is written aside, synced, and hard-linked to its name, which fails if the name is taken."""

    def __init__(self, root: str) -> None:
        self._path = Path(os.path.realpath(root))
        self.root = str(self._path)

    def create(self, path: str, parts: Sequence[Buffer]) -> bool:
        target = self._inside(path)
        folder = target.parent
        with _explained(f"cannot write {target}", missing=True):
            if os.path.lexists(target):
                return False
            self._make_folder(folder)
            self._make_folder(self._inside(TEMPORARY))
            temporary = self._inside(f"{TEMPORARY}/{secrets.token_hex(16)}")
            try:
                with temporary.open("xb") as file:
                    file.writelines(parts)
                    file.flush()
                    os.fsync(file.fileno())
                try:
                    target.hardlink_to(temporary)
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno in _NO_LINKS:
                        raise ConfigError(
                            f"{self.root} cannot hold a store or checkpoints: its file system has no hard links, with "
                            "which a file is created only if it is absent; choose a folder on another one"
                        ) from error
                    raise
                _sync_folder(folder)
            finally:
                with suppress(OSError):
                    temporary.unlink()
        return True

    def chunks(self, path: str) -> Iterator[bytes]:
        target = self._inside(path)
        with _explained(f"cannot read {target}"), target.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    def size_bytes(self, path: str) -> int:
        target = self._inside(path)
        with _explained(f"cannot read {target}"):
            return target.stat().st_size

    def names(self, path: str) -> list[str]:
        target = self._inside(path) if path else self._path
        with _explained(f"cannot list {target}"):
            try:
                return sorted(entry.name for entry in target.iterdir())
            except FileNotFoundError:
                return []

    def remove(self, path: str) -> None:
        target = self._inside(path)
        with _explained(f"cannot remove {target}", missing=True):
            target.unlink(missing_ok=True)

    def remove_folder(self, path: str) -> None:
        with suppress(OSError):
            if not path:
                for entry in self._inside(TEMPORARY).iterdir():
                    entry.unlink()
                self._inside(TEMPORARY).rmdir()
        with suppress(OSError):  # something is in it, or it is not there
            (self._inside(path) if path else self._path).rmdir()

    def check_writable(self) -> None:
        folder = self._path
        while not os.path.lexists(folder):
            folder = folder.parent
        if not folder.is_dir():
            raise ConfigError(f"cannot write to {self.root}: {folder} is not a folder; choose another place")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"cannot write to {self.root}: no permission to write in {folder}; choose another place")

    def clean(self) -> None:
        with suppress(OSError):
            for entry in self._inside(TEMPORARY).iterdir():
                if entry.lstat().st_mtime < time.time() - _STALE_SECONDS:
                    entry.unlink()

    def _inside(self, path: str) -> Path:
        """The path under the root; a symbolic link on the way could lead out of the store, so none is followed."""
        target = self._path.joinpath(*path.split("/"))
        if os.path.realpath(target) != str(target):
            raise SnapshotCorruptError(
                f"{target} is or lies behind a symbolic link; a store holds plain files and folders, "
                "so copy the real ones there"
            )
        return target

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and its parents, each durable before anything is put into it."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
        _sync_folder(folder.parent)


class RemoteFiles(Files):
    """Any fsspec file system that can create a file exclusively; objects there appear whole or not at all."""

    #: How a protocol creates if absent: S3 If-None-Match, GCS ifGenerationMatch=0, Azure overwrite=False.
    EXCLUSIVE = frozenset({"memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})

    def __init__(self, file_system: Any, path: str, root: str) -> None:
        self._fs = file_system
        self._path = path.rstrip("/")
        self.root = root

    def create(self, path: str, parts: Sequence[Buffer]) -> bool:
        target = f"{self._path}/{path}"
        with _explained(f"cannot write {self.root}/{path}", missing=True):
            try:
                with _MEMORY_LOCK if self._fs.protocol == "memory" else nullcontext():
                    self._fs.pipe_file(target, b"".join(parts), mode="create")
            except FileExistsError:
                return False
            except OSError:
                # Services word a failed condition, or a lost race, in many ways; what counts is whether it is there.
                if not self._fs.exists(target):
                    raise
                return False
        return True

    def chunks(self, path: str) -> Iterator[bytes]:
        with _explained(f"cannot read {self.root}/{path}"), self._fs.open(f"{self._path}/{path}", "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    def size_bytes(self, path: str) -> int:
        with _explained(f"cannot read {self.root}/{path}"):
            return int(self._fs.info(f"{self._path}/{path}")["size"])

    def names(self, path: str) -> list[str]:
        folder = f"{self._path}/{path}".rstrip("/")
        with _explained(f"cannot list {self.root}/{path}"):
            try:
                found = self._fs.ls(folder, detail=False)
            except FileNotFoundError:
                return []
        return sorted({name.rstrip("/").rsplit("/", 1)[-1] for name in found if name.rstrip("/") != folder})

    def remove(self, path: str) -> None:
        with _explained(f"cannot remove {self.root}/{path}", missing=True), suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._path}/{path}")

    def remove_folder(self, path: str) -> None:
        """Nothing to do: an object store has folders only while something is in them."""

    def check_writable(self) -> None:
        bucket = self._path.split("/", 1)[0]
        with _explained(f"cannot write to {self.root}"):
            if bucket and not self._fs.exists(bucket):
                raise ConfigError(f"cannot write to {self.root}: there is no bucket {bucket!r}; make it first")

    def clean(self) -> None:
        """Nothing to do: an object store keeps no half-written object."""


def open_files(location: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Files:
    """Files under a local folder or an fsspec URL.

    Raises
    ------
    ConfigError
        The file system cannot create a file only if it is absent, or what reaches it is not installed.
    """
    location = os.fspath(location)
    if "://" not in location and "::" not in location:
        return LocalFiles(location)
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    from gpukm.snapshots.redact import redact_uri

    root = redact_uri(location).rstrip("/")
    with _explained(f"cannot open {root}"):
        # File systems are shared by all threads, and one's old listing would hide what another has just written.
        options = {**(storage_options or {}), "use_listings_cache": False}
        file_system, path = fsspec.core.url_to_fs(location, **options)
    if isinstance(file_system, LocalFileSystem):
        return LocalFiles(path)
    protocols = {file_system.protocol} if isinstance(file_system.protocol, str) else set(file_system.protocol)
    if "::" in location or not protocols & RemoteFiles.EXCLUSIVE:
        raise ConfigError(
            f"{root} cannot hold a store or checkpoints: {'/'.join(sorted(protocols))} cannot create a file only if "
            f"it is absent; expected a local folder or one of {', '.join(sorted(RemoteFiles.EXCLUSIVE))}"
        )
    return RemoteFiles(file_system, path, root)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _explained(what: str, missing: bool = False) -> Iterator[None]:
    """Turn the errors of systems and services into one line; a missing file is an answer unless ``missing``."""
    try:
        yield
    except (SnapshotCorruptError, ConfigError):
        raise
    except Exception as error:  # services raise whatever their client library defines
        if isinstance(error, FileNotFoundError) and not missing:
            raise
        text = redact_text(str(error)) or type(error).__name__
        if isinstance(error, OSError) and error.errno in _FULL:
            raise ConfigError(f"{what}: no room is left ({text}); free some space and run again") from error
        if isinstance(error, ImportError):
            raise ConfigError(f"{what}: {text}; for s3:// run: pip install 'gpukm[s3]'") from error
        raise ConfigError(f"{what}: {type(error).__name__}: {text}; check the address and your rights") from error
