"""The append-only log of one model: numbered records, each naming the digest of the one before.

Creating the next number if it is absent is the commit of a snapshot. A record carries its own digest, so that damage
to the newest one, which no other record names yet, is found too.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpukm.errors import ConfigError, SnapshotConflictError, SnapshotCorruptError, SnapshotNotFoundError
from gpukm.snapshots.canonical import canonical_json, field, parse_json, sha256
from gpukm.snapshots.files import Files
from gpukm.snapshots.redact import redact

RECORD_FORMAT = 1
_RECORD_LIMIT_BYTES = 4 << 20
_NAME = re.compile(r"([0-9]{8})\.json")
_ATTEMPTS = 10_000


@dataclass(frozen=True)
class Record:
    """One publication.

    Attributes
    ----------
    model : str
    number : int
        Counts from 1 without gaps.
    snapshot : str
        Id of the published snapshot.
    previous : str or None
        Digest of record ``number - 1``; None in the first.
    provenance : dict
        Who, where, when and how; never secrets.
    nonce : str
        Random, so that a writer whose answer was lost can tell its own record from an equal one; where it is published
        once only, that of :class:`Once`.
    digest : str
        SHA-256 of the canonical JSON of all the above.
    """

    model: str
    number: int
    snapshot: str
    previous: str | None
    provenance: dict[str, Any]
    nonce: str
    digest: str


@dataclass(frozen=True)
class Once:
    """A name by which a snapshot is published once, however many try.

    Attributes
    ----------
    name : str
        Its digest is the nonce of the record.
    after : int
        Number of the model's newest record when nobody could have published by this name yet.
    """

    name: str
    after: int = 0

    @property
    def nonce(self) -> str:
        """What the record holds."""
        return sha256(self.name.encode())[:32]


class Log:
    """The records of one model; ``model`` must be a checked name."""

    def __init__(self, files: Files, model: str) -> None:
        self._files = files
        self._model = model
        self._folder = f"models/{model}/log"

    def numbers(self) -> list[int]:
        """Numbers of the records there are, ascending."""
        matches = (_NAME.fullmatch(name) for name in self._files.names(self._folder))
        return sorted(int(match.group(1)) for match in matches if match)

    def read(self, number: int) -> Record:
        """One record, checked against its own digest.

        Raises
        ------
        SnapshotNotFoundError
            There is no such number.
        SnapshotCorruptError
            It is damaged.
        """
        what = f"record {number} of model {self._model!r} in {self._files.root}"
        try:
            data = self._files.read(self._path(number), _RECORD_LIMIT_BYTES)
        except FileNotFoundError:
            raise SnapshotNotFoundError(f"there is no {what}; list them with: gpukm snapshots list") from None
        value = parse_json(data, what)
        if field(value, "format", int, what) > RECORD_FORMAT:
            raise ConfigError(f"{what} has the format {value['format']}, newer than {RECORD_FORMAT}; update gpukm")
        digest = field(value, "digest", str, what)
        body = {key: item for key, item in value.items() if key != "digest"}
        if canonical_json(value) != data or sha256(canonical_json(body)) != digest:
            raise SnapshotCorruptError(f"{what} is damaged: its digest does not match; restore it from a copy")
        record = Record(
            model=field(value, "model", str, what),
            number=field(value, "number", int, what),
            snapshot=field(value, "snapshot", str, what),
            previous=field(value, "previous", (str, type(None)), what),
            provenance=field(value, "provenance", dict, what),
            nonce=field(value, "nonce", str, what),
            digest=digest,
        )
        if (record.model, record.number) != (self._model, number):
            raise SnapshotCorruptError(f"{what} says it is record {record.number} of {record.model!r}; it was moved")
        return record

    def published(self, once: Once) -> Record | None:
        """The record of this name; None where there is none."""
        found = (self.read(number) for number in self.numbers() if number > once.after)
        return next((record for record in found if record.nonce == once.nonce), None)

    def append(self, snapshot: str, provenance: Mapping[str, Any], once: Once | None = None) -> Record:
        """Commit a snapshot under the next free number, after as many other writers as come first.

        With ``once`` a record of that name is returned instead, if there is one. None can be missed, and none made
        twice: every record up to the number that is created has been looked at.

        Raises
        ------
        ConfigError
            The provenance is not JSON or larger than 4 MiB.
        SnapshotCorruptError
            The newest record is damaged, so nothing may be chained to it.
        """
        nonce = secrets.token_hex(16) if once is None else once.nonce
        numbers = self.numbers()
        number = numbers[-1] if numbers else 0
        if once is not None and (found := self.published(once)) is not None:
            return found
        for _ in range(_ATTEMPTS):
            previous = self.read(number).digest if number else None
            number += 1
            body = {
                "format": RECORD_FORMAT,
                "model": self._model,
                "number": number,
                "snapshot": snapshot,
                "previous": previous,
                "provenance": redact(dict(provenance)),
                "nonce": nonce,
            }
            digest = sha256(canonical_json(body))
            data = canonical_json({**body, "digest": digest})
            if len(data) > _RECORD_LIMIT_BYTES:
                raise ConfigError(f"provenance takes {len(data)} bytes, expected at most {_RECORD_LIMIT_BYTES}")
            # Of a name, or after the answer to our own request was lost: one of this nonce is the record.
            if self._files.create(self._path(number), [data]) or self.read(number).nonce == nonce:
                return self.read(number)
        raise SnapshotConflictError(f"{_ATTEMPTS} other writers came first to model {self._model!r}; try again later")

    def _path(self, number: int) -> str:
        """Where a record lies."""
        if not 1 <= number <= 99_999_999:
            raise SnapshotNotFoundError(f"there is no record {number}: they are numbered from 1 to 99999999")
        return f"{self._folder}/{number:08d}.json"
