"""Where checkpoints are kept: numbered files under one prefix, each whole, at any place that can hold a store.

An object store renames nothing, so nothing is ever replaced: each state is a new file, created if absent, the newest
that is whole counts, and those before it are removed but for one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from gpukm.checkpoint import Checkpoint, decode, encode
from gpukm.errors import ConfigError, SnapshotCorruptError
from gpukm.snapshots.files import TEMPORARY, Files, open_files

_NAME = re.compile(r"([0-9]{8,})\.safetensors")
#: How many are kept, so that there is one before a damaged one.
_KEPT = 2
_LIMIT_BYTES = 1 << 40


class Checkpoints:
    """The checkpoints of one fit.

    Parameters
    ----------
    files : Files
        A folder or a place in an object store.
    prefix : str
        The folder within it that holds these and nothing else; empty for all of it.

    Attributes
    ----------
    location : str
        For messages, without secrets.
    """

    def __init__(self, files: Files, prefix: str = "") -> None:
        self._files, self._prefix = files, prefix
        self._damaged: set[int] = set()
        self.location = f"{files.root}/{prefix}" if prefix else files.root

    @classmethod
    def open(cls, location: str) -> Checkpoints:
        """Those in a folder or at an fsspec URL; nothing is made yet.

        Raises
        ------
        ConfigError
            A file is there, or the place cannot create a file only if it is absent.
        """
        if "://" not in location and Path(location).is_file():
            raise ConfigError(
                f"the checkpoint {location} is a file, expected a folder or a URL; name another place, or delete it"
            )
        return cls(open_files(location))

    def exist(self) -> bool:
        """Whether any was saved here."""
        return bool(self._numbers())

    def check(self) -> None:
        """Raise ConfigError, before any long work, where it is plain that nothing can be saved.

        A folder that holds other things is refused, as in the end it is removed.
        """
        self._files.check_writable()
        known = (TEMPORARY,) if not self._prefix else ()
        names = self._files.names(self._prefix)
        other = [n for n in names if n not in known and not n.startswith(".") and not _NAME.fullmatch(n)]
        if other:
            raise ConfigError(
                f"the checkpoint {self.location} holds other things: {', '.join(other[:3])}; name an empty folder, or "
                "one that does not exist"
            )

    def save(self, checkpoint: Checkpoint) -> None:
        """Save a state durably; those before stay until it is whole.

        Raises
        ------
        ConfigError
            It cannot be written; what was saved before is there still.
        """
        data = encode(checkpoint)
        numbers = self._numbers()
        number = max(numbers, default=0) + 1
        while not self._files.create(self._path(number), [data]):
            number += 1  # a second run of the same fit saves here too, the same bits
        whole = [n for n in numbers if n not in self._damaged]
        for old in sorted(self._damaged.intersection(numbers) | set(whole[: 1 - _KEPT])):
            self._files.remove(self._path(old))

    def newest(self, warn: Callable[[str], None] = lambda text: None) -> Checkpoint | None:
        """The newest that is whole, None where none was saved; ``warn`` is told of each that is passed over.

        Raises
        ------
        SnapshotCorruptError
            All of them are damaged.
        ConfigError
            A newer gpukm wrote it, or it cannot be read.
        """
        reason = ""
        for number in reversed(self._numbers()):
            where = f"{self.location}/{self._name(number)}"
            try:
                found = decode(self._files.read(self._path(number), _LIMIT_BYTES), where)
            except FileNotFoundError:
                continue  # a second run has saved a newer one meanwhile
            except SnapshotCorruptError as error:
                self._damaged.add(number)
                reason = reason or str(error)
                continue
            if reason:
                warn(f"{reason}; going on from the one before, of iteration {found.iteration}")
            return found
        if reason:
            raise SnapshotCorruptError(f"no checkpoint is whole: {reason}; delete them and start without --resume")
        return None

    def clear(self) -> None:
        """Remove all of them, and the folder if it is empty then."""
        for number in self._numbers():
            self._files.remove(self._path(number))
        self._files.remove_folder(self._prefix)

    def _numbers(self) -> list[int]:
        """Numbers of those that are there, ascending."""
        found = map(_NAME.fullmatch, self._files.names(self._prefix))
        return sorted(int(match[1]) for match in found if match)

    def _name(self, number: int) -> str:
        """A file's name."""
        return f"{number:08d}.safetensors"

    def _path(self, number: int) -> str:
        """A file's path among all files."""
        return f"{self._prefix}/{self._name(number)}" if self._prefix else self._name(number)
