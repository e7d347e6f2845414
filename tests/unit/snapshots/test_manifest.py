"""The id: what it depends on, and that a manifest is not trusted."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpukm.core.result import FitResult, IterationRecord, StopReason
from gpukm.errors import SnapshotCorruptError
from gpukm.snapshots import Golden, SnapshotContent, Store, result_fields
from gpukm.snapshots.blobs import put_blob
from gpukm.snapshots.canonical import canonical_json
from gpukm.snapshots.log import Log
from tests.conformance.store import child_environment, make_content, nearest


def _content() -> SnapshotContent:
    """Numbers without a generator, so that the id below depends on nothing else."""
    centroids = np.array([[0.0, 1.5], [-2.0, 0.1]], dtype=np.float32)
    return SnapshotContent(
        centroids=centroids,
        golden=Golden(centroids, np.array([0, 1], dtype=np.int32), np.array([4, 9])),
        tensors={"counts": np.array([3, 4])},
        settings={"n_clusters": 2, "tol": 1e-4},
        result={"inertia": 0.1},
    )


def _publish(root: Path, content: SnapshotContent) -> str:
    return Store.open(root, create=True).publish("m", content, labeller=nearest).id


def test_the_id_is_fixed(tmp_path: Path) -> None:
    assert _publish(tmp_path, _content()) == "0c26e1c285a7892437065edd66d617575292ef4b457057abb4d644a473972a7f"


def test_the_id_does_not_depend_on_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = _publish(tmp_path / "a", make_content())
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert _publish(tmp_path / "b" / "c", make_content()) == here
    script = (
        "import sys; from tests.unit.snapshots.test_manifest import _publish, make_content; from pathlib import Path; "
        "print(_publish(Path(sys.argv[1]), make_content()))"
    )
    environment = child_environment(TZ="Asia/Tokyo", LC_ALL="C", OMP_NUM_THREADS="1", PYTHONHASHSEED="77")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "d")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.stdout.strip() == here, done.stderr


def test_the_id_does_not_depend_on_order_or_layout(tmp_path: Path) -> None:
    content = make_content()
    other = dataclasses.replace(
        content,
        centroids=np.asfortranarray(content.centroids.astype(">f4")),
        golden=dataclasses.replace(content.golden, labels=content.golden.labels.astype(np.int64)),
        tensors=dict(reversed(list(content.tensors.items()))),
        settings=dict(reversed(list(content.settings.items()))),
    )
    assert _publish(tmp_path, other) == _publish(tmp_path, content)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(SnapshotContent)])
def test_the_id_depends_on_every_part(tmp_path: Path, name: str) -> None:
    content = make_content(tensors={"a": np.ones(2)})
    changed: Any = {
        "centroids": np.nextafter(content.centroids, np.float32(9)),
        "golden": dataclasses.replace(content.golden, row_numbers=content.golden.row_numbers + 1),
        "tensors": {"b": np.ones(2)},
        "preprocessing_tensors": {"steps/0/mean": np.zeros(3)},
        "non_finite": frozenset({"a"}),
        "kind": "minibatch",
    }.get(name, {"changed": 1})
    assert _publish(tmp_path, content) != _publish(tmp_path, dataclasses.replace(content, **{name: changed}))


def _forge(root: Path, change: dict[str, Any]) -> Store:
    """A store whose digests are all right and whose manifest is not."""
    store = Store.open(root, create=True)
    ref = store.publish("m", make_content(), labeller=nearest)
    manifest = {**store.manifest(ref.id), **change}
    forged = put_blob(store.files, [canonical_json(manifest)])
    Log(store.files, "m").append(forged, {})
    return store


@pytest.mark.parametrize(
    "change",
    [
        {"blob": {"sha256": "../../../etc/passwd", "bytes": 4000}},
        {"blob": {"sha256": "A" * 64, "bytes": 4000}},
        {"blob": {"sha256": "0" * 64, "bytes": 4000}},
        {"blob": {"bytes": 4000}},
        {"blob": "0" * 64},
        {"tensors": {}},
        {"tensors": {"centroids": {"dtype": "F32", "shape": [1 << 60]}}},
        {"tensors": [1]},
        {"non_finite": None},
        {"settings": []},
        {"kind": 3},
        {"format": "1"},
        {"format": True},
    ],
)
def test_a_forged_manifest_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    store = _forge(tmp_path, change)
    with pytest.raises(SnapshotCorruptError) as caught:
        store.load("m", labeller=nearest)
    assert "\n" not in str(caught.value)
    assert len(store.verify(labeller=nearest)) == 1


def test_a_forged_record_does_not_become_a_path(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    store.publish("m", make_content(), labeller=nearest)
    (tmp_path / "secret").write_text("{}")
    Log(store.files, "m").append("../../../../secret", {})
    with pytest.raises(SnapshotCorruptError, match="is not a SHA-256 digest"):
        store.load("m", labeller=nearest)


def test_a_manifest_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    store = Store.open(tmp_path, create=True)
    ref = store.publish("m", make_content(), labeller=nearest)
    with (tmp_path / "blobs/sha256" / ref.id[:2] / ref.id).open("r+b") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(SnapshotCorruptError, match="expected at most"):
        store.load("m", labeller=nearest)


def test_result_fields_leave_the_machine_out() -> None:
    result = FitResult(
        centroids=np.zeros((1, 1)),
        labels=None,
        inertia=2.5,
        counts=np.array([3]),
        weights=np.array([3.0]),
        n_samples=3,
        total_weight=3.0,
        n_iter=1,
        stop=StopReason.CONVERGED,
        history=(IterationRecord(1, 2.5, 0.0, 3, 0),),
        n_rechecked=7,
        backend="numpy",
        rejected=(("torch", "no device"),),
    )
    fields = result_fields(result)
    assert fields["stop"] == "converged"
    assert json.loads(canonical_json(fields)) == fields
    assert not {"backend", "rejected", "n_rechecked", "n_scored"} & fields.keys()
