"""The libraries' devices, where there is no GPU: on a driver that writes launches down, and with memory of the host."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gpukm_kernels.cuda import driver

import gpukm.backends.devices.cupy as cupy_device
import gpukm.backends.devices.torch as torch_device
from gpukm.backends.device import Device
from gpukm.backends.devices.cupy import CupyDevice
from gpukm.backends.devices.torch import TorchDevice
from gpukm.core.result import on_host
from gpukm.errors import BackendUnavailableError
from tests.unit.kernels import test_cuda_driver as launcher

PROBES = [("torch", torch_device), ("cupy", cupy_device)]
DTYPES = ["float16", "float32", "float64", "bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[launcher.FakeDriver]:
    with launcher.fake_driver(tmp_path) as made:
        yield made


# Probes


@pytest.mark.parametrize(("name", "module"), PROBES)
def test_without_a_driver_no_library_is_loaded(name: str, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher.forget()
    monkeypatch.setattr(driver, "_LIBCUDA", "libcuda-that-is-not-there.so.1")
    monkeypatch.setitem(sys.modules, name, None)  # importing it would fail
    usable, reason = module.probe()
    assert not usable and reason.startswith("no NVIDIA driver was found")


@pytest.mark.parametrize(("name", "module"), PROBES)
def test_what_is_missing_is_named(
    name: str, module: Any, fake: launcher.FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert module.probe() == (False, f"{name} is not installed; run 'pip install gpukm[cuda13]'")
    fake.version = 12040
    assert module.probe() == (False, f"{name} is not installed; run 'pip install gpukm[cuda12]'")
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, name, None)
    usable, reason = module.probe()
    assert not usable and reason.startswith(f"{name} cannot be used: ")
    fake.major = 6
    assert module.probe() == (False, "Fake H200 has compute capability 6.0, expected 7.0 or more")
    fake.devices = 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    launcher.forget()
    assert module.probe() == (False, "no CUDA device is visible (CUDA_VISIBLE_DEVICES='7')")


def fake_torch(cuda: str | None, available: bool) -> SimpleNamespace:
    return SimpleNamespace(
        __version__="2.11.0", version=SimpleNamespace(cuda=cuda), cuda=SimpleNamespace(is_available=lambda: available)
    )


@pytest.mark.parametrize(
    ("cuda", "available", "expected"),
    [
        (None, False, "torch 2.11.0 was built without CUDA; install"),
        ("13.2", False, "torch 2.11.0 of CUDA 13.2 sees no device; the driver supports CUDA 13.0"),
        ("13.0", True, "torch 2.11.0, "),
    ],
)
def test_what_torch_sees(
    fake: launcher.FakeDriver, monkeypatch: pytest.MonkeyPatch, cuda: str | None, available: bool, expected: str
) -> None:
    monkeypatch.setattr(torch_device, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torch", fake_torch(cuda, available))
    monkeypatch.setattr(driver, "compiler_version", lambda: (13, 0))
    usable, reason = torch_device.probe()
    assert usable is available and reason.startswith(expected)
    assert reason.endswith("Fake H200 (sm_90), 139 GiB") is available


def test_without_the_compiler(fake: launcher.FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_compilers", lambda: iter(()))
    monkeypatch.setattr(torch_device, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torch", fake_torch("13.0", True))
    usable, reason = torch_device.probe()
    assert not usable and "libnvrtc" in reason and "pip install nvidia-cuda-nvrtc" in reason


# Devices


class FakeArray(np.ndarray):
    """What CuPy's arrays have and NumPy's have not."""

    device = SimpleNamespace(id=0)

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)

    def set(self, array: np.ndarray) -> None:
        assert (array.shape, array.dtype) == (self.shape, self.dtype)
        self[...] = array

    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        out = np.empty(self.shape, self.dtype) if out is None else out
        assert out.flags.c_contiguous and (out.shape, out.dtype) == (self.shape, self.dtype)
        out[...] = self
        return out


class FakePool:
    """A pool of which 3000 bytes are taken, 1000 of them free again."""

    limit = 0

    def malloc(self, size: int) -> None: ...

    def get_limit(self) -> int:
        return self.limit

    def total_bytes(self) -> int:
        return 3000

    def free_bytes(self) -> int:
        return 1000


def fake_cupy(pool: FakePool) -> SimpleNamespace:
    stream = SimpleNamespace(ptr=0x7F0000005678, synchronize=lambda: None)
    return SimpleNamespace(
        __version__="14.0.0",
        ndarray=FakeArray,
        empty=lambda shape, dtype: np.empty(shape, dtype).view(FakeArray),
        zeros=lambda shape, dtype: np.zeros(shape, dtype).view(FakeArray),
        asarray=lambda array: np.asarray(array).view(FakeArray),
        from_dlpack=lambda array: np.asarray(array).view(FakeArray),
        cuda=SimpleNamespace(
            Device=lambda index: nullcontext(),
            MemoryPool=FakePool,
            get_allocator=lambda: pool.malloc,
            get_current_stream=lambda: stream,
            runtime=SimpleNamespace(getDevice=lambda: 0, getDeviceCount=lambda: 1, memGetInfo=lambda: (10000, 20000)),
        ),
    )


@pytest.fixture
def cupy(fake: launcher.FakeDriver, monkeypatch: pytest.MonkeyPatch) -> CupyDevice:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(FakePool()))
    return CupyDevice()


@pytest.fixture
def torch(fake: launcher.FakeDriver, monkeypatch: pytest.MonkeyPatch) -> TorchDevice:
    """All of TorchDevice on torch's CPU tensors, but what stands below ``here`` and the stream."""
    library = pytest.importorskip("torch", reason="not run: torch is not installed (scripts/test --interpret)")
    device = TorchDevice(0)
    device.name = "cpu"
    monkeypatch.setattr(device, "here", nullcontext)
    stream = SimpleNamespace(cuda_stream=0x7F0000005678)
    monkeypatch.setattr(library.cuda, "current_stream", lambda index: stream)
    return device


