"""What every place that can hold a store must do; a test class for one place inherits :class:`StoreConformance`."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import numpy as np
import pytest

from gpukm.errors import ConfigError, DataError, SnapshotCorruptError, SnapshotNotFoundError
from gpukm.snapshots import Golden, Once, Snapshot, SnapshotContent, SnapshotRef, Store
from gpukm.snapshots.canonical import canonical_json


def nearest(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Labels by brute force in float64."""
    difference = x[:, None, :].astype(np.float64) - centroids[None].astype(np.float64)
    return np.asarray((difference**2).sum(axis=2).argmin(axis=1), dtype=np.int32)


def make_content(seed: int = 0, k: int = 4, d: int = 3, dtype: str = "float32", **changes: Any) -> SnapshotContent:
    """A small snapshot that is a function of its arguments alone."""
    rng = np.random.Generator(np.random.Philox(seed))
    centroids = rng.standard_normal((k, d)).astype(dtype)
    rows = rng.standard_normal((7, d)).astype(dtype)
    content = SnapshotContent(
        centroids=centroids,
        golden=Golden(rows, nearest(rows, centroids), np.arange(7, dtype=np.int64) * 11),
        tensors={"counts": np.arange(k, dtype=np.int64), "variance": rng.random((k, d))},
        schema={"columns": [{"name": f"f{i}", "type": "double", "minimum": -0.1 * i} for i in range(d)]},
        preprocessing={"null_policy": "error", "steps": [{"kind": "standardize"}]},
        preprocessing_tensors={"steps/0/mean": rng.random(d)},
        settings={"n_clusters": k, "metric": "euclidean", "seed": seed, "tol": 1e-4},
        data={"n_rows": 70, "n_samples": 70, "total_weight": 70.0, "fingerprint": "00" * 16},
        result={"inertia": 0.1 + seed, "n_iter": 3, "stop": "converged", "history": []},
    )
    return dataclasses.replace(content, **changes)


def same(snapshot: Snapshot, content: SnapshotContent) -> bool:
    """Whether what was read back equals what was published."""
    arrays = [
        (snapshot.centroids, content.centroids),
        (snapshot.golden.x, content.golden.x),
        (snapshot.golden.labels, content.golden.labels),
        (snapshot.golden.row_numbers, content.golden.row_numbers),
        *((snapshot.tensors[name], array) for name, array in content.tensors.items()),
        *((snapshot.preprocessing_tensors[name], array) for name, array in content.preprocessing_tensors.items()),
    ]
    return (
        all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in arrays)
        and snapshot.tensors.keys() == content.tensors.keys()
        and snapshot.preprocessing_tensors.keys() == content.preprocessing_tensors.keys()
        and all(
            getattr(snapshot, name) == getattr(content, name)
            for name in ("schema", "preprocessing", "settings", "data", "result", "kind", "non_finite")
        )
    )


