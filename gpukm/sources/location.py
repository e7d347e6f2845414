"""Paths and URLs: what is there, and how to open it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpukm.errors import DataError


def is_url(location: str) -> bool:
    """Whether a location names a protocol; ``file:`` ones included."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)", location) is not None


def shown(location: str) -> str:
    """A location without user, password and query, for messages."""
    return re.sub(r"//[^/@]*@", "//", location.split("?")[0]) if is_url(location) else location


class Files:
    """The files that a path, folder, glob or URL stands for, in sorted order.

    Parameters
    ----------
    location : str
    suffixes : sequence of str
        Endings of the files looked for in a folder.
    storage_options : mapping or None
        For the file system of a URL; kept with the object, never shown.

    Raises
    ------
    DataError
        Nothing is there.
    """

    def __init__(
        self, location: str, suffixes: tuple[str, ...], storage_options: Mapping[str, Any] | None = None
    ) -> None:
        self.location, self.storage_options = location, dict(storage_options or {})
        self.root, self.paths = self._find(suffixes)

    def _find(self, suffixes: tuple[str, ...]) -> tuple[str, list[str]]:
        """The folder that partitions are counted from, and the files."""
        fs, path = self.filesystem()
        try:
            if any(c in path for c in "*?["):
                found = [p for p in fs.glob(path) if fs.isfile(p)]
                root = re.split(r"[*?\[]", path)[0].rpartition("/")[0]
            elif fs.isdir(path):
                found = [p for p in fs.find(path) if p.lower().endswith(suffixes)]
                root = path
            elif fs.exists(path):
                found, root = [path], path.rpartition("/")[0]
            else:
                raise DataError(f"{shown(self.location)} does not exist{self._near()}")
        except (OSError, ImportError) as error:
            raise DataError(f"{shown(self.location)} cannot be reached: {type(error).__name__}") from None
        # Names that begin with a dot or underscore are other programs' bookkeeping.
        inside = [p for p in found if not any(part[0] in "._" for part in p[len(root) :].strip("/").split("/") if part)]
        if not inside:
            raise DataError(f"{shown(self.location)} holds no {' or '.join(suffixes)} file")
        return root, sorted(inside)

    def filesystem(self) -> tuple[Any, str]:
        """The fsspec file system, and the path within it."""
        from fsspec.core import url_to_fs

        try:
            return url_to_fs(self.location, **self.storage_options)
        except (ImportError, ValueError) as error:
            raise DataError(f"{shown(self.location)} cannot be opened: {str(error).splitlines()[0]}") from None

    @property
    def local(self) -> bool:
        """Whether these are files of this machine."""
        protocol = self.filesystem()[0].protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def open(self, path: str) -> Any:
        """A seekable binary file."""
        return self.filesystem()[0].open(path, "rb")

    def _near(self) -> str:
        """The nearest name beside a missing local file."""
        if is_url(self.location):
            return "; check the address"
        path = Path(self.location)
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, beside, n=1)
        return f"; did you mean {path.parent / close[0]}?" if close else "; check the path"
