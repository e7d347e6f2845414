"""Data that finds no room on a device, and data that lies there already."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

from gpukm import KMeans
from gpukm.backends.gpu_memory import Shape, room
from gpukm.errors import ConfigError, DataError
from gpukm.functional import assign, kmeans
from gpukm.sources.array import ArraySource
from gpukm.sources.device import DeviceSource
from tests.emulated import as_cupy  # noqa: F401
from tests.parity.test_bits import bits, data

#: Watched, so that it is the ordinary engine that runs.
SETTINGS = {"init": "random", "n_init": 1, "seed": 3, "max_iter": 6, "watched": True}


@pytest.fixture(params=[False, True])
def problem(request):
    return data(np.float32, request.param)


def expected(x, w):
    return kmeans(ArraySource(x, weight=w), 15, backend="numpy", **SETTINGS)


def test_rows_that_find_no_room_are_streamed(problem, as_cupy):  # noqa: F811
    x, w = problem
    as_cupy.device.free = 60_000
    assert not as_cupy.holds(len(x), 20, 15, 4)
    rows = as_cupy.batch_rows(20, 15, 4)
    assert 10 < rows < len(x) // 3
    found = kmeans(ArraySource(x, weight=w), 15, backend="cupy", **SETTINGS)
    assert bits(found) == bits(expected(x, w))


def test_a_limit_is_kept(as_cupy):  # noqa: F811
    as_cupy._limit_bytes = 60_000
    assert not as_cupy.holds(1200, 20, 15, 4)
    assert as_cupy.batch_rows(20, 15, 4) < 400
    assert room(1000, None) == 900 and room(1000, 500) == 500 and room(100, 500) == 90


@pytest.mark.parametrize("pass_", ["scan", "first step", "later", "end"])
def test_out_of_memory_becomes_fewer_rows_at_a_time(problem, as_cupy, monkeypatch, capsys, pass_):  # noqa: F811
    import_module("gpukm.backends.notices")._said.clear()
    x, w = problem
    most, asked = 100, {"scan": 0, "first step": 4, "later": 40, "end": 10**9}[pass_]
    calls, empty = [0], type(as_cupy.device).empty

    def limited(self, shape, dtype):
        """After some calls, no array of more rows than fit."""
        calls[0] += 1
        if calls[0] > asked and (shape[0] if isinstance(shape, tuple) else shape) > most:
            raise MemoryError("0.1 GiB were asked for on emulated:0, 0.01 GiB are free")
        return empty(self, shape, dtype)

    if pass_ == "end":
        total = type(as_cupy).total

        def starts_to_run_out(self, *args):
            """From the end of the fit on."""
            nonlocal asked
            if args[3] is not None:
                asked = 0
            return total(self, *args)

        monkeypatch.setattr(type(as_cupy), "total", starts_to_run_out)
    # Lists for pairs are as long as they are, however few rows there are.
    monkeypatch.setattr("gpukm.backends.cascade._LEAST_PAIRS", 50)
    monkeypatch.setattr(type(as_cupy.device), "empty", limited)
    found = kmeans(ArraySource(x, weight=w), 15, backend="cupy", **SETTINGS)
    assert bits(found) == bits(expected(x, w))
    assert capsys.readouterr().err.count("fewer rows at a time") == 1


def test_no_memory_at_all_is_an_error(as_cupy, monkeypatch):  # noqa: F811
    def nothing(self, shape, dtype):
        raise MemoryError("nothing is free")

    monkeypatch.setattr(type(as_cupy.device), "empty", nothing)
    with pytest.raises(MemoryError, match="nothing is free"):
        kmeans(data(np.float32, False)[0], 15, backend="cupy", **SETTINGS)


def test_rows_on_the_device_are_shared(problem, as_cupy, monkeypatch):  # noqa: F811
    x, w = problem
    device = as_cupy.device
    placed = device.place(x)
    largest, place = [0], type(device).place

    def counted(self, array, out=None):
        largest[0] = max(largest[0], array.nbytes)
        return place(self, array, out)

    monkeypatch.setattr(type(device), "place", counted)
    found = kmeans(DeviceSource(placed, device, w), 15, backend="cupy", **SETTINGS)
    assert largest[0] < x.nbytes
    assert device.owns(found.labels)
    result = expected(x, w)
    np.testing.assert_array_equal(device.fetch(found.labels), result.labels)
    assert bits(found) == bits(result)


@pytest.fixture
def shared(as_cupy, monkeypatch):  # noqa: F811
    """The device, whose arrays are known for what they are."""
    device = as_cupy.device
    for module in ("gpukm.functional", "gpukm.backends.select", "gpukm.estimators.base"):
        found_on = lambda a: ("cupy", "auto") if device.owns(a) else None  # noqa: E731
        monkeypatch.setattr(import_module(module), "gpu_array", found_on)
    return device


def test_an_array_on_the_device_is_taken_as_it_is(problem, shared):
    """By the functions that users call."""
    x, w = problem
    placed = shared.place(x)
    found, result = kmeans(placed, 15, sample_weight=w, **SETTINGS), expected(x, w)
    assert shared.owns(found.labels) and bits(found) == bits(result)
    assigned, theirs = (assign(a, result.centroids, sample_weight=w) for a in (placed, x))
    np.testing.assert_array_equal(assigned.labels, theirs.labels)
    np.testing.assert_array_equal(assigned.distances, theirs.distances)
    assert assigned.inertia == theirs.inertia
    with pytest.raises(ConfigError, match="cosine"):
        kmeans(placed, 15, metric="cosine")


@pytest.mark.parametrize("settings", [{"quality": "best"}, {"init": "k-means++", "n_init": 3}, {"init": "array"}])
def test_other_ways_to_fit_an_array_on_the_device(shared, settings):
    x, _ = data(np.float32, False)
    start = {"init": x[:15].copy()} if settings.get("init") == "array" else {}
    found, theirs = (kmeans(a, 15, seed=3, watched=True, **{**settings, **start}) for a in (shared.place(x), x))
    assert bits(found) == bits(theirs)


def test_estimators_take_an_array_on_the_device(shared):
    x, _ = data(np.float32, False)
    placed = shared.place(x)
    ours, theirs = (KMeans(15, random_state=0).fit(a) for a in (placed, x))
    assert shared.owns(ours.labels_)
    np.testing.assert_array_equal(ours.cluster_centers_, theirs.cluster_centers_)
    np.testing.assert_array_equal(ours.predict(placed), theirs.predict(x))
    np.testing.assert_array_equal(ours.transform(placed), theirs.transform(x))
    assert ours.score(placed) == theirs.score(x)


def test_bad_rows_on_the_device_are_refused(as_cupy):  # noqa: F811
    device = as_cupy.device
    with pytest.raises(DataError, match="expected float32 or float64"):
        DeviceSource(device.zeros((3, 2), np.int32), device)
    with pytest.raises(DataError, match="expected a matrix"):
        DeviceSource(device.zeros(3, np.float32), device)
    with pytest.raises(DataError, match="sample_weight has shape"):
        DeviceSource(device.zeros((3, 2), np.float32), device, np.ones(2))
    x = np.ones((50, 2), np.float32)
    x[7, 1] = np.nan
    with pytest.raises(DataError, match=r"NaN.*in row 7"):
        kmeans(DeviceSource(device.place(x), device), 3, backend="cupy")


def test_an_array_on_a_device_names_its_backend():
    from gpukm.backends.select import select_for

    class Tensor:
        """As torch has it."""

        is_cuda, device = True, "cuda:1"

    Tensor.__module__ = "torch"
    for backend, device in (("cpu", "auto"), ("auto", "cpu"), ("torch", "cuda:0")):
        with pytest.raises(ConfigError, match="the data is on cuda:1"):
            select_for(Tensor(), backend, device, None)


def test_memory_grows_with_what_it_depends_on():
    shape = Shape(128, 4096, 4, True)
    assert shape.resident_bytes(1 << 20) > (1 << 20) * (128 * 6)
    assert Shape(128, 4096, 4, False).resident_bytes(1 << 20) < shape.resident_bytes(1 << 20)
    assert shape.streamed_rows(1 << 34) == 1 << 22 and shape.streamed_rows(0) == 1
