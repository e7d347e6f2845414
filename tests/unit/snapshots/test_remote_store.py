"""Stores on services: memory:// always, S3 against a local server where s3fs and moto are installed."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from gpukm.errors import ConfigError
from gpukm.snapshots import Store
from gpukm.snapshots.files import RemoteFiles
from tests.conformance.store import StoreConformance, make_content, nearest
from tests.s3 import make_bucket, needs_s3, s3_options

_names = itertools.count()


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def location(self) -> str:
        return f"memory://snapshots-{next(_names)}/store"


@needs_s3
class TestS3Store(StoreConformance):
    @pytest.fixture
    def options(self, s3_endpoint: str) -> dict[str, Any]:
        return s3_options(s3_endpoint)

    @pytest.fixture
    def location(self, s3_endpoint: str) -> str:
        make_bucket(s3_endpoint, "bucket")
        return f"s3://bucket/{next(_names)}/store"


@needs_s3
def test_a_missing_bucket_is_named_before_any_work(s3_endpoint: str) -> None:
    with pytest.raises(ConfigError, match="there is no bucket 'nowhere'"):
        Store.open("s3://nowhere/store", create=True, storage_options=s3_options(s3_endpoint))


@pytest.mark.parametrize("url", ["http://example.invalid/store", "simplecache::memory://cached/store"])
def test_a_file_system_without_exclusive_creation_is_refused(url: str) -> None:
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    with pytest.raises(ConfigError, match="cannot create a file only if it is absent"):
        Store.open(url, create=True)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ConfigError, match="Protocol not known: nosuch"):
        Store.open("nosuch://bucket/store", create=True)


class Overwriting(MemoryFileSystem):
    """A service that ignores the condition."""

    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value)


def test_a_service_that_ignores_the_condition_is_found_out() -> None:
    store = Store(RemoteFiles(Overwriting(), "/x", "memory://x"))
    with pytest.raises(ConfigError, match="overwrites a file where it was asked to create one only if absent"):
        store.publish("m", make_content(), labeller=nearest)
    assert store.models() == []


class Slow(MemoryFileSystem):
    """Looks long before it writes."""

    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False

    def exists(self, path: str, **kwargs: Any) -> bool:
        found = bool(super().exists(path, **kwargs))
        time.sleep(0.005)
        return found


def test_one_thread_alone_creates_a_file_in_memory() -> None:
    files = RemoteFiles(Slow(), "/x", "memory://x")
    with ThreadPoolExecutor(4) as pool:
        created = list(pool.map(lambda i: files.create("a", [bytes([i])]), range(4)))
    assert created.count(True) == 1
    assert files.read("a", 1) == bytes([created.index(True)])


class Forgetful(MemoryFileSystem):
    """A service that does the work and loses the answer, once for each file; the client then asks again."""

    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value, mode)
        raise OSError("PreconditionFailed: at least one of the pre-conditions you specified did not hold")


def test_a_lost_answer_does_not_publish_twice() -> None:
    store = Store(RemoteFiles(Forgetful(), "/x", "memory://x"))
    assert store.publish("m", make_content(), labeller=nearest).number == 1
    assert store.publish("m", make_content(), labeller=nearest).number == 2
    assert len(store.records("m")) == 2


class Broken(MemoryFileSystem):
    """A service that is not there."""

    cachable = False

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        raise OSError("cannot reach https://me:hunter2@host/x?sig=hunter2")


def test_errors_of_a_service_are_one_line_without_secrets() -> None:
    with pytest.raises(ConfigError, match=r"cannot write memory://x/store\.json") as caught:
        Store(RemoteFiles(Broken(), "/broken", "memory://x")).publish("m", make_content(), labeller=nearest)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
