"""Folders of parts: whole or absent, wherever they are written."""

from __future__ import annotations

import json
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpukm.errors import ConfigError, DataError, ExecutorError
from gpukm.pipeline.parts import Part, PartFolder, part_folder
from gpukm.sources import open_source
from gpukm.sources.table import Table
from tests.s3 import make_bucket, needs_s3, s3_options


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a folder can be made."""
    if request.param == "local":
        yield str(tmp_path / "out.parquet")
        return
    name = uuid.uuid4().hex
    yield f"memory://{name}/out.parquet"
    fs = fsspec.filesystem("memory")
    if fs.exists(f"/{name}"):
        fs.rm(f"/{name}", recursive=True)


def put(folder: PartFolder, number: int, values: list[int]) -> Part:
    """Write a part, as a worker does."""
    folder = pickle.loads(pickle.dumps(folder))
    with folder.part(number) as stream:
        pq.write_table(pa.table({"x": pa.array(values, pa.int64())}), stream)
        size = stream.tell()
    return Part(len(values), size)


def values(place: str, options: dict[str, Any] | None = None) -> list[int]:
    """What is read back."""
    table = open_source(place, options)
    assert isinstance(table, Table)
    return [x for _, batch in table.record_batches(["x"], 3) for x in batch.column(0).to_pylist()]


def there(place: str) -> set[str]:
    """Names in the folder and beside it."""
    fs, path = fsspec.core.url_to_fs(place)
    beside = fs.ls(path.rpartition("/")[0], detail=False)
    inside = fs.ls(path, detail=False) if fs.exists(path) and fs.isdir(path) else []
    return {name.rstrip("/").rpartition("/")[2] for name in [*beside, *inside]}


def test_parts_are_one_table_once_all_are_there(place: str) -> None:
    folder = part_folder(place)
    folder.begin()
    parts = {number: put(folder, number, [number, 10 * number]) for number in (2, 0, 10, 1, *range(3, 10))}
    put(folder, 2, [2, 20])  # a worker that was thought lost
    with pytest.raises(DataError, match=r"was not written to its end|does not exist"):
        open_source(place)
    folder.publish([parts[number] for number in range(11)])
    assert values(place) == [x for number in range(11) for x in (number, 10 * number)]
    assert {name for name in there(place) if not name.startswith("part-")} <= {"out.parquet", "_SUCCESS"}


def test_a_place_that_is_taken_is_refused(place: str) -> None:
    folder = part_folder(place)
    folder.begin()
    folder.publish([put(folder, 0, [1])])
    with pytest.raises(ConfigError, match="is there already; remove it or choose another name"):
        part_folder(place)
    assert values(place) == [1]


def test_two_at_once_cannot_have_one_url() -> None:
    place = f"memory://{uuid.uuid4().hex}/labels"
    one, two = part_folder(place), part_folder(place)
    one.begin()
    with pytest.raises(ConfigError, match="is there already"):
        two.begin()


def test_nothing_is_left_of_an_abandoned_folder(place: str) -> None:
    folder = part_folder(place)
    folder.begin()
    put(folder, 0, [1])
    folder.abandon()
    assert not {name for name in there(place) if name != "out.parquet"}
    part_folder(place).begin()


@pytest.mark.parametrize("part", [Part(1, 5), None])
def test_a_part_that_is_not_as_it_was_written_is_an_error(place: str, part: Part | None) -> None:
    folder = part_folder(place)
    folder.begin()
    first = put(folder, 0, [1])
    if part is not None:
        put(folder, 1, [2])
    with pytest.raises(ExecutorError, match=r"part-00001.parquet of .* expected the \d+ bytes that a worker wrote"):
        folder.publish([first, part or Part(1, 100)])
    with pytest.raises(DataError):
        open_source(place)


def test_a_part_that_fails_half_way_is_not_there(place: str) -> None:
    folder = part_folder(place)
    folder.begin()
    with pytest.raises(ZeroDivisionError), folder.part(0) as stream:
        stream.write(b"half")
        raise ZeroDivisionError
    with pytest.raises(ExecutorError, match=r"part-00000\.parquet"):
        folder.publish([Part(1, 4)])


def test_what_was_left_half_written_is_not_published(tmp_path: Path) -> None:
    folder = part_folder(tmp_path / "out")
    folder.begin()
    part = put(folder, 0, [1])
    [aside] = tmp_path.iterdir()
    (aside / ".part-00001.parquet.0123.tmp").write_bytes(b"half")
    put(folder, 7, [7])  # of a run with more ranges, cannot be
    folder.publish([part])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["part-00000.parquet"]


def test_a_name_that_was_taken_meanwhile_is_kept(tmp_path: Path) -> None:
    folder = part_folder(tmp_path / "out")
    folder.begin()
    part = put(folder, 0, [1])
    (tmp_path / "out").write_text("of somebody else")
    with pytest.raises(ConfigError, match="something else has taken the name"):
        folder.publish([part])
    assert (tmp_path / "out").read_text() == "of somebody else"


@pytest.mark.parametrize(
    ("out", "said"), [("nowhere/out", "there is no folder"), ("memory2://x/y", "cannot be written")]
)
def test_a_place_that_cannot_be_is_said_before_any_work(tmp_path: Path, out: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        part_folder(out if "://" in out else tmp_path / out)


def test_the_manifest_names_the_parts() -> None:
    place = f"memory://{uuid.uuid4().hex}/labels"
    folder = part_folder(place)
    folder.begin()
    parts = [put(folder, 0, [1, 2]), put(folder, 1, [])]
    folder.publish(parts)
    fs, path = fsspec.core.url_to_fs(place)
    manifest = json.loads(fs.cat_file(f"{path}/_SUCCESS"))
    assert manifest["rows"] == 2 and [p["name"] for p in manifest["parts"]] == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert [p["bytes"] for p in manifest["parts"]] == [part.size_bytes for part in parts]


@needs_s3
def test_an_object_store_shows_all_parts_or_refuses(s3_endpoint: str) -> None:
    make_bucket(s3_endpoint, "parts")
    place, options = f"s3://parts/{uuid.uuid4().hex}", s3_options(s3_endpoint)
    with pytest.raises(ConfigError, match="there is no bucket 'nowhere'"):
        part_folder("s3://nowhere/labels", options)
    folder = part_folder(place, options)
    folder.begin()
    parts = [put(folder, 0, [1, 2]), put(folder, 1, [3])]
    with pytest.raises(DataError, match="was not written to its end"):
        open_source(place, options)
    put(folder, 1, [3])
    folder.publish(parts)
    assert values(place, options) == [1, 2, 3]
    with pytest.raises(ConfigError, match="is there already"):
        part_folder(place, options)
    other = part_folder(place + "-other", options)
    other.begin()
    put(other, 0, [1])
    other.abandon()
    part_folder(place + "-other", options)


def test_a_folder_with_only_the_mark_is_refused_even_inside_another(tmp_path: Path) -> None:
    inner = tmp_path / "all" / "labels"
    inner.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}), inner / "part-00000.parquet")
    (inner / "_unfinished.gpukm").touch()
    with pytest.raises(DataError, match="was not written to its end"):
        open_source(tmp_path / "all")
    (inner / "_SUCCESS").touch()
    assert values(str(tmp_path / "all")) == [1]
