"""Paths and URLs: which files they stand for, and how to open them."""

from __future__ import annotations

import difflib
import glob
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any

from gpukm.errors import DataError, GpukmError

#: In a folder that gpukm writes to an object store: there first, and there once all of it is; see pipeline/parts.py.
UNFINISHED, PUBLISHED = "_unfinished.gpukm", "_SUCCESS"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]*")
# Shorter option values (region names, flags) are no secrets, and would be found inside ordinary words.
_SECRET_CHARACTERS = 8


def is_url(location: str) -> bool:
    """Whether a location names a protocol; ``file:`` ones included."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)", location) is not None


def shown(location: str) -> str:
    """A location without user, password, query and fragment, for messages.

    Examples
    --------
    >>> shown("https://user:secret@host/flights.parquet?signature=abc")
    'https://host/flights.parquet'
    """
    return "::".join(_shown_link(link) for link in location.split("::")) if is_url(location) else location


def _shown_link(link: str) -> str:
    """One link of a chain of URLs."""
    return re.sub(r"://[^/]*@", "://", re.split(r"[?#]", link, maxsplit=1)[0]) if "://" in link else link


def told(error: BaseException, storage_options: Mapping[str, Any]) -> str:
    """The first line of an error's text, without addresses' secrets and without the storage options' values."""
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    text = _URL.sub(lambda match: shown(match.group()), text)
    for value in _texts(storage_options):
        text = text.replace(value, "<redacted>")
    return text.rstrip(".")


class Files:
    """The files that a path, folder, glob or URL stands for, in sorted order; picklable by location.

    Files of this machine are found and opened without fsspec. Names inside a folder that begin with a dot or an
    underscore are other programs' bookkeeping and left out.

    Parameters
    ----------
    location : str
    suffixes : tuple of str
        Endings of the files looked for in a folder, in lower case.
    storage_options : mapping or None
        For the file system of a URL; kept with the object, never shown.

    Attributes
    ----------
    local : bool
        Whether these are plain files of this machine.
    root : str
        The folder that ``key=value`` folders are counted from.
    paths : list of str

    Raises
    ------
    DataError
        Nothing is there, or it cannot be reached.
    """

    def __init__(
        self, location: str, suffixes: tuple[str, ...], storage_options: Mapping[str, Any] | None = None
    ) -> None:
        if not location:
            raise DataError("the path of the data is empty, expected a file, folder, glob or URL")
        self.location, self.storage_options = location, dict(storage_options or {})
        self.local = not is_url(location) or location.startswith("file://")
        if self.local:
            self.root, found, searched = _local_files(_absolute(location), suffixes)
        else:
            with self._reaching():
                self.root, found, searched = self._remote_files(suffixes)
        if not found and not searched:
            raise DataError(f"{shown(location)} does not exist{self._near()}")
        self.paths = sorted(path for path in found if not (searched and _hidden(path[len(self.root) :])))
        if not self.paths:
            raise DataError(f"{shown(location)} holds no file that ends in {', '.join(suffixes)}")

    def only(self, paths: list[str]) -> Files:
        """Some of the files."""
        files = copy(self)
        files.paths = paths
        return files

    def open(self, path: str, **options: Any) -> Any:
        """A seekable binary file; ``options`` go to the file system of a URL.

        Raises
        ------
        DataError
            It is not there any more, may not be read, or is empty.
        """
        with self._reaching(path):
            handle = Path(path).open("rb") if self.local else self.filesystem()[0].open(path, "rb", **options)  # noqa: SIM115
        if isinstance(handle, io.BytesIO):
            # memory:// gives all readers one file with one position; its bytes are shared, not copied.
            handle = io.BytesIO(handle.getvalue())
            size: int | None = len(handle.getbuffer())
        else:
            size = os.fstat(handle.fileno()).st_size if self.local else getattr(handle, "size", None)
        if size == 0:
            handle.close()
            raise DataError(f"{shown(path)} is empty (0 bytes); write it again")
        return handle

    def size_bytes(self, path: str) -> int | None:
        """A file's size; None where the place does not tell."""
        with self._reaching(path):
            return Path(path).stat().st_size if self.local else self.filesystem()[0].info(path).get("size")

    def filesystem(self) -> tuple[Any, str]:
        """The fsspec file system of a URL, and the path within it."""
        from fsspec.core import url_to_fs

        return url_to_fs(self.location, **self.storage_options)

    def reason(self, error: BaseException) -> str:
        """As :func:`told`, with the storage options."""
        return told(error, self.storage_options)

    @contextmanager
    def reading(self, path: str, kind: str, *errors: type[Exception], **options: Any) -> Iterator[Any]:
        """An open file; what goes wrong while it is read becomes a DataError that says which ``kind`` was expected.

        ``errors`` are what the reader of this kind raises beside OSError; ``options`` go to :meth:`open`.
        """
        with self.open(path, **options) as handle:
            try:
                yield handle
            except GpukmError:
                raise
            except self._errors(*errors) as error:
                raise DataError(
                    f"{shown(path)} is not a readable {kind} file: {self.reason(error)}; is it complete, and {kind}?"
                ) from None

    def _errors(self, *kinds: type[Exception]) -> tuple[type[Exception], ...]:
        """What reading may raise: object stores' clients raise classes of their own, which cannot be listed here."""
        return (OSError, *kinds) if self.local else (Exception,)

    @contextmanager
    def _reaching(self, path: str | None = None) -> Iterator[None]:
        """Make a DataError of whatever keeps a place from being reached."""
        try:
            yield
        except GpukmError:
            raise
        except self._errors() as error:
            where = shown(self.location if path is None else path)
            if isinstance(error, FileNotFoundError):
                raise DataError(f"{where} does not exist{self._near()}") from None
            raise DataError(f"{where} cannot be reached: {self.reason(error)}") from None

    def _remote_files(self, suffixes: tuple[str, ...]) -> tuple[str, list[str], bool]:
        """As :func:`_local_files`, at a URL."""
        fs, path = self.filesystem()
        magic = r"[*\[]" if _is_web(self.location) else r"[*?\[]"
        if re.search(magic, path):
            return re.split(magic, path)[0].rpartition("/")[0], [p for p in fs.glob(path) if fs.isfile(p)], True
        try:
            kind = fs.info(path)["type"]
        except FileNotFoundError:
            return path, [], False
        if kind == "directory":
            return path, _of_folder(self.location, fs.find(path), suffixes), True
        return path.rpartition("/")[0], [path], False

    def _near(self) -> str:
        """What to do about a missing file: the nearest name beside it, or the folder that is missing too."""
        beside: list[str] = []
        if _is_web(self.location):
            return "; check the address and the connection"
        if self.local:
            path = _absolute(self.location)
            gone = [folder for folder in path.parents if not folder.is_dir()]
            if gone:
                return f", nor does the folder {gone[-1]}; check the path"
            beside = [p.name for p in path.parent.iterdir()]
        else:
            with suppress(Exception):
                fs, inside = self.filesystem()
                beside = [p.rstrip("/").rpartition("/")[2] for p in fs.ls(inside.rpartition("/")[0], detail=False)]
        folder, slash, name = shown(self.location).rpartition("/")
        close = difflib.get_close_matches(name, beside, n=1)
        return f"; did you mean {folder}{slash}{close[0]}?" if close else "; check the path"


