"""The program on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpukm.backends.select import gpus
from tests.device import LIBRARIES, needs
from tests.e2e.conftest import Gpukm

TRAIN = ("train", "flights.parquet", "-k", "4", "--columns", "delay,distance", "--json")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("memory", [(), ("--device-memory", "100KB")])
def test_a_snapshot_has_the_bits_of_the_cpu(gpukm: Gpukm, data: Path, library: str, memory: tuple[str, ...]) -> None:
    needs(library)
    ours = gpukm(*TRAIN, "--backend", library, "--device", "cuda:0", "--store", "gpu", *memory)
    theirs = gpukm(*TRAIN, "--device", "cpu", "--store", "cpu")
    assert ours.code == theirs.code == 0, ours.err
    assert ours.data["backend"] == library
    assert {k: ours.data[k] for k in ("inertia", "counts", "n_iter")} == {
        k: theirs.data[k] for k in ("inertia", "counts", "n_iter")
    }
    shown = [gpukm("snapshots", "show", "flights", "--store", store, "--json").data for store in ("gpu", "cpu")]
    assert shown[0]["result"] == shown[1]["result"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_fit_without_certified_iterations(gpukm: Gpukm, data: Path, library: str) -> None:
    needs(library)
    fit = gpukm(*TRAIN, "--backend", library, "--precision", "fast")
    assert fit.code == 0, fit.err
    # On whatever machine: golden rows are checked, and counts are those of the fit.
    done = gpukm("assign", "flights.parquet", "--model", "flights", "--out", "out.parquet", "--device", "cpu", "--json")
    assert done.code == 0, done.err
    assert done.data["counts"] == fit.data["counts"]


def test_a_precision_that_needs_a_gpu_is_refused(gpukm: Gpukm, data: Path) -> None:
    done = gpukm(*TRAIN, "--device", "cpu", "--precision", "tf32")
    assert done.code == 2 and "precision 'tf32' is for GPUs" in done.err


def test_a_device_that_is_not_there_is_an_error(gpukm: Gpukm, data: Path) -> None:
    if gpus():
        pytest.skip("there is a GPU here")
    done = gpukm(*TRAIN, "--device", "cuda")
    assert done.code == 6
    assert "device cuda cannot be used" in done.err and "doctor" in done.err


def test_a_plan_tells_of_the_device(gpukm: Gpukm, data: Path) -> None:
    plan = gpukm("plan", "flights.parquet", "-k", "4", "--columns", "delay,distance", "--json").data
    assert (plan["device"] is None) == (not gpus())


def test_settings_that_contradict_each_other(gpukm: Gpukm, data: Path) -> None:
    done = gpukm(*TRAIN, "--backend", "cpu", "--device", "cuda")
    assert done.code == 2 and "does not run on device cuda" in done.err
    done = gpukm(*TRAIN, "--device-memory", "lots")
    assert done.code == 2 and "device-memory" in done.err.replace("_", "-")
