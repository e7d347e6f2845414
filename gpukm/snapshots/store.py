"""A store: a folder, or an fsspec URL, that holds the snapshots of any number of models.

::

    store.json                        {"format":1}
    blobs/sha256/ab/abcd...           manifests and arrays, immutable, named by their SHA-256
    models/<model>/log/00000001.json  one record a publication, each naming the digest of the one before
    jobs/<id>/                        jobs that were submitted to a cluster, see :mod:`gpukm.pipeline.jobs`
    tmp/                              files being written; what is left there means nothing

A snapshot exists once its record does. Everything it refers to is durable before, so a kill at any moment leaves the
store as it was, at worst with blobs that nobody refers to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpukm.errors import ConfigError, GpukmError, SnapshotCorruptError, SnapshotNotFoundError
from gpukm.snapshots.canonical import canonical_json, parse_json
from gpukm.snapshots.files import TEMPORARY, Files, open_files
from gpukm.snapshots.golden import check_golden
from gpukm.snapshots.log import Log, Once, Record
from gpukm.snapshots.manifest import read_content, read_manifest, write_content
from gpukm.snapshots.snapshot import Labeller, Snapshot, SnapshotContent, SnapshotRef

STORE_FORMAT = 1
_MARKER = "store.json"
_MARKER_LIMIT_BYTES = 1 << 16
_MODEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
_NUMBER = re.compile(r"[0-9]{1,7}")
_PREFIX = re.compile(r"[0-9a-f]{4,64}")


class Store:
    """Use :meth:`open`.

    Attributes
    ----------
    location : str
        The folder or URL, without secrets.
    files : Files
        What it consists of.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self._writable = False
        self.location = files.root

    @classmethod
    def open(
        cls,
        location: str | os.PathLike[str],
        *,
        create: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Store:
        """Open a store.

        Parameters
        ----------
        location : str or path
            Folder or fsspec URL.
        create : bool
            Open it to publish: accept a place where nothing is yet, which the first publication makes a store, and
            refuse one that cannot be written.
        storage_options : mapping or None
            For fsspec; never written anywhere.

        Raises
        ------
        SnapshotNotFoundError
            There is no store, or what is there is something else.
        ConfigError
            A newer format, or a file system that cannot create a file only if it is absent.
        """
        if Path(location).is_file():
            raise SnapshotNotFoundError(f"{os.fspath(location)} is a file; expected the folder of a snapshot store")
        store = cls(open_files(location, storage_options))
        if create:
            store.files.check_writable()
        if not store._exists():
            found = [n for n in store.files.names("") if n not in (TEMPORARY, "lost+found") and not n.startswith(".")]
            # Somebody may have made it a store between the two looks.
            if found and not store._exists():
                raise SnapshotNotFoundError(
                    f"{store.location} is not a snapshot store: it holds {', '.join(found[:3])} but no {_MARKER}; "
                    "name a store, or an empty folder to make one"
                )
            if not found and not create:
                raise SnapshotNotFoundError(f"there is no snapshot store at {store.location}; gpukm train makes one")
        return store

    def models(self) -> list[str]:
        """Names of the models that have a snapshot, sorted."""
        names = (name for name in self.files.names("models") if _MODEL.fullmatch(name))
        return [name for name in names if Log(self.files, name).numbers()]

    def records(self, model: str) -> list[Record]:
        """The whole log of a model, oldest first, its chain checked.

        Raises
        ------
        SnapshotNotFoundError
            There is no such model.
        SnapshotCorruptError
            A record is missing, damaged, or does not follow the one before.
        """
        log = self._log(model)
        return [self._linked(log, model, number) for number in range(1, log.numbers()[-1] + 1)]

    def publish(
        self,
        model: str,
        content: SnapshotContent,
        provenance: Mapping[str, Any] | None = None,
        *,
        labeller: Labeller | None = None,
        once: Once | None = None,
    ) -> SnapshotRef:
        """Store a snapshot and commit it as the model's next number.

        Parameters
        ----------
        model : str
            Up to 100 letters, digits, ``.``, ``_`` and ``-``.
        content : SnapshotContent
        provenance : mapping or None
            JSON types. Secrets are taken out: passwords and queries in URIs, storage options, tokens.
        labeller : callable or None
            Checks the golden rows; None takes :func:`gpukm.functional.assign`.
        once : Once or None
            Publish at most once by this name, whoever else tries: what was published first counts, and is returned.

        Raises
        ------
        ConfigError, DataError
            What is to be stored, or the place, is not fit for it; the model's log is as before.
        SnapshotCorruptError
            The golden rows get other labels, or the newest record is damaged.
        """
        _check_model(model)
        check_golden(content, f"this fit of model {model!r}", labeller)
        canonical_json(dict(provenance or {}))
        self.make_writable()
        snapshot_id = write_content(self.files, content)
        record = Log(self.files, model).append(snapshot_id, provenance or {}, once)
        return SnapshotRef(record.snapshot, model, record.number)

    def published(self, model: str, once: Once) -> SnapshotRef | None:
        """What was published by this name; None where nothing was.

        Raises
        ------
        SnapshotCorruptError
            A record is damaged.
        """
        _check_model(model)
        record = Log(self.files, model).published(once)
        return None if record is None else SnapshotRef(record.snapshot, model, record.number)

    def n_records(self, model: str) -> int:
        """How many publications a model has; 0 where there is no such model."""
        _check_model(model)
        return max(Log(self.files, model).numbers(), default=0)

    def find(self, model: str, ref: str | int = "latest") -> Record:
        """The record that ``ref`` names: ``"latest"``, a number, or the first four or more digits of an id."""
        log = self._log(model)
        text = str(ref)
        if text == "latest":
            return log.read(log.numbers()[-1])
        if _NUMBER.fullmatch(text):
            return log.read(int(text))
        if not _PREFIX.fullmatch(text):
            raise SnapshotNotFoundError(
                f"{text[:80]!r} names no snapshot; expected 'latest', a number, or an id's first four or more digits"
            )
        matches = {r.snapshot: r for r in map(log.read, log.numbers()) if r.snapshot.startswith(text)}
        if len(matches) != 1:
            found = "several snapshots start" if matches else "no snapshot starts"
            raise SnapshotNotFoundError(f"{found} with {text!r} in model {model!r}; see: gpukm snapshots list")
        return matches.popitem()[1]

    def manifest(self, snapshot_id: str) -> dict[str, Any]:
        """The manifest of a snapshot, checked against the id, without reading any array."""
        return read_manifest(self.files, snapshot_id)

    def load(self, model: str, ref: str | int = "latest", *, labeller: Labeller | None = None) -> Snapshot:
        """Read a snapshot, check every byte against its digest, and label its golden rows again.

        Parameters
        ----------
        model : str
        ref : str or int
            As in :meth:`find`.
        labeller : callable or None
            As in :meth:`publish`.

        Raises
        ------
        SnapshotNotFoundError
        SnapshotCorruptError
        ConfigError
            It was written by a newer gpukm.
        """
        record = self.find(model, ref)
        content = read_content(self.files, record.snapshot)
        snapshot = replace(content, model=model, number=record.number, provenance=record.provenance)
        check_golden(snapshot, f"snapshot {record.snapshot[:12]} of model {model!r}", labeller)
        return snapshot

    def verify(
        self, model: str | None = None, ref: str | int | None = None, *, labeller: Labeller | None = None
    ) -> list[str]:
        """Check records and their chain, manifests, blobs and golden rows, and list every problem found.

        Parameters
        ----------
        model : str or None
            None checks every model.
        ref : str, int or None
            None checks every snapshot of the model. The chain of records is checked in any case.
        """
        problems: list[str] = []
        snapshots: dict[str, tuple[str, int]] = {}
        for name in [model] if model else self.models():
            log = self._log(name)
            chosen = None if ref is None else self.find(name, ref).number
            for number in range(1, log.numbers()[-1] + 1):
                try:
                    record = self._linked(log, name, number)
                except GpukmError as error:
                    problems.append(str(error))
                    continue
                if chosen in (None, number):
                    snapshots.setdefault(record.snapshot, (name, number))
        for name, number in snapshots.values():
            try:
                self.load(name, number, labeller=labeller)
            except GpukmError as error:
                problems.append(str(error))
        return list(dict.fromkeys(problems))

    def _linked(self, log: Log, model: str, number: int) -> Record:
        """A record that is there and names the one before."""
        try:
            record = log.read(number)
            previous = log.read(number - 1).digest if number > 1 else None
        except SnapshotNotFoundError as error:
            raise SnapshotCorruptError(f"the log of model {model!r} has a gap: {error}") from None
        if record.previous != previous:
            raise SnapshotCorruptError(
                f"record {number} of model {model!r} in {self.location} does not follow record {number - 1}: one of "
                "them was replaced; restore the log from a copy"
            )
        return record

    def _log(self, model: str) -> Log:
        """The log of a model that exists."""
        _check_model(model)
        log = Log(self.files, model)
        if not log.numbers():
            names = ", ".join(self.models()[:5]) or "none yet"
            raise SnapshotNotFoundError(f"there is no model {model!r} in {self.location}; there are: {names}")
        return log

    def _exists(self) -> bool:
        """Whether the marker is there and of a format this version reads."""
        try:
            data = self.files.read(_MARKER, _MARKER_LIMIT_BYTES)
        except FileNotFoundError:
            return False
        found = parse_json(data, f"{self.location}/{_MARKER}").get("format")
        if not isinstance(found, int) or found < 1:
            raise SnapshotNotFoundError(
                f"{self.location} is not a snapshot store: {_MARKER} names no format; name a store, or an empty folder"
            )
        if found > STORE_FORMAT:
            raise ConfigError(f"{self.location} has the format {found}, newer than {STORE_FORMAT}; update gpukm")
        return True

    def make_writable(self) -> None:
        """Make the place a store, and see once that what is there is not overwritten.

        Raises
        ------
        ConfigError
            It cannot be one.
        """
        if self._writable:
            return
        marker = canonical_json({"format": STORE_FORMAT})
        if not self.files.create(_MARKER, [marker]):
            self._exists()
            marker = self.files.read(_MARKER, _MARKER_LIMIT_BYTES)
        if self.files.create(_MARKER, [marker]):
            raise ConfigError(
                f"{self.location} cannot hold a snapshot store: the service overwrites a file where it was asked to "
                "create one only if absent; use a service with conditional writes, or a local folder"
            )
        self.files.clean()
        self._writable = True


def _check_model(model: str) -> None:
    """Raise ConfigError unless a model's name is safe as the name of a folder anywhere."""
    if not isinstance(model, str) or not _MODEL.fullmatch(model):
        raise ConfigError(
            f"{str(model)[:120]!r} is not a model name; expected up to 100 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit and not ending in '.'"
        )