def child_environment(**changes: str) -> dict[str, str]:
    """Environment of a Python child that imports what this process imports."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **changes}


class Raw:
    """The files of a store, past the store, to damage them."""

    def __init__(self, location: str, options: dict[str, Any]) -> None:
        self.fs, self.root = fsspec.core.url_to_fs(location, **options)

    def find(self, *parts: str) -> list[str]:
        """Paths, relative to the root, that contain every part."""
        self.fs.invalidate_cache()
        paths = (path.removeprefix(self.root).lstrip("/") for path in self.fs.find(self.root))
        return sorted(path for path in paths if all(part in path for part in parts))

    def read(self, path: str) -> bytes:
        self.fs.invalidate_cache()
        return bytes(self.fs.cat_file(f"{self.root}/{path}"))

    def write(self, path: str, data: bytes) -> None:
        self.fs.makedirs(f"{self.root}/{path}".rsplit("/", 1)[0], exist_ok=True)
        self.fs.pipe_file(f"{self.root}/{path}", data)

    def remove(self, path: str) -> None:
        self.fs.rm_file(f"{self.root}/{path}")


class StoreConformance:
    """Inherit, and override ``location`` (a place where nothing is) and, for services, ``options``."""

    @pytest.fixture
    def location(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {}

    @pytest.fixture
    def raw(self, location: str, options: dict[str, Any]) -> Raw:
        return Raw(location, options)

    @pytest.fixture
    def store(self, location: str, options: dict[str, Any]) -> Store:
        return Store.open(location, create=True, storage_options=options)

    def test_round_trip(self, store: Store, location: str, options: dict[str, Any]) -> None:
        content = make_content()
        ref = store.publish("flights", content, {"host": "a", "threads": 2}, labeller=nearest)
        assert (ref.model, ref.number) == ("flights", 1)
        again = Store.open(location, storage_options=options)
        snapshot = again.load("flights", labeller=nearest)
        assert same(snapshot, content)
        assert snapshot.ref == ref
        assert snapshot.provenance == {"host": "a", "threads": 2}
        assert snapshot.metric == "euclidean"
        assert not snapshot.centroids.flags.writeable
        assert again.models() == ["flights"]
        assert again.verify(labeller=nearest) == []

    def test_numbers_follow_each_other(self, store: Store) -> None:
        refs = [store.publish("m", make_content(i), labeller=nearest) for i in range(3)]
        store.publish("other", make_content(0), labeller=nearest)
        assert [ref.number for ref in refs] == [1, 2, 3]
        assert [record.snapshot for record in store.records("m")] == [ref.id for ref in refs]
        assert store.models() == ["m", "other"]
        assert store.load("m", labeller=nearest).id == refs[2].id
        assert store.load("m", 2, labeller=nearest).id == refs[1].id
        assert store.load("m", "2", labeller=nearest).id == refs[1].id
        assert store.load("m", refs[0].id[:12], labeller=nearest).number == 1
        assert store.manifest(refs[0].id)["settings"]["seed"] == 0

    def test_same_content_same_id_whatever_the_provenance(self, store: Store, raw: Raw) -> None:
        first = store.publish("m", make_content(), {"host": "a"}, labeller=nearest)
        blobs = raw.find("blobs/")
        second = store.publish("m", make_content(), {"host": "b"}, labeller=nearest)
        assert first.id == second.id
        assert second.number == 2
        assert raw.find("blobs/") == blobs
        assert store.find("m", first.id[:8]).number == 2, "an id names its latest publication"

    def test_opening_writes_nothing(self, store: Store, raw: Raw) -> None:
        del store
        assert raw.find("store.json") == []

    def test_no_store_there(self, location: str, options: dict[str, Any]) -> None:
        with pytest.raises(SnapshotNotFoundError, match="there is no snapshot store at"):
            Store.open(location, storage_options=options)

    @pytest.mark.parametrize("create", [False, True])
    def test_something_else_there(self, location: str, options: dict[str, Any], raw: Raw, create: bool) -> None:
        raw.write("photo.jpg", b"\xff\xd8")
        with pytest.raises(SnapshotNotFoundError, match=r"not a snapshot store: it holds photo\.jpg"):
            Store.open(location, create=create, storage_options=options)
        raw.write("store.json", b'{"name": "corner shop"}')
        with pytest.raises(SnapshotNotFoundError, match="names no format"):
            Store.open(location, create=create, storage_options=options)

    def test_newer_formats(self, store: Store, location: str, options: dict[str, Any], raw: Raw) -> None:
        ref = store.publish("m", make_content(), labeller=nearest)
        path = raw.find("models/m/log/")[0]
        record = json.loads(raw.read(path))
        raw.write(path, canonical_json({**record, "format": 2}))
        with pytest.raises(ConfigError, match="newer than 1; update gpukm"):
            store.load("m", labeller=nearest)
        raw.write(path, canonical_json(record))
        assert store.load("m", labeller=nearest).id == ref.id
        raw.write("store.json", b'{"format":2}')
        with pytest.raises(ConfigError, match="has the format 2, newer than 1; update gpukm"):
            Store.open(location, storage_options=options)

    def test_damaged_marker(self, store: Store, location: str, options: dict[str, Any], raw: Raw) -> None:
        store.publish("m", make_content(), labeller=nearest)
        for damaged in (b"", b'{"format":1', b"\xff\xff", b"[1]", b'{"format":' + b"[" * 30_000, b" " * (1 << 17)):
            raw.write("store.json", damaged)
            with pytest.raises(SnapshotCorruptError):
                Store.open(location, storage_options=options)

    def test_unknown_model_and_refs(self, store: Store) -> None:
        ref = store.publish("flights", make_content(), labeller=nearest)
        with pytest.raises(SnapshotNotFoundError, match="there are: flights"):
            store.load("fligths")
        for unknown in (0, 2, -1, "99", "ffff" if ref.id[0] != "f" else "0000", "", "newest", "../x", ref.id + "0"):
            with pytest.raises(SnapshotNotFoundError):
                store.load("flights", unknown, labeller=nearest)

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "../m", "a/b", "a\\b", ".hidden", "a.", "-x", "a\0", "a\n", "é", "C:", "x" * 101]
    )
    def test_names_that_are_no_names(self, store: Store, raw: Raw, name: str) -> None:
        with pytest.raises(ConfigError, match="is not a model name"):
            store.publish(name, make_content(), labeller=nearest)
        with pytest.raises(ConfigError, match="is not a model name"):
            store.load(name)
        assert raw.find("store.json") == []

    @pytest.mark.parametrize("how", ["flip", "truncate", "empty", "longer", "remove"])
    def test_any_damaged_file_is_found(self, store: Store, raw: Raw, how: str) -> None:
        for i in range(2):
            store.publish("m", make_content(i), {"note": "x"}, labeller=nearest)
        for path in [*raw.find("blobs/"), *raw.find("models/")]:
            good = raw.read(path)
            half = len(good) // 2
            if how == "remove":
                raw.remove(path)
            else:
                raw.write(
                    path,
                    {
                        "flip": good[:half] + bytes([good[half] ^ 1]) + good[half + 1 :],
                        "truncate": good[:half],
                        "empty": b"",
                        "longer": good + b" ",
                    }[how],
                )
            if how == "remove" and path.endswith("00000002.json"):
                assert [record.number for record in store.records("m")] == [1], "a log's end is where it ends"
            else:
                assert store.verify(labeller=nearest) != [], path
                if "blobs" in path:
                    with pytest.raises(SnapshotCorruptError):
                        [store.load("m", n, labeller=nearest) for n in (1, 2)]
                else:
                    with pytest.raises(SnapshotCorruptError):
                        store.records("m")
            raw.write(path, good)
        assert store.verify(labeller=nearest) == []

    def test_a_damaged_blob_is_not_built_upon(self, store: Store, raw: Raw) -> None:
        store.publish("m", make_content(), labeller=nearest)
        for path in raw.find("blobs/"):
            good = raw.read(path)
            raw.write(path, good[:-1])
            with pytest.raises(SnapshotCorruptError, match="is damaged"):
                store.publish("m", make_content(), labeller=nearest)
            raw.write(path, good)
        assert len(store.records("m")) == 1

    def test_nothing_is_chained_to_a_damaged_record(self, store: Store, raw: Raw) -> None:
        store.publish("m", make_content(), labeller=nearest)
        path = raw.find("models/")[0]
        raw.write(path, raw.read(path).replace(b'"number":1', b'"number":3'))
        with pytest.raises(SnapshotCorruptError, match="its digest does not match"):
            store.publish("m", make_content(1), labeller=nearest)
        assert raw.find("models/") == [path]

    def test_a_moved_record_is_found(self, store: Store, raw: Raw) -> None:
        store.publish("m", make_content(0), labeller=nearest)
        store.publish("n", make_content(1), labeller=nearest)
        raw.write("models/m/log/00000001.json", raw.read("models/n/log/00000001.json"))
        with pytest.raises(SnapshotCorruptError, match="it was moved"):
            store.load("m", labeller=nearest)

    def test_a_rewritten_history_is_found(self, store: Store, location: str, options: dict[str, Any], raw: Raw) -> None:
        store.publish("m", make_content(0), labeller=nearest)
        store.publish("m", make_content(1), labeller=nearest)
        first, second = raw.find("models/")
        kept = raw.read(second)
        raw.remove(first)
        raw.remove(second)
        Store.open(location, storage_options=options).publish("m", make_content(2), labeller=nearest)
        raw.write(second, kept)
        problems = store.verify("m", labeller=nearest)
        assert len(problems) == 1
        assert "does not follow record 1" in problems[0]

    def test_stray_files_mean_nothing(self, store: Store, raw: Raw) -> None:
        ref = store.publish("m", make_content(), labeller=nearest)
        for path in ("tmp/0123", "models/m/log/00000002.json.part", "models/m/log/2.json", "blobs/sha256/zz/zz"):
            raw.write(path, b"half a")
        raw.write("models/..hidden/log/00000001.json", b"x")
        assert store.load("m", labeller=nearest).ref == ref
        assert store.models() == ["m"]
        assert store.publish("m", make_content(1), labeller=nearest).number == 2

    def test_golden_rows_are_checked_at_publication_and_load(self, store: Store, raw: Raw) -> None:
        content = make_content()
        wrong = dataclasses.replace(content.golden, labels=(content.golden.labels + 1) % 4)
        with pytest.raises(SnapshotCorruptError, match="7 of 7 golden rows get another label here"):
            store.publish("m", dataclasses.replace(content, golden=wrong), labeller=nearest)
        assert raw.find("store.json") == []
        store.publish("m", content, labeller=nearest)

        def other(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
            labels = nearest(x, centroids)
            labels[3] = (labels[3] + 1) % 4
            return labels

        with pytest.raises(SnapshotCorruptError, match=r"1 of 7 golden rows .* \(row 33\)"):
            store.load("m", labeller=other)
        assert len(store.verify(labeller=other)) == 1

    def test_bad_content_leaves_nothing(self, store: Store, raw: Raw) -> None:
        content = make_content()
        spoiled = content.centroids.copy()
        spoiled[1, 1] = np.nan
        bad = [
            ({"centroids": spoiled}, DataError, r"tensor 'centroids' holds 1 values that are NaN or infinite"),
            ({"centroids": content.centroids[0]}, DataError, "expected floats"),
            ({"centroids": content.centroids.astype(np.float64)}, DataError, "golden rows are float32"),
            ({"tensors": {"variance": np.array([np.inf])}}, DataError, "tensor 'variance'"),
            ({"tensors": {"names": np.array(["a"], dtype=object)}}, DataError, "is of type object"),
            ({"tensors": {"centroids": np.zeros(2)}}, ConfigError, "keep for themselves"),
            ({"settings": {"tol": float("nan")}}, ConfigError, r"\$\.settings\.tol is nan"),
            ({"settings": {"init": np.zeros(3)}}, ConfigError, r"\$\.settings\.init is a ndarray"),
            ({"data": {1: 2}}, ConfigError, "expected strings as keys"),
        ]
        for change, error, text in bad:
            with pytest.raises(error, match=text):
                store.publish("m", dataclasses.replace(content, **change), labeller=lambda *_: content.golden.labels)
        with pytest.raises(ConfigError, match=r"\$\.clock is a object"):
            store.publish("m", content, {"clock": object()}, labeller=nearest)
        assert raw.find("blobs/") == []
        assert raw.find("models/") == []

    def test_non_finite_where_allowed(self, store: Store) -> None:
        edges = np.array([-np.inf, 0.0, np.nan, np.inf])
        content = make_content(tensors={"edges": edges}, non_finite=frozenset({"edges"}))
        other = np.array(edges)
        other.view(np.uint64)[2] |= np.uint64(1 << 63)  # the NaN that x86 makes
        ref = store.publish("m", content, labeller=nearest)
        assert store.publish("m", dataclasses.replace(content, tensors={"edges": other}), labeller=nearest).id == ref.id
        np.testing.assert_array_equal(store.load("m", labeller=nearest).tensors["edges"], edges)

    def test_secrets_are_not_stored(self, store: Store, raw: Raw) -> None:
        provenance = {
            "data": "s3://AKIA:hunter2@bucket/x.parquet?token=hunter2",
            "storage_options": {"secret": "hunter2"},
            "argv": ["train", "--data=https://me:hunter2@host/x", "password=hunter2"],
        }
        store.publish("m", make_content(), provenance, labeller=nearest)
        for path in raw.find(""):
            assert b"hunter2" not in raw.read(path), path
        assert store.records("m")[0].provenance["data"] == "s3://bucket/x.parquet"

    def test_a_store_made_while_it_is_opened_is_one(
        self, location: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine = Store.open(location, create=True, storage_options=options)
        kind = type(mine.files)
        names = kind.names

        def publish_first(self: Any, path: str) -> list[str]:
            monkeypatch.setattr(kind, "names", names)
            mine.publish("m", make_content(), labeller=nearest)
            return names(self, path)

        monkeypatch.setattr(kind, "names", publish_first)
        other = Store.open(location, create=True, storage_options=options)
        assert other.models() == ["m"]

    def test_what_is_published_once_is_there_once(self, location: str, options: dict[str, Any]) -> None:
        store = Store.open(location, create=True, storage_options=options)
        first = store.publish("m", make_content(0), labeller=nearest)
        once = Once("job 1", after=1)
        assert store.published("m", once) is None and store.published("nothing", once) is None

        def publish(seed: int) -> tuple[int, str]:
            mine = Store.open(location, create=True, storage_options=options)
            ref = mine.publish("m", make_content(seed), labeller=nearest, once=once)
            mine.publish("m", make_content(seed + 10), labeller=nearest)
            return ref.number, ref.id

        with ThreadPoolExecutor(3) as pool:
            found = set(pool.map(publish, range(1, 4)))
        assert len(found) == 1
        number, snapshot = found.pop()
        assert store.published("m", once) == SnapshotRef(snapshot, "m", number)
        assert store.n_records("m") == 5 and store.n_records("nothing") == 0
        assert store.publish("m", make_content(5), labeller=nearest, once=once).number == number
        other = store.publish("m", make_content(5), labeller=nearest, once=Once("job 2"))
        assert other.number == 6 and other.id != snapshot
        # One of before it was possible is not the one.
        assert store.published("m", Once("job 1", after=number)) is None
        assert store.find("m", 1).snapshot == first.id and store.verify(labeller=nearest) == []

    def test_threads_publishing_at_once_all_succeed(self, location: str, options: dict[str, Any]) -> None:
        numbers: list[int] = []

        def publish(seed: int) -> None:
            mine = Store.open(location, create=True, storage_options=options)
            for _ in range(3):
                numbers.append(mine.publish("m", make_content(seed), labeller=nearest).number)

        threads = [threading.Thread(target=publish, args=(i % 2,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(numbers) == list(range(1, 13))
        store = Store.open(location, storage_options=options)
        assert len(store.records("m")) == 12
        assert store.verify(labeller=nearest) == []
