"""Checkpoints: round trips, damage, and fits they do not belong to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpukm import checkpoint
from gpukm.checkpoint import Checkpoint, check_same, decode, encode
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
def test_what_is_read_is_what_was_written_to_the_bit(best: bool) -> None:
    saved = example(best)
    found = decode(encode(saved), "c")
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


def test_every_damaged_byte_is_noticed() -> None:
    whole = encode(example())
    for at in range(0, len(whole), 7):
        with pytest.raises((SnapshotCorruptError, ConfigError)):
            decode(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], "c")
    for length in (0, 1, 100, len(whole) - 1):
        with pytest.raises(SnapshotCorruptError, match="c is no checkpoint or damaged"):
            decode(whole[:length], "c")


def test_other_safetensors_files_are_none() -> None:
    from safetensors.numpy import save

    with pytest.raises(SnapshotCorruptError, match="no checkpoint"):
        decode(save({"x": np.zeros(1)}), "x")


def test_a_newer_format_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    data = encode(example())
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="format 2, newer than 1; update gpukm"):
        decode(data, "c")


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
    check_same(example(), {"step": ("log1p",), "tol": 0.0001, "seed": 1}, {"fingerprint": "ab"}, "c")


def test_the_settings_digest_does_not_depend_on_their_order() -> None:
    saved = example()
    turned = replace(saved, settings=dict(reversed(list(saved.settings.items()))))
    assert turned.settings_digest() == saved.settings_digest()
    assert replace(saved, settings={"seed": 2}).settings_digest() != saved.settings_digest()
