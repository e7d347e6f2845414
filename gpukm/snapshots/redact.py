"""Secrets are taken out of everything that goes into a log record."""

from __future__ import annotations

import re
from typing import Any

REDACTED = "<redacted>"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s'\"<>]*")
_WORDS = (
    r"passw(?:or)?d|passphrase|pwd|secret|token|credentials?|api[_-]?key|access[_-]?key|account[_-]?key|private[_-]?key"
    r"|sas[_-]?key|signature|connection[_-]?string|storage[_-]?options|authorization"
)
_SECRET_KEY = re.compile(rf"(?:^|[_\-.])(?:{_WORDS})(?:$|[_\-.])", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ASSIGNMENT = re.compile(
    rf"((?:{_WORDS})[\w-]*['\"]?\s*[=:]\s*)(?!//)(?:(?:Bearer|Basic)\s+)?[^\s,;&}}]+", re.IGNORECASE
)


def redact_uri(uri: str) -> str:
    """Strip user, password, query and fragment from a URI, or from each link of an fsspec chain.

    Text without ``://`` is a path and comes back as it is.

    Examples
    --------
    >>> redact_uri("s3://key:secret@bucket/flights.parquet?versionId=7")
    's3://bucket/flights.parquet'
    """
    return "::".join(_redact_link(link) for link in uri.split("::"))


def redact_text(text: str) -> str:
    """Redact every URI inside a text, and the value in ``password=value`` and its like."""
    text = _URI.sub(lambda match: redact_uri(match.group()), text)
    return _ASSIGNMENT.sub(rf"\1{REDACTED}", text)


def redact(value: Any) -> Any:
    """Redact all texts in nested dictionaries and lists, and whole values under keys such as ``storage_options``."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {key: REDACTED if _is_secret(key) and item else redact(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]
    return value


def _redact_link(link: str) -> str:
    """Redact one URI of a chain."""
    scheme, mark, rest = link.partition("://")
    if not mark:
        return link
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def _is_secret(key: object) -> bool:
    """Whether the value under this key must not be written down."""
    return isinstance(key, str) and (key.lower() == "key" or _SECRET_KEY.search(_CAMEL.sub("_", key)) is not None)
