"""The log of a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpukm.config import Settings
from gpukm.errors import ConfigError
from gpukm.pipeline import train
from gpukm.pipeline.logged import logged
from gpukm.pipeline.progress import Progress


def lines(path: Path) -> list[dict[str, Any]]:
    """Records of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_fit_is_logged(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(500, 3)))
    settings = Settings(n_clusters=3, store=str(tmp_path / "store"), model="m", max_iter=5)
    path = tmp_path / "log.jsonl"
    path.write_text('{"text": "before"}\n')
    with logged(Progress(), str(path)) as progress:
        done = train(settings, str(tmp_path / "rows.npy"), progress=progress)
    found = lines(path)
    assert found[0] == {"text": "before"}
    assert done.result is not None and done.ref is not None
    iterations = [r["iteration"] for r in found if r["text"] == "iteration"]
    assert iterations == list(range(1, done.result.n_iter + 1))
    (published,) = (r for r in found if r["text"] == "published")
    assert (published["id"], published["number"], published["cluster"]) == (done.ref.id, 1, None)
    assert found[-1]["text"] == "done"
    assert all(r["level"] in ("info", "debug") and r["at"].endswith("+00:00") for r in found[1:])


def test_errors_are_logged_without_secrets(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with pytest.raises(ConfigError), logged(Progress(), str(path)):
        raise ConfigError("cannot read s3://key:geheim@bucket/x")
    (record,) = lines(path)
    assert (record["level"], record["error"]) == ("error", "ConfigError")
    assert "geheim" not in path.read_text()


def test_a_log_that_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the log"), logged(Progress(), str(tmp_path / "nowhere" / "log.jsonl")):
        raise AssertionError("work began")


def test_no_log(tmp_path: Path) -> None:
    quiet = Progress()
    with logged(quiet, None) as progress:
        assert progress is quiet
