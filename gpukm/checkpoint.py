"""Checkpoints: the state of a fit in bytes, so that it can go on where it stopped.

They are those of a safetensors file: arrays, and JSON in its metadata. They say under which settings and on which data
the state came about; a fit under others must not go on from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gpukm.core.result import FitResult, IterationRecord, StopReason
from gpukm.errors import ConfigError, SnapshotCorruptError

FORMAT = 1
_KEY = "gpukm_checkpoint"
_BEST_ARRAYS = ("centroids", "counts", "weights")
_BEST_NUMBERS = ("inertia", "n_samples", "total_weight", "n_iter", "n_init", "best_init", "n_scored", "n_rechecked")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a fit stood after an iteration.

    Attributes
    ----------
    settings : dict
        Every setting that decides the result, as JSON types.
    data : dict
        What was clustered: source rows, features and the content's fingerprint.
    init : int
        Which start was under way, from 0.
    centroids : ndarray of shape (n_clusters, n_features)
        After the last iteration of ``history``.
    history : tuple of IterationRecord
        Of this start.
    best : FitResult or None
        The best of the starts before, without labels.
    """

    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    init: int
    centroids: np.ndarray
    history: tuple[IterationRecord, ...]
    best: FitResult | None = None

    @property
    def iteration(self) -> int:
        """The last iteration done."""
        return len(self.history)

    def settings_digest(self) -> str:
        """SHA-256 of the settings."""
        return hashlib.sha256(_canonical(dict(self.settings))).hexdigest()


def encode(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as the bytes of a safetensors file."""
    from safetensors.numpy import save

    tensors = {"centroids": np.ascontiguousarray(checkpoint.centroids)}
    best = checkpoint.best
    if best is not None:
        tensors |= {f"best/{name}": np.ascontiguousarray(getattr(best, name)) for name in _BEST_ARRAYS}
    state = {
        "format": FORMAT,
        "settings": dict(checkpoint.settings),
        "settings_digest": checkpoint.settings_digest(),
        "data": dict(checkpoint.data),
        "init": checkpoint.init,
        "history": [asdict(record) for record in checkpoint.history],
        "best": None if best is None else _pack(best),
    }
    text = _canonical(state)
    return save(tensors, {_KEY: text.decode(), "sha256": _digest(text, tensors)})


def decode(data: bytes, where: str) -> Checkpoint:
    """Undo :func:`encode`; ``where`` the bytes were found is for messages.

    Raises
    ------
    SnapshotCorruptError
        They are not those that were written, or of something else.
    ConfigError
        A newer gpukm wrote them.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, ValueError) as error:
        raise SnapshotCorruptError(f"{where} is no checkpoint or damaged ({error})") from None
    if _KEY not in metadata:
        raise SnapshotCorruptError(f"{where} is a safetensors file but no checkpoint")
    text = metadata[_KEY].encode()
    if _digest(text, tensors) != metadata.get("sha256"):
        raise SnapshotCorruptError(f"{where} is damaged: its digest differs")
    state = json.loads(text)
    if state["format"] > FORMAT:
        raise ConfigError(f"{where} has format {state['format']}, newer than {FORMAT}; update gpukm")
    return Checkpoint(
        settings=state["settings"],
        data=state["data"],
        init=state["init"],
        centroids=tensors["centroids"],
        history=_records(state["history"]),
        best=None if state["best"] is None else _unpack(state["best"], tensors),
    )


def check_same(checkpoint: Checkpoint, settings: Mapping[str, Any], data: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError, naming what differs, unless a fit under these settings on this data may go on from here."""
    differences = [
        f"{key} was {_show(old.get(key))} and is {_show(new.get(key))}"
        for old, new in ((checkpoint.settings, settings), (checkpoint.data, data))
        for key in sorted({*old, *new})
        if _canonical(old.get(key)) != _canonical(new.get(key))
    ]
    if differences:
        raise ConfigError(
            f"the checkpoint {where} belongs to another fit: {'; '.join(differences)}; "
            "restore that, or start over with another checkpoint"
        )


def _pack(result: FitResult) -> dict[str, Any]:
    """The JSON part of an earlier start's result."""
    numbers = {name: getattr(result, name) for name in _BEST_NUMBERS}
    return {**numbers, "stop": result.stop.name, "history": [asdict(record) for record in result.history]}


def _unpack(state: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> FitResult:
    """Undo :func:`_pack`."""
    parts: dict[str, Any] = {name: tensors[f"best/{name}"] for name in _BEST_ARRAYS}
    parts |= {name: state[name] for name in _BEST_NUMBERS}
    return FitResult(labels=None, stop=StopReason[state["stop"]], history=_records(state["history"]), **parts)


def _records(state: list[dict[str, Any]]) -> tuple[IterationRecord, ...]:
    """Iteration records from JSON."""
    return tuple(IterationRecord(**record) for record in state)


def _digest(text: bytes, tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the JSON and the arrays by name."""
    digest = hashlib.sha256(text)
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    """JSON with sorted keys; floats as repr, which reads back to the same bits."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _show(value: Any) -> str:
    """A value in a message, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
