"""Snapshots of fits whose iterations certify no labels."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from gpukm_kernels.screening import mode
from typer.testing import CliRunner

from gpukm.backends.matrix_screen import MatrixScreen
from gpukm.cli.main import app
from gpukm.config import Settings
from gpukm.errors import ConfigError
from gpukm.pipeline import assign, train, train_groups
from gpukm.reports.data import Report
from gpukm.snapshots import Store
from tests.emulated import as_cupy  # noqa: F401


@pytest.fixture
def data(tmp_path, as_cupy):  # noqa: F811
    """A file of rows that 16 bits do not tell apart well, and the screen that uses them."""
    as_cupy.__init__(as_cupy.device, MatrixScreen(as_cupy.device, mode("fp16", (9, 0))))
    rng = np.random.default_rng(3)
    c = rng.normal(size=(12, 17)).astype(np.float32)
    near = np.where(rng.random((240, 1)) < 0.5, 0.5 + 1e-4, 0.5 - 1e-4)
    path = tmp_path / "x.npy"
    np.save(path, (near * c[rng.integers(0, 12, 240)] + (1 - near) * c[rng.integers(0, 12, 240)]).astype(np.float32))
    return path


def settings(tmp_path, **more):
    return Settings(n_clusters=9, model="m", store=str(tmp_path / "store"), init="random", max_iter=4, **more)


def test_a_snapshot_holds_together(tmp_path, data):
    done = train(settings(tmp_path, backend="cupy", precision="fast"), str(data))
    exact = train(settings(tmp_path, backend="cupy"), str(data))
    assert done.ref.id != exact.ref.id
    # Golden rows are labelled anew by what this machine would choose.
    found = Store.open(str(tmp_path / "store")).load("m", done.ref.number)
    assert found.settings["precision"] == "fast" and len(found.golden.labels)
    np.testing.assert_array_equal(found.tensors["counts"], done.result.counts)
    assert found.tensors["inertia"].sum() == pytest.approx(done.result.inertia, rel=1e-12)
    notes = [notice.text for notice in Report.from_snapshot(found).notices]
    assert any("not certified (precision fast)" in text for text in notes)
    assert found.provenance["rechecks"] == asdict(done.result.rechecks)
    labelled = assign(found, str(data), tmp_path / "out.parquet", settings(tmp_path, backend="numpy"))
    assert labelled.counts == tuple(done.result.counts.tolist())


def test_where_it_is_refused(tmp_path, data):
    with pytest.raises(ConfigError, match="precision 'fast' is for GPUs, and backend numpy"):
        train(settings(tmp_path, backend="numpy", precision="fast"), str(data))
    with pytest.raises(ConfigError, match="--group-by makes exact fits only"):
        train_groups(settings(tmp_path, backend="cupy", precision="fast"), str(data), "a")
    with pytest.raises(ValueError, match="needs algorithm 'lloyd'"):
        settings(tmp_path, algorithm="minibatch", precision="fast")


@pytest.mark.parametrize("command", ["train", "plan"])
def test_the_command_line_takes_it(tmp_path, data, command):
    flags = [command, str(data), "-k", "9", "--precision", "fast", "--json", "--backend"]
    more = ["--store", str(tmp_path / "s"), "--dry-run"] if command == "train" else []
    done = CliRunner().invoke(app, [*flags, "cupy", *more])
    assert done.exit_code == 0 and json.loads(done.stdout)["ok"]
    done = CliRunner().invoke(app, [*flags, "cpu", *more])
    assert done.exit_code == 2 and "is for GPUs" in json.loads(done.stdout)["error"]["message"]


def test_those_who_ask_are_told_what_settled_the_rows(tmp_path, data):
    command = ["train", str(data), "-k", "9", "--store", str(tmp_path / "s"), "--backend"]
    for backend, told in (("cupy", "decided among what bounds left ("), ("numpy", "rechecked")):
        for verbose in ((), ("--verbose",)):
            done = CliRunner().invoke(app, [*command, backend, *verbose])
            assert done.exit_code == 0
            assert ("settled by screening" in done.output and told in done.output) == bool(verbose)
