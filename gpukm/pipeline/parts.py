"""A folder of Parquet parts that many processes write and that counts once it is whole.

Parts are named in the order of the rows, ``part-00000.parquet`` and so on, so that the folder is read as one table in
that order. A part that is written again, since a worker was lost, replaces itself by the same bytes.

On a file system parts are written to a hidden folder beside the target, which one rename publishes. Object stores
have no such rename: there parts get their names at once, beside an object ``_unfinished.gpukm`` that was there first.
The creation of ``_SUCCESS`` (the parts' names, rows and bytes) publishes them, and then the mark goes. A folder that
has the mark and no ``_SUCCESS`` was not written to its end, and gpukm refuses to read it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from gpukm.errors import ConfigError, ExecutorError, GpukmError
from gpukm.pipeline.files import atomic_file, sync_folder
from gpukm.sources.location import PUBLISHED, UNFINISHED, is_url, shown, told

_FORMAT = 1


@dataclass(frozen=True)
class Part:
    """What a writer says it wrote.

    Attributes
    ----------
    n_rows, size_bytes : int
    """

    n_rows: int
    size_bytes: int


class PartFolder(ABC):
    """Where parts go; picklable, for the writers."""

    target: str

    @abstractmethod
    def begin(self) -> None:
        """Make the place that parts are written to."""

    @abstractmethod
    def part(self, number: int) -> Any:
        """A context: a binary file that becomes a part, whole, when the block ends well."""

    @abstractmethod
    def publish(self, parts: Sequence[Part]) -> None:
        """Make these parts, all there are, the output.

        Raises
        ------
        ExecutorError
            One is not there as it was written: writers and this process do not see the same place.
        """

    @abstractmethod
    def abandon(self) -> None:
        """Remove what has been written."""

    def _check(self, number: int, part: Part, size_bytes: int | None) -> None:
        """Raise ExecutorError unless a part is there as its writer says."""
        if size_bytes != part.size_bytes:
            found = "is not there" if size_bytes is None else f"has {size_bytes} bytes"
            raise ExecutorError(
                f"{_name(number)} of {self.target} {found}, expected the {part.size_bytes} bytes that a worker wrote; "
                "choose a place that this machine and all workers share"
            )


def part_folder(out: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> PartFolder:
    """Where the output goes; nothing is made yet.

    Parameters
    ----------
    out : path or URL
        Of a folder that is not there yet, which all writers can reach.
    storage_options : mapping or None
        For the file system of a URL.

    Raises
    ------
    ConfigError
        Something is there already, or nothing can be made there.
    """
    out = os.fspath(out)
    if is_url(out) and not out.startswith("file://"):
        remote = _RemoteFolder(out.rstrip("/"), dict(storage_options or {}))
        remote.check_absent()
        return remote
    target = Path(os.path.abspath(os.path.expanduser(out.removeprefix("file://"))))  # noqa: PTH100, PTH111
    if os.path.lexists(target):
        raise ConfigError(f"the output {target} is there already; remove it or choose another name")
    folder = target.parent
    if not folder.is_dir():
        raise ConfigError(f"the output {target}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"the output {target}: no permission to write in {folder}; choose another place")
    aside = target.with_name(f".{target.name[:200]}.{secrets.token_hex(8)}.tmp")
    return _LocalFolder(str(target), str(aside))


@dataclass(frozen=True)
class _LocalFolder(PartFolder):
    """A folder of a file system that all writers share."""

    target: str
    aside: str

    def begin(self) -> None:
        Path(self.aside).mkdir()

    @contextmanager
    def part(self, number: int) -> Iterator[BinaryIO]:
        with atomic_file(Path(self.aside) / _name(number)) as stream:
            yield stream

    def publish(self, parts: Sequence[Part]) -> None:
        aside, target = Path(self.aside), Path(self.target)
        for number, part in enumerate(parts):
            path = aside / _name(number)
            self._check(number, part, path.stat().st_size if path.exists() else None)
        names = {_name(number) for number in range(len(parts))}
        for entry in aside.iterdir():
            if entry.name not in names:  # what an attempt has left that did not end
                entry.unlink()
        sync_folder(aside)
        try:
            aside.rename(target)
        except OSError as error:
            raise ConfigError(
                f"the output {target} cannot be published: {error.strerror}; something else has taken the name, so "
                "choose another one"
            ) from None
        sync_folder(target.parent)

    def abandon(self) -> None:
        shutil.rmtree(self.aside, ignore_errors=True)


@dataclass(frozen=True)
class _RemoteFolder(PartFolder):
    """A prefix of an object store, where an object appears whole or not at all."""

    url: str
    storage_options: dict[str, Any] = field(repr=False)

    @property
    def target(self) -> str:  # type: ignore[override]
        """The URL without secrets."""
        return shown(self.url)

    def begin(self) -> None:
        with self._reached() as (fs, path):
            fs.makedirs(path, exist_ok=True)
            try:
                fs.pipe_file(f"{path}/{UNFINISHED}", b"gpukm writes here, or was stopped while it did\n", mode="create")
            except FileExistsError:
                raise self._taken() from None

    @contextmanager
    def part(self, number: int) -> Iterator[BinaryIO]:
        # Written through, an error would leave half of a part.
        with tempfile.TemporaryDirectory(prefix="gpukm-part-") as folder:
            file = Path(folder) / _name(number)
            with file.open("xb") as stream:
                yield stream
            with self._reached() as (fs, path):
                fs.put_file(str(file), f"{path}/{_name(number)}")

    def publish(self, parts: Sequence[Part]) -> None:
        listed = [{"name": _name(i), "rows": p.n_rows, "bytes": p.size_bytes} for i, p in enumerate(parts)]
        manifest = {"format": _FORMAT, "rows": sum(p.n_rows for p in parts), "parts": listed}
        with self._reached() as (fs, path):
            there = {entry["name"].rpartition("/")[2]: entry["size"] for entry in fs.ls(path, detail=True)}
            for number, part in enumerate(parts):
                self._check(number, part, there.get(_name(number)))
            fs.pipe_file(f"{path}/{PUBLISHED}", json.dumps(manifest, indent=1).encode())
            fs.rm_file(f"{path}/{UNFINISHED}")

    def abandon(self) -> None:
        with self._reached() as (fs, path):
            names = {name.rpartition("/")[2] for name in fs.ls(path, detail=False)}
            # The mark is the last to go.
            for name in [*sorted(name for name in names if name.startswith("part-")), UNFINISHED]:
                if name in names:
                    fs.rm_file(f"{path}/{name}")

    def check_absent(self) -> None:
        """Raise ConfigError where something is there, or there is no bucket for it."""
        with self._reached() as (fs, path):
            bucket = path.split("/", 1)[0]
            if bucket and not fs.exists(bucket):
                raise ConfigError(f"the output {self.target}: there is no bucket {bucket!r}; make it first")
            if fs.exists(path) and (fs.isfile(path) or fs.find(path)):
                raise self._taken()

    def _taken(self) -> ConfigError:
        """What is said where something is there."""
        return ConfigError(f"the output {self.target} is there already; remove it or choose another name")

    @contextmanager
    def _reached(self) -> Iterator[tuple[Any, str]]:
        """The file system, which remembers nothing, and the path within it; errors say what could not be reached."""
        from fsspec.core import url_to_fs

        try:
            fs, path = url_to_fs(self.url, **self.storage_options)
            fs.invalidate_cache()
            yield fs, path
        except GpukmError:
            raise
        except Exception as error:  # object stores' clients raise classes of their own
            reason = told(error, self.storage_options)
            raise ConfigError(f"the output {self.target} cannot be written: {reason}; check the address") from None


def _name(number: int) -> str:
    """Names sort as numbers do."""
    return f"part-{number:05}.parquet"
