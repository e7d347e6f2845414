from __future__ import annotations

import os
import pickle
from pathlib import Path

import fsspec
import pytest

from gpukm.errors import DataError
from gpukm.sources.location import Files, is_url, shown


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("s3://bucket/x.parquet", "s3://bucket/x.parquet"),
        ("s3://key:secret@bucket/x.parquet", "s3://bucket/x.parquet"),
        ("ftp://u:p@ss@host/a@b.csv", "ftp://host/a@b.csv"),
        ("https://h/x.parquet?sig=secret#secret", "https://h/x.parquet"),
        ("https://h/x?next=u@v", "https://h/x"),
        ("simplecache::https://u:secret@h/x.csv?t=secret", "simplecache::https://h/x.csv"),
        ("zip://a.csv::s3://k:secret@b/z.zip", "zip://a.csv::s3://b/z.zip"),
        ("/data/what?.csv", "/data/what?.csv"),
        ("a@b.csv", "a@b.csv"),
    ],
)
def test_secrets_are_not_shown(location: str, expected: str) -> None:
    assert shown(location) == expected


@pytest.mark.parametrize(
    ("text", "url"), [("s3://b", True), ("a::b", True), ("file:///x", True), ("/x", False), ("x:y", False)]
)
def test_urls(text: str, url: bool) -> None:
    assert is_url(text) is url


def tree(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


def found(location: object) -> list[str]:
    files = Files(str(location), (".csv",))
    return [path[len(files.root) + 1 :] for path in files.paths]


def test_folders_and_globs_in_the_order_of_paths(tmp_path: Path) -> None:
    tree(
        tmp_path, "b.csv", "a/z.CSV", "a.csv", "a/y.txt", "_w/v.csv", ".h/v.csv", "a/_u.csv", "_k=1/c.csv", "m=2/c.csv"
    )
    expected = ["_k=1/c.csv", "a.csv", "a/z.CSV", "b.csv", "m=2/c.csv"]
    assert found(tmp_path) == expected
    assert found(f"file://{tmp_path}/") == expected
    assert found(tmp_path / "*.csv") == ["a.csv", "b.csv"]
    assert found(tmp_path / "*/z.CSV") == ["a/z.CSV"]
    assert found(tmp_path / "**/c.csv") == ["_k=1/c.csv", "m=2/c.csv"]
    # A file that is named is meant.
    assert found(tmp_path / "_w/v.csv") == ["v.csv"]


def test_remote_folders_are_as_local_ones(tmp_path: Path) -> None:
    names = ["b.csv", "a/z.CSV", "a.csv", "a/y.txt", "_w/v.csv", "m=2/c.csv"]
    tree(tmp_path, *names)
    for name in names:
        fsspec.filesystem("memory").pipe(f"/tree/{name}", b"x")
    for what in ("", "/*.csv", "/a.csv", "/m=*/*.csv"):
        assert found(f"{tmp_path}{what}") == found(f"memory://tree{what}")


def test_relative_paths_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "a.csv")
    monkeypatch.chdir(tmp_path)
    files = pickle.loads(pickle.dumps(Files("a.csv", (".csv",))))
    monkeypatch.chdir("/")
    with files.open(files.paths[0]) as handle:
        assert handle.read() == b"x"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert found("~/a.csv") == ["a.csv"]


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("{}/flights.csv", "flights.csv does not exist; did you mean {}/flight.csv?"),
        ("{}/zzzzzzz", "does not exist; check the path"),
        ("{}/no/such/x.csv", "x.csv does not exist, nor does the folder {}/no; check the path"),
        ("~no-such-user/x.csv", "~no-such-user/x.csv does not exist, nor does the folder"),
        ("{}/*.parquet", "holds no file that ends in .csv"),
        ("{}/empty", "holds no file that ends in .csv"),
        ("", "the path of the data is empty"),
        ("memory://near/flights.csv", "did you mean memory://near/flight.csv?"),
        ("memory://near/zzzzz", "does not exist; check the path"),
        ("nosuch://u:secret@host/x", "nosuch://host/x cannot be reached: Protocol not known: nosuch"),
    ],
)
def test_what_is_missing_is_told_with_the_next_step(location: str, message: str, tmp_path: Path) -> None:
    tree(tmp_path, "flight.csv", "empty/x.txt")
    fsspec.filesystem("memory").pipe("/near/flight.csv", b"x")
    with pytest.raises(DataError) as caught:
        Files(location.format(tmp_path), (".csv",))
    assert message.format(tmp_path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    tree(tmp_path, "a.csv")
    (tmp_path / "a.csv").chmod(0)
    files = Files(str(tmp_path / "a.csv"), (".csv",))
    with pytest.raises(DataError, match=r"a\.csv cannot be reached: Permission denied"):
        files.open(files.paths[0])


def test_an_error_is_told_without_secrets() -> None:
    fsspec.filesystem("memory").pipe("/secret/a.csv", b"x")
    files = Files("memory://secret/a.csv", (".csv",), {"client": {"key": "AKIA-secret-key"}, "anon": False})
    error = RuntimeError("403 for https://u:pw@h/x?sig=abc with AKIA-secret-key.\nmore")
    assert files.reason(error) == "403 for https://h/x with <redacted>"
    with pytest.raises(DataError) as caught, files.reading(files.paths[0], "CSV"):
        raise error
    assert "AKIA" not in str(caught.value) and caught.value.__suppress_context__


def test_errors_of_gpukm_pass_as_they_are(tmp_path: Path) -> None:
    tree(tmp_path, "a.csv")
    files = Files(str(tmp_path / "a.csv"), (".csv",))
    with pytest.raises(DataError, match=r"^mine$"), files.reading(files.paths[0], "CSV"):
        raise DataError("mine")
    with pytest.raises(ZeroDivisionError), files.reading(files.paths[0], "CSV"):
        raise ZeroDivisionError
