"""No secret reaches a log record, and what is no secret stays."""

from __future__ import annotations

import pytest

from gpukm.snapshots.redact import REDACTED, redact, redact_text, redact_uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://key:secret@bucket/a/b.parquet", "s3://bucket/a/b.parquet"),
        ("s3://bucket/a@b.parquet", "s3://bucket/a@b.parquet"),
        ("https://user:p%40ss@host:8080/x?sig=abc&e=1#frag", "https://host:8080/x"),
        ("https://user:p@ss@host/x", "https://host/x"),
        ("abfs://box@account.dfs.core.windows.net/x?sv=1", "abfs://account.dfs.core.windows.net/x"),
        ("simplecache::https://u:p@host/x?t=1", "simplecache::https://host/x"),
        ("zip://inner.csv::https://u:p@host/x.zip?t=1", "zip://inner.csv::https://host/x.zip"),
        ("file:///data/x.npy", "file:///data/x.npy"),
        ("/data/what?.npy", "/data/what?.npy"),
        ("C:\\data\\x.npy", "C:\\data\\x.npy"),
        ("", ""),
    ],
)
def test_uris(uri: str, expected: str) -> None:
    assert redact_uri(uri) == expected


@pytest.mark.parametrize(
    "text",
    [
        "open https://me:hunter2@host/x failed",
        "password=hunter2",
        "--storage-options='hunter2'",
        '{"aws_secret_access_key": "hunter2"}',
        "AccountKey=hunter2;EndpointSuffix=x",
        "Authorization: Bearer hunter2",
        "GET http://h/p?X-Amz-Signature=hunter2 403",
    ],
)
def test_texts(text: str) -> None:
    assert "hunter2" not in redact_text(text)


def test_nested_values_and_keys() -> None:
    value = {
        "data": ["s3://k:s@b/x"],
        "storage_options": {"key": "hunter2"},
        "dbPassword": "hunter2",
        "aws_session_token": "hunter2",
        "key": "hunter2",
        "token": None,
        "n_tokens": 7,
        "monkey": "banana",
        "rows_per_second": 1.5,
        "nested": ({"apiKey": "hunter2"},),
    }
    assert redact(value) == {
        "data": ["s3://b/x"],
        "storage_options": REDACTED,
        "dbPassword": REDACTED,
        "aws_session_token": REDACTED,
        "key": REDACTED,
        "token": None,
        "n_tokens": 7,
        "monkey": "banana",
        "rows_per_second": 1.5,
        "nested": [{"apiKey": REDACTED}],
    }
