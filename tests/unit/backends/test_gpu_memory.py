"""Data that finds no room on a device, and data that lies there already."""

from __future__ import annotations

import gc
from importlib import import_module

import numpy as np
import pytest
from gpukm_kernels.cuda.copies import LOCKED_BYTES, Staging
from gpukm_kernels.screening import PLAIN

from gpukm.backends.gpu_memory import Shape, locked_bytes, room
from gpukm.backends.plain_screen import PlainScreen
from gpukm.config import Settings
from gpukm.errors import ConfigError, DataError
from gpukm.functional import kmeans
from gpukm.pipeline.inputs import open_input
from gpukm.plan import plan
from gpukm.preprocessing import Preprocessing
from gpukm.sources.array import ArraySource
from gpukm.sources.device import DeviceSource
from tests.emulated import as_cupy  # noqa: F401
from tests.emulator import Emulated
from tests.parity.test_bits import bits, data
from tests.unit.kernels.test_cuda_driver import fake_driver

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


class Staged(Emulated):
    """Copies as a real device does, with the driver of tests/native/libcuda.cpp."""

    def __init__(self) -> None:
        super().__init__(seed=2)
        self.staging, self.made, self.passes = Staging(0), 0, 0

    def stage(self, blocks):
        def empty(shape, dtype):
            self.made += 1
            return self.empty(shape, dtype)

        self.passes += 1
        yield from self.staging.staged(blocks, lambda: 0x55, empty, lambda array: array.ctypes.data)


def test_a_fit_asks_for_memory_of_copies_once(problem, as_cupy, tmp_path):  # noqa: F811
    """Page-locked and on the device."""
    x, w = problem
    with fake_driver(tmp_path) as fake:
        device = Staged()
        as_cupy.__init__(device, PlainScreen(device, PLAIN))
        device.free = 60_000
        found = kmeans(ArraySource(x, weight=w), 15, backend="cupy", **SETTINGS)
        assert bits(found) == bits(expected(x, w))
        arrays = 3 * (1 if w is None else 2)
        assert device.passes > 5 and (device.made, fake.held) == (arrays, arrays)
        as_cupy.__dict__.clear()
        del device
        gc.collect()
        assert fake.held == 0


def test_a_plan_counts_memory_of_copies(as_cupy, tmp_path):  # noqa: F811
    np.save(tmp_path / "x.npy", np.zeros((5000, 20), np.float32))
    raw = open_input(str(tmp_path / "x.npy"))
    planned = {}
    for free in (1 << 30, 60_000):
        as_cupy.device.free = free
        planned[free] = plan(raw, Settings(n_clusters=15), Preprocessing(), "x", backend=as_cupy)
    small, large = planned[60_000], planned[1 << 30]
    assert large.device.resident and not large.device.locked_bytes
    assert small.device.locked_bytes == 3 * small.device.batch_rows * (20 * 4 + 8)
    # Memory of the process itself may differ.
    assert 0 <= small.memory_bytes - large.memory_bytes - small.device.locked_bytes < 64 << 20
    assert locked_bytes(1000, 80, LOCKED_BYTES) == 0


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


def test_bad_rows_on_the_device_are_refused(as_cupy):  # noqa: F811
    device = as_cupy.device
    with pytest.raises(DataError, match="expected one of float32, float64, float16, bfloat16"):
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
