"""Checkpoints: round trips, damage, and fits they do not belong to."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpukm.checkpoint import Checkpoint, check_same, load, save
from gpukm.core.result import FitResult, IterationRecord, StopReason
from gpukm.errors import ConfigError, SnapshotCorruptError


def example(best: bool = True) -> Checkpoint:
    """A checkpoint in the middle of a second start."""
    history = (IterationRecord(1, 0.1 + 0.2, 1e-300, 5, 0), IterationRecord(2, 1 / 3, 5e-324, 2, 1))
    centroids = np.array([[0.1, -0.0], [np.pi, 5e-324]])
    result = FitResult(
        centroids=centroids + 1,
        labels=None,
        inertia=2 / 3,
        counts=np.array([1, 2]),
        weights=np.array([1.0, 2.5]),
        n_samples=3,
        total_weight=3.5,
        n_iter=2,
        stop=StopReason.TOLERANCE,
        history=history[:1],
        n_init=4,
    )
    return Checkpoint(
        {"seed": 1, "tol": 1e-4, "step": ["log1p"]},
        {"fingerprint": "ab"},
        1,
        centroids,
        history,
        result if best else None,
    )


@pytest.mark.parametrize("best", [True, False])
def test_what_is_loaded_is_what_was_saved_to_the_bit(tmp_path: Path, best: bool) -> None:
    saved = example(best)
    save(tmp_path / "c", saved)
    found = load(tmp_path / "c")
    assert found.centroids.tobytes() == saved.centroids.tobytes()
    assert (found.settings, found.data, found.init, found.history) == (
        saved.settings, saved.data, saved.init, saved.history,
    )  # fmt: skip
    assert found.iteration == 2
    if best:
        assert found.best is not None and saved.best is not None
        assert found.best.digest() == saved.best.digest()
        assert found.best.history == saved.best.history and found.best.stop is StopReason.TOLERANCE
    else:
        assert found.best is None
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save(path, example())
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises((SnapshotCorruptError, ConfigError)):
            load(path)
    for length in (0, 1, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(SnapshotCorruptError):
            load(path)


def test_a_missing_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave out --resume"):
        load(tmp_path / "none")


def test_other_safetensors_files_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(1)}, str(tmp_path / "x"))
    with pytest.raises(ConfigError, match="no checkpoint"):
        load(tmp_path / "x")


@pytest.mark.parametrize(
    ("settings", "data", "words"),
    [
        ({"seed": 2, "tol": 1e-4, "step": ["log1p"]}, {"fingerprint": "ab"}, ["seed was 1 and is 2"]),
        ({"seed": 1, "tol": 1e-4, "step": []}, {"fingerprint": "ab"}, ['step was ["log1p"] and is []']),
        ({"seed": 1, "tol": 1e-4, "step": ["log1p"]}, {"fingerprint": "cd"}, ["fingerprint was", '"cd"']),
        ({"seed": 1, "step": ["log1p"]}, {"fingerprint": "ab"}, ["tol was 0.0001 and is null"]),
    ],
)
def test_another_fit_is_told_what_differs(settings: dict, data: dict, words: list[str]) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError) as caught:
        check_same(example(), settings, data, "c")
    for word in words:
        assert word in str(caught.value)


def test_the_same_fit_may_go_on() -> None:
    checkpoint = example()
    check_same(checkpoint, {"step": ("log1p",), "tol": 0.0001, "seed": 1}, {"fingerprint": "ab"}, "c")


def test_the_settings_digest_does_not_depend_on_their_order() -> None:
    checkpoint = example()
    turned = replace(checkpoint, settings=dict(reversed(list(checkpoint.settings.items()))))
    assert turned.settings_digest() == checkpoint.settings_digest()
    assert replace(checkpoint, settings={"seed": 2}).settings_digest() != checkpoint.settings_digest()


def test_a_failed_save_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c"
    save(path, example())
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(path, example(best=False))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