@pytest.fixture(params=["torch", "cupy"])
def device(request: pytest.FixtureRequest) -> Device:
    return request.getfixturevalue(request.param)


def test_what_a_device_is(device: Device) -> None:
    assert (device.capability, device.processors) == ((9, 0), 132)
    assert device.library in type(device).__name__.lower()


@pytest.mark.parametrize("cls", [TorchDevice, CupyDevice])
def test_there_is_no_such_device(cls: Any, fake: launcher.FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(FakePool()))
    if cls is TorchDevice:
        pytest.importorskip("torch", reason="not run: torch is not installed (scripts/test --interpret)")
    with pytest.raises(BackendUnavailableError, match="cuda:3 was asked for, but 1 CUDA devices are visible"):
        cls(3)
    fake.major = 5
    with pytest.raises(BackendUnavailableError, match=r"capability 5\.0, expected 7\.0"):
        cls(0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_there_and_back(device: Device, dtype: str) -> None:
    array = (np.arange(1, 13).reshape(4, 3) % 2 * np.array(255)).astype(dtype)
    placed = device.place(array)
    assert device.owns(placed) and not device.owns(array)
    assert device.dtype(placed) == array.dtype
    for back in (device.fetch(placed), device.fetch(placed, np.zeros_like(array))):
        assert back.dtype == array.dtype and back.tobytes() == array.tobytes()
    assert device.fetch(placed[1:3]).tobytes() == array[1:3].tobytes()
    zeros = device.zeros((4, 3), dtype)
    assert device.dtype(zeros) == array.dtype and not device.fetch(zeros).any()
    assert device.place(array, zeros) is zeros and device.fetch(zeros).tobytes() == array.tobytes()
    array[:] = 0
    assert device.fetch(placed).any()  # a copy
    device.place(array[1:2], placed[1:2])
    assert not device.fetch(placed)[1].any() and device.fetch(placed)[0].any()


def test_shapes(device: Device) -> None:
    for shape in (0, 5, (0, 3), (2, 0), (2, 3, 4), ()):
        assert tuple(device.empty(shape, np.float32).shape) == (shape if isinstance(shape, tuple) else (shape,))
        assert device.fetch(device.place(np.ones(shape))).shape == np.ones(shape).shape
    assert len(device.zeros(np.int64(7), np.uint64)) == 7


def test_arrays_that_are_not_plain(device: Device) -> None:
    array = np.arange(24.0).reshape(4, 6)
    assert (device.fetch(device.place(array[:, ::2])) == array[:, ::2]).all()
    assert (device.fetch(device.place(np.asfortranarray(array))) == array).all()
    array.flags.writeable = False
    assert (device.fetch(device.place(array)) == array).all()  # without a warning, which would be an error here
    out = np.zeros((4, 12))
    assert (device.fetch(device.place(array), out[:, ::2]) == array).all() and (out[:, ::2] == array).all()


def test_a_kernel_is_launched(
    device: Device, fake: launcher.FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher.kernels, "FOLDER", launcher.NATIVE)
    monkeypatch.setattr(driver, "compile", lambda file, row, arch: b"cubin")
    x, out = device.zeros((4, 2), np.float32), device.empty((4, 2), np.float64)
    fake.expect(*launcher.SIZES)
    device.launch("tiny.fill", "float32", 3, 64, x, out[1:], None, 1, 2, 3, 4, 0.5, 0.25, shared=64)
    last = fake.last
    assert (last.blocks, last.threads, last.shared, last.stream) == (3, 64, 64, 0x7F0000005678)
    address = x.data.ptr if isinstance(device, CupyDevice) else x.data_ptr()
    assert last.values[0] == address and last.values[2:7] == [0, 1, 2, 3, 4]
    assert last.values[1] == (out.data.ptr if isinstance(device, CupyDevice) else out.data_ptr()) + 16
    with pytest.raises(TypeError, match="x points to float, got an array of f8"):
        device.launch("tiny.fill", "float32", 3, 64, out, out, None, 1, 2, 3, 4, 0.5, 0.25)
    with pytest.raises(TypeError, match="a kernel was given ndarray, expected"):
        device.launch("tiny.fill", "float32", 3, 64, np.zeros(3), out, None, 1, 2, 3, 4, 0.5, 0.25)
    with pytest.raises(ValueError, match="not contiguous"):
        device.launch("tiny.fill", "float32", 3, 64, x[:, :1], out, None, 1, 2, 3, 4, 0.5, 0.25)
    assert fake.launches == 1


def test_arrays_of_others_are_checked(device: Device) -> None:
    here = "cpu" if device.name == "cpu" else "cuda:0"
    with pytest.raises(TypeError, match=f"the array is on the host, expected {here}"):
        device.adopt(np.zeros((3, 2)))
    with pytest.raises(TypeError, match=f"the array is on cuda:1, expected {here}"):
        device.adopt(launcher.Interface(0x7F0000000001))
    with pytest.raises(TypeError, match="list has neither"):
        device.adopt([[1.0]])


@pytest.fixture
def on_this_device(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every array for one of this device."""
    monkeypatch.setattr(driver, "location", lambda array: device.name)


def test_arrays_of_others_are_adopted(device: Device, on_this_device: None) -> None:
    array = np.arange(6.0).reshape(3, 2)
    adopted = device.adopt(array)
    assert device.owns(adopted)
    array[0, 0] = 9
    assert device.fetch(adopted)[0, 0] == 9  # the same memory
    own = device.zeros((3, 2), np.float32)
    assert device.fetch(device.adopt(own)).shape == (3, 2)
    with pytest.raises(ValueError, match="not C-contiguous; give a contiguous copy"):
        device.adopt(np.zeros((4, 3)).T)
    with pytest.raises(ValueError, match="has 3 dimensions, expected 1 or 2"):
        device.adopt(np.zeros((2, 3, 4)))


def test_too_little_memory(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(shape: Any, **options: Any) -> None:
        raise (import_module("torch").cuda.OutOfMemoryError if isinstance(device, TorchDevice) else MemoryError)("no")

    monkeypatch.setattr(device, "free_bytes", lambda: 3 << 30)
    with pytest.raises(MemoryError, match=r"8\.00 GiB were asked for on c.*, 3\.00 GiB are free; free memory there"):
        device._made(made, (1 << 20, 1024), np.float64)  # type: ignore[attr-defined]


def test_memory_kept_for_copies_is_given_back_first(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    error = import_module("torch").cuda.OutOfMemoryError if isinstance(device, TorchDevice) else MemoryError
    kept = ["slots"]

    def made(shape: Any, **options: Any) -> Any:
        if kept:
            raise error("no")
        return import_module("torch").empty(shape) if isinstance(device, TorchDevice) else np.empty(shape)

    monkeypatch.setattr(device, "release", lambda: bool(kept and kept.pop()))
    assert tuple(device._made(made, (4, 2), np.float32).shape) == (4, 2)  # type: ignore[attr-defined]
    assert not kept


# Torch alone


def test_copies_neither_convert_nor_broadcast(torch: TorchDevice) -> None:
    placed = torch.zeros((4, 3), np.float32)
    for array in (np.zeros(3, np.float32), np.zeros((4, 3)), np.zeros((3, 4), np.float32)):
        with pytest.raises(ValueError, match=r"shape \(4, 3\) of float32, the host's"):
            torch.place(array, placed)
        with pytest.raises(ValueError, match=r"shape \(4, 3\) of float32, the host's"):
            torch.fetch(placed, array)
    locked = np.zeros((4, 3), np.float32)
    locked.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        torch.fetch(placed, locked)


def test_rows_of_16_bits(torch: TorchDevice) -> None:
    library = import_module("torch")
    for kind, letters in (("bfloat16", "bf2"), ("float16", "f2")):
        rows = library.ones((3, 2), dtype=getattr(library, kind))
        assert (torch.kind(rows), torch.wide(rows)) == (kind, np.dtype(np.float32))
        assert torch._memory(rows) == (rows.data_ptr(), letters)
    for dtype in ("float32", "float64"):
        rows = torch.zeros((3, 2), dtype)
        assert (torch.kind(rows), torch.wide(rows)) == (dtype, np.dtype(dtype))


def test_centres_and_weights_of_16_bits() -> None:
    library = pytest.importorskip("torch", reason="not run: torch is not installed (scripts/test --interpret)")
    for kind in (library.bfloat16, library.float16, library.float64):
        np.testing.assert_array_equal(np.asarray(on_host(library.full((2, 3), 1.5, dtype=kind))), np.full((2, 3), 1.5))


def test_types_that_the_other_has_not(torch: TorchDevice) -> None:
    library = import_module("torch")
    with pytest.raises(TypeError, match="NumPy has no type for tensors of bfloat16"):
        torch.dtype(library.zeros(2, dtype=library.bfloat16))
    with pytest.raises(TypeError, match="torch has no type for arrays of"):
        torch.empty(2, np.longdouble)
    with pytest.raises(TypeError, match="torch has no type for arrays of"):
        torch.empty(2, "U4")


def test_tensors_that_track_gradients(torch: TorchDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = import_module("torch").ones((2, 2), requires_grad=True)
    monkeypatch.setattr(driver, "location", lambda array: "cpu")
    assert torch.fetch(tensor).sum() == 4 and not torch.adopt(tensor).requires_grad


@pytest.mark.parametrize(
    ("fraction", "free"), [(1.0, 500 + 300 - 100), (0.5, 200 + 300 - 100), (0.25, 0 + 300 - 100), (None, 700)]
)
def test_free_memory_of_torch(
    torch: TorchDevice, monkeypatch: pytest.MonkeyPatch, fraction: float | None, free: int
) -> None:
    cuda = import_module("torch").cuda
    monkeypatch.setattr(cuda, "mem_get_info", lambda index: (500, 1000))
    monkeypatch.setattr(cuda, "memory_reserved", lambda index: 300)
    monkeypatch.setattr(cuda, "memory_allocated", lambda index: 100)
    if fraction is None:
        monkeypatch.delattr(cuda, "get_per_process_memory_fraction", raising=False)
    else:
        monkeypatch.setattr(cuda, "get_per_process_memory_fraction", lambda index: fraction, raising=False)
    assert torch.free_bytes() == free


# CuPy alone


def test_free_memory_of_cupy(cupy: CupyDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cupy.free_bytes() == 10000 + 1000
    monkeypatch.setattr(FakePool, "limit", 5000)
    assert cupy.free_bytes() == 2000 + 1000
    monkeypatch.setattr(FakePool, "limit", 2500)
    assert cupy.free_bytes() == 1000
    monkeypatch.setattr(cupy._cupy.cuda, "get_allocator", lambda: len)  # RMM's is a plain function
    assert cupy.free_bytes() == 10000


def test_cupy_has_what_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("cupy") is None:
        pytest.skip("not run: cupy is not installed")
    real = import_module("cupy")
    called: list[Callable[[Any], Any]] = [
        lambda c: (c.ndarray.set, c.ndarray.get, c.empty, c.zeros, c.asarray, c.from_dlpack, c.__version__),
        lambda c: (c.cuda.Device, c.cuda.get_current_stream, c.cuda.get_allocator, c.cuda.MemoryPool.get_limit),
        lambda c: (c.cuda.runtime.getDevice, c.cuda.runtime.getDeviceCount, c.cuda.runtime.memGetInfo),
    ]
    for names in called:
        names(real)
    assert isinstance(real.cuda.get_allocator().__self__, real.cuda.MemoryPool)
    assert issubclass(real.cuda.memory.OutOfMemoryError, MemoryError)
