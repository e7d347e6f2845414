"""A store in a local folder: what every store does, and what only a folder can get wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpukm.errors import ConfigError, SnapshotCorruptError, SnapshotNotFoundError
from gpukm.snapshots import Store
from tests.conformance.store import StoreConformance, child_environment, make_content, nearest


class TestLocalStore(StoreConformance):
    @pytest.fixture
    def location(self, tmp_path: Path) -> str:
        return str(tmp_path / "new" / "store")


class TestFileUrl(StoreConformance):
    @pytest.fixture
    def location(self, tmp_path: Path) -> str:
        return f"file://{tmp_path}/store"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "store", create=True)
    store.publish("m", make_content(), labeller=nearest)
    return store


def test_a_file_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b\n")
    with pytest.raises(SnapshotNotFoundError, match="is a file; expected the folder"):
        Store.open(tmp_path / "data.csv", create=True)
    with pytest.raises(ConfigError, match="is not a folder"):
        Store.open(tmp_path / "data.csv" / "store", create=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused_before_any_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="no permission"):
            Store.open(tmp_path / "store", create=True)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("what", ["blobs", "models/m", "models/m/log", "models/m/log/00000001.json"])
def test_symbolic_links_are_not_followed(store: Store, tmp_path: Path, what: str) -> None:
    inside, outside = tmp_path / "store" / what, tmp_path / "outside"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(SnapshotCorruptError, match="symbolic link"):
        store.load("m", labeller=nearest)
    with pytest.raises(SnapshotCorruptError, match="symbolic link"):
        store.publish("m", make_content(), labeller=nearest)


def test_a_link_to_the_store_itself_is_fine(store: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "store")
    assert Store.open(tmp_path / "link").load("m", labeller=nearest).id == store.load("m", labeller=nearest).id


def test_files_have_the_rights_of_the_umask(store: Store, tmp_path: Path) -> None:
    del store
    umask = os.umask(0o022)
    os.umask(umask)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "store").rglob("*") if path.is_file()}
    assert modes == {0o666 & ~umask}


def test_leftovers_are_cleaned_once_a_day_old(store: Store, tmp_path: Path) -> None:
    old, young = tmp_path / "store/tmp/old", tmp_path / "store/tmp/young"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    Store.open(tmp_path / "store").publish("m", make_content(), labeller=nearest)
    assert [path.name for path in (tmp_path / "store/tmp").iterdir()] == ["young"]
    assert len(store.records("m")) == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "link", "mkdir"])
def test_a_full_disk_at_any_step_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    real: Callable[..., Any] = getattr(os, call)
    for step in range(100):
        root = tmp_path / f"{call}{step}"
        store = Store.open(root, create=True)
        left = step

        def full(*args: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(code, os.strerror(code))
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            try:
                store.publish("m", make_content(), labeller=nearest)
            except ConfigError as caught:
                message = str(caught)
            else:
                assert step > 3, "the call under test was never made"
                return
        assert "no room is left" in message
        assert "\n" not in message
        assert list(root.glob("tmp/*")) == []
        again = Store.open(root, create=True)
        committed = again.models() == ["m"]  # only the folder's last sync may fail after the link
        assert committed <= (call == "fsync")
        if committed:
            assert again.verify(labeller=nearest) == []
        assert again.publish("m", make_content(), labeller=nearest).number == 1 + committed
    pytest.fail("never succeeded")


def test_a_disk_that_fills_up_in_the_middle_of_a_file(tmp_path: Path) -> None:
    script = f"""
import resource
from gpukm.errors import ConfigError
from gpukm.snapshots import Store
from tests.conformance.store import make_content, nearest
import fsspec, safetensors
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
try:
    Store.open({str(tmp_path / "store")!r}, create=True).publish("m", make_content(), labeller=nearest)
except ConfigError as error:
    assert "no room is left" in str(error), error
    print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=child_environment(), check=False
    )
    assert done.stdout == "refused\n", done.stderr
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == [tmp_path / "store/store.json"]


def test_a_file_system_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    with pytest.raises(ConfigError, match="no hard links"):
        Store.open(tmp_path / "store", create=True).publish("m", make_content(), labeller=nearest)