def _is_web(location: str) -> bool:
    """Whether a location is a web address, which lists no folders and has a query behind a question mark."""
    return re.search(r"(^|::)https?://", location) is not None


def _absolute(location: str) -> Path:
    """A local path that a worker process with another working folder finds, too."""
    # A user that is not there is left as it stands, a name like any other; Path.expanduser would raise.
    return Path(os.path.abspath(os.path.expanduser(location.removeprefix("file://"))))  # noqa: PTH100, PTH111


def _local_files(path: Path, suffixes: tuple[str, ...]) -> tuple[str, list[str], bool]:
    """The folder that partitions are counted from, the files, and whether they were searched for."""
    if path.is_file():
        return str(path.parent), [str(path)], False
    if path.is_dir():
        inside = [os.path.join(at, name) for at, _, names in os.walk(path, followlinks=True) for name in names]  # noqa: PTH118
        return str(path), _of_folder(str(path), inside, suffixes), True
    if glob.has_magic(str(path)):
        root = re.split(r"[*?\[]", str(path))[0].rpartition("/")[0]
        # Path.glob would follow no links to folders, and find names that begin with a dot.
        return root, [p for p in glob.glob(str(path), recursive=True) if Path(p).is_file()], True  # noqa: PTH207
    return str(path), [], False


def _of_folder(location: str, paths: list[str], suffixes: tuple[str, ...]) -> list[str]:
    """The files of a kind among those of a folder; DataError if gpukm has not written the folder to its end."""
    marked = {path.rpartition("/")[0] for path in paths if path.endswith(f"/{UNFINISHED}")}
    if marked - {path.rpartition("/")[0] for path in paths if path.endswith(f"/{PUBLISHED}")}:
        raise DataError(
            f"{shown(location)} was not written to its end: gpukm was stopped there, or is still at work; "
            "remove it and write it again"
        )
    return [path for path in paths if path.lower().endswith(suffixes)]


def _hidden(inside: str) -> bool:
    """Whether a path in a folder is bookkeeping: ``_SUCCESS``, ``.part``; but ``_key=value`` is a partition."""
    return any(part[0] in "._" and "=" not in part for part in inside.strip("/").split("/") if part)


def _texts(options: Any) -> Iterator[str]:
    """All texts in nested options that are long enough to be secrets."""
    if isinstance(options, Mapping):
        for value in options.values():
            yield from _texts(value)
    elif isinstance(options, str) and len(options) >= _SECRET_CHARACTERS:
        yield options
