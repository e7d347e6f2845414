"""The launcher, where there is no GPU: on a driver that writes launches down, and on the real compiler where it is."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gpukm_kernels
import gpukm_kernels.cuda as kernels
import pytest
from gpukm_kernels.cuda import Parameter, driver
from gpukm_kernels.cuda.arguments import pack

from tests.unit.kernels.programs import ROOT, program, run

NATIVE = ROOT / "tests" / "native"
ARCHS = ("sm_80", "sm_90")
SIGNATURE = {
    "x": ("row_t", True),
    "out": ("double", True),
    "none": ("long long", True),
    "a": ("int", False),
    "b": ("long long", False),
    "c": ("unsigned", False),
    "d": ("unsigned long long", False),
    "e": ("float", False),
    "f": ("double", False),
}
SIZES = (8, 8, 8, 4, 8, 4, 8, 4, 8)
#: Arrays are (address, letters of the type).
ARGS = ((0x7F1122334455, "f4"), (0x7F5544332211, "f8"), None, -7, -(2**40), 2**32 - 1, 2**64 - 1, 0.5, -0.1)


class Launch(ctypes.Structure):
    """As in tests/native/libcuda.cpp."""

    _fields_ = (
        ("function", ctypes.c_char * 64),
        ("blocks", ctypes.c_uint),
        ("threads", ctypes.c_uint),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_uint64),
        ("context", ctypes.c_uint64),
        ("values", ctypes.c_uint64 * 16),
    )


class FakeDriver:
    """tests/native/libcuda.cpp in the place of the driver; its variables are attributes."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        path = folder / "libcuda.so.1"
        run(program("g++", "clang++"), "-std=c++17", "-shared", "-fPIC", str(NATIVE / "libcuda.cpp"), "-o", str(path))
        object.__setattr__(self, "library", ctypes.CDLL(str(path)))
        patch.setattr(driver, "_LIBCUDA", str(path))

    def __getattr__(self, name: str) -> Any:
        return ctypes.c_int.in_dll(self.library, f"fake_{name}").value

    def __setattr__(self, name: str, value: int) -> None:
        ctypes.c_int.in_dll(self.library, f"fake_{name}").value = value

    def fail(self, function: str, code: int) -> None:
        """Let a function return an error from now on."""
        (ctypes.c_char * 64).in_dll(self.library, "fake_failing").value = function.encode()
        self.code = code

    def expect(self, *sizes: int) -> None:
        """Bytes of the parameters of what is launched."""
        (ctypes.c_int * 16).in_dll(self.library, "fake_sizes")[: len(sizes)] = sizes

    @property
    def last(self) -> Launch:
        """The last launch."""
        return Launch.in_dll(self.library, "fake_launch")


def forget() -> None:
    """Drop what the launcher keeps in the process."""
    for held in (driver._driver, driver._context, driver._compiler, driver._signature, kernels.signatures):
        held.cache_clear()
    driver._modules.clear()


@contextlib.contextmanager
def fake_driver(folder: Path) -> Iterator[FakeDriver]:
    """A driver with one device of compute capability 9.0, and nothing kept from before."""
    with pytest.MonkeyPatch.context() as patch:
        forget()
        yield FakeDriver(folder, patch)
    forget()


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeDriver]:
    with fake_driver(tmp_path) as made:
        yield made


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of kernels that holds tests/native/tiny.cu alone, and an empty cache."""
    folder = tmp_path / "cuda"
    folder.mkdir()
    shutil.copy(NATIVE / "tiny.cu", folder)
    monkeypatch.setattr(kernels, "FOLDER", folder)
    monkeypatch.setenv("GPUKM_CACHE_DIR", str(tmp_path / "cache"))
    forget()
    yield folder
    forget()


@pytest.fixture
def compiled(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """Calls of a compiler that is not there: (file, options)."""
    calls: list[tuple[str, tuple[str, ...]]] = []

    def fake_compiled(file: str, source: bytes, options: tuple[str, ...]) -> bytes:
        calls.append((file, options))
        return b"cubin\n" + source * 50

    monkeypatch.setattr(driver, "_compiled", fake_compiled)
    monkeypatch.setattr(driver, "compiler_version", lambda: (12, 9))
    return calls


# Packing


def signature() -> list[Parameter]:
    return [Parameter(name, kind, pointer) for name, (kind, pointer) in SIGNATURE.items()]


def packed(*args: Any, row: str = "float") -> list[Any]:
    return pack("tiny.fill", signature(), args, row, lambda array: array)


def changed(at: int, value: Any) -> tuple[Any, ...]:
    return (*ARGS[:at], value, *ARGS[at + 1 :])


def test_values_have_their_types_and_order() -> None:
    values = packed(*ARGS)
    assert tuple(map(ctypes.sizeof, values)) == SIZES
    assert [v.value for v in values] == [ARGS[0][0], ARGS[1][0], *ARGS[2:]]


def test_numpy_numbers_are_numbers() -> None:
    np = pytest.importorskip("numpy")
    numbers = (np.int32(-7), np.int64(-(2**40)), np.uint32(2**32 - 1), np.uint64(2**64 - 1), np.float32(0.5), -0.1)
    assert [v.value for v in packed(*ARGS[:3], *numbers)] == [v.value for v in packed(*ARGS)]
    assert packed(*changed(3, True))[3].value == 1


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (ARGS[:-1], TypeError, "given 8 arguments, expected 9: x, out, none"),
        (changed(0, 3), TypeError, "x is a pointer to float, got the number 3"),
        (changed(0, (1, "f8")), TypeError, "x points to float, got an array of f8, expected f4"),
        (changed(2, (1, "i4")), TypeError, "none points to long long, got an array of i4, expected i8 or u8"),
        (changed(3, 1.5), TypeError, "a is of type int, got float"),
        (changed(3, (1, "i4")), TypeError, "a is of type int, got tuple"),
        (changed(3, 2**31), OverflowError, "a is 2147483648, which does not fit int"),
        (changed(5, -1), OverflowError, "c is -1, which does not fit unsigned"),
        (changed(4, 2**63), OverflowError, "does not fit long long"),
        (changed(8, "1"), TypeError, "f is a double, got str"),
    ],
)
def test_what_a_kernel_does_not_take(args: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"tiny.fill.*{message}"):
        packed(*args)


def test_rows_have_the_type_that_is_compiled() -> None:
    assert packed(*changed(0, (1, "f8")), row="double")[0].value == 1
    assert packed(*changed(1, (1, "u1")))[1].value == 1  # bytes are memory for anything
    for row, letters, wide in (("gpukm_half", "f2", "f4"), ("gpukm_brain", "bf2", "f4"), ("double", "f8", "f8")):
        of = [Parameter("x", "row_t", True), Parameter("c", "wide_t", True)]
        values = pack("tiny.wide", of, ((1, letters), (2, wide)), row, lambda array: array)
        assert [v.value for v in values] == [1, 2]
        with pytest.raises(TypeError, match=f"c points to .*, got an array of i4, expected {wide}"):
            pack("tiny.wide", of, ((1, letters), (2, "i4")), row, lambda array: array)
        with pytest.raises(TypeError, match=f"x points to {row}, got an array of u2"):
            pack("tiny.wide", of, ((1, "u2"), (2, wide)), row, lambda array: array)


def test_every_parameter_of_every_kernel_can_be_packed() -> None:
    names = [(file, name) for file in kernels.files() for name in kernels.signatures(file)]
    assert len(names) == len(set(names))
    for file, name in names:
        of = kernels.signatures(file)[name]
        assert len(pack(name, of, [None if p.pointer else 1 for p in of], "float", lambda array: array)) == len(of)


# Devices


def test_devices_are_described(fake: FakeDriver) -> None:
    fake.devices = 2
    first, second = gpukm_kernels.cuda_devices()
    assert (first.name, first.capability, first.arch, first.processors) == ("Fake H200", (9, 0), "sm_90", 132)
    assert second.name == "Fake H100"
    assert gpukm_kernels.cuda_status() == (True, "Fake H200 (sm_90), 139 GiB; Fake H100 (sm_90), 139 GiB")
    assert driver.driver_version() == (13, 0)
    assert fake.retained == 0


def test_no_device_is_visible(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    fake.devices = 0
    assert gpukm_kernels.cuda_devices() == []
    assert gpukm_kernels.cuda_status() == (False, "no CUDA device is visible (CUDA_VISIBLE_DEVICES='')")
    with pytest.raises(ImportError, match="cuda:1 was asked for, but 0 CUDA devices are visible"):
        driver.device(1)


def test_a_device_that_is_too_old(fake: FakeDriver) -> None:
    fake.major, fake.minor = 6, 1
    reason = "Fake H200 has compute capability 6.1, expected 7.0 or more"
    assert gpukm_kernels.cuda_status() == (False, reason)
    with pytest.raises(ImportError, match=reason):
        driver.device(0)


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_LIBCUDA", "libcuda-that-is-not-there.so.1")
    forget()
    usable, reason = gpukm_kernels.cuda_status()
    assert not usable and "no NVIDIA driver was found" in reason and "run on the CPU" in reason
    assert gpukm_kernels.cuda_devices() == []


def test_a_driver_that_does_not_start(fake: FakeDriver) -> None:
    fake.fail("cuInit", 999)
    assert gpukm_kernels.cuda_status() == (False, "cuInit: unknown error (999): a text")


class Interface:
    """An array of which no more is known than where it is."""

    def __init__(self, address: int) -> None:
        self.__cuda_array_interface__ = {"data": (address, False)}


def test_where_an_array_is(fake: FakeDriver) -> None:
    np = pytest.importorskip("numpy")
    assert driver.location(np.zeros(3)) == "the host"
    assert driver.location(Interface(0x7F0000000001)) == "cuda:1"
    assert driver.location(Interface(0x7F0000000000)) == "cuda:0"
    assert driver.location(Interface(0x1000)) == "the host"
    with pytest.raises(TypeError, match="list has neither"):
        driver.location([1.0])
    fake.fail("cuPointerGetAttribute", 700)
    with pytest.raises(driver.CudaError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        driver.location(Interface(0x1000))


# Launching


def go(kernel: str = "tiny.fill", args: tuple[Any, ...] = ARGS, **options: Any) -> None:
    """Launch on device 0, in a stream whose handle does not fit 32 bits."""
    given: dict[str, Any] = {
        "row": "float32",
        "index": 0,
        "stream": 0x7F0000001234,
        "blocks": 2**31 - 1,
        "threads": 256,
    }
    driver.launch(kernel, args=args, memory_of=lambda array: array, **(given | options))


def test_a_launch_arrives_as_it_was_given(fake: FakeDriver, compiled: list[Any]) -> None:
    fake.expect(*SIZES)
    go(shared=1000)
    last = fake.last
    assert (last.function, last.blocks, last.threads, last.shared) == (b"fill", 2**31 - 1, 256, 1000)
    assert (last.stream, last.context) == (0x7F0000001234, 0x7000000000000000 + 10)
    raw = [v.to_bytes(8, "little")[:size] for v, size in zip(last.values, SIZES, strict=False)]
    assert raw == [bytes(v) for v in packed(*ARGS)]
    assert fake.depth == 0
    assert compiled[0][1][-2:] == ("-DGPUKM_ROW=float", "--gpu-architecture=sm_90")


def test_a_file_is_loaded_once_for_a_device_and_a_type(fake: FakeDriver, compiled: list[Any]) -> None:
    fake.devices = 2
    for _ in range(3):
        go()
        go("tiny.other", ((1, "u8"),))
    assert (fake.modules, fake.launches, len(compiled)) == (1, 6, 1)
    go(index=1)
    assert (fake.modules, fake.last.context, fake.retained) == (2, 0x7000000000000000 + 11, 2)
    go(row="float64", args=changed(0, (1, "f8")))
    assert (fake.modules, len(compiled)) == (3, 2)


def test_shared_memory_beyond_48_kib_is_asked_for_and_kept(fake: FakeDriver, compiled: list[Any]) -> None:
    for shared in (48 << 10, 200 << 10, 100 << 10, 0):  # the fake refuses what was not asked for
        go(shared=shared)
        assert fake.last.shared == shared
    fake.fail("cuFuncSetAttribute", 1)
    go(shared=150 << 10)
    with pytest.raises(driver.CudaError, match="cuFuncSetAttribute: CUDA_ERROR_INVALID_VALUE"):
        go(shared=300 << 10)


def test_errors_have_names(fake: FakeDriver, compiled: list[Any]) -> None:
    fake.fail("cuLaunchKernel", 700)
    with pytest.raises(driver.CudaError, match=r"cuLaunchKernel: CUDA_ERROR_ILLEGAL_ADDRESS \(700\): an illegal") as e:
        go()
    assert e.value.code == 700
    fake.fail("cuLaunchKernel", 2)
    with pytest.raises(MemoryError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        go()
    assert fake.depth == 0
    forget()
    fake.fail("cuModuleLoadData", 2)
    with pytest.raises(MemoryError, match="cuModuleLoadData"):
        go()
    fake.fail("", 0)
    go()


@pytest.mark.parametrize("options", [{"blocks": 0}, {"blocks": 2**31}, {"threads": 1025}, {"threads": 0}])
def test_grids_that_no_device_takes(fake: FakeDriver, compiled: list[Any], options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected 1 to 2147483647 blocks of 1 to 1024"):
        go(**options)
    assert fake.launches == 0


@pytest.mark.parametrize("kernel", ["tiny.missing", "missing.fill", "tiny", "../tiny.fill"])
def test_there_is_no_such_kernel(fake: FakeDriver, compiled: list[Any], kernel: str) -> None:
    with pytest.raises(LookupError, match="there is no kernel"):
        go(kernel)
    with pytest.raises(LookupError, match="rows are int8, expected one of float32, float64"):
        go(row="int8")


def test_threads_may_launch_at_the_same_time(fake: FakeDriver, compiled: list[Any]) -> None:
    module = driver.Module(b"cubin", 0)
    for n in range(8):
        module.launch("fill", 1, 32, n << 14, 0, [])
    threads = [threading.Thread(target=driver._module, args=("tiny", "float32", 0)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (fake.modules, len(compiled)) == (2, 1)


# The cache


def make(row: str = "float", arch: str = "sm_90") -> bytes:
    return driver.compile("tiny", row, arch)


def entries(tiny: Path) -> list[Path]:
    return sorted((tiny.parent / "cache" / "kernels").iterdir())


def test_compiled_once(tiny: Path, compiled: list[Any]) -> None:
    first = make()
    assert make() == first and len(compiled) == 1
    folder = tiny.parent / "cache" / "kernels"
    assert folder.stat().st_mode & 0o777 == 0o700 and folder.parent.stat().st_mode & 0o777 == 0o700
    (entry,) = entries(tiny)
    assert entry.stat().st_mode & 0o777 == 0o600 and first in entry.read_bytes()


def test_what_machine_code_follows_from(tiny: Path, compiled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def remade() -> bool:
        before = len(compiled)
        make()
        return len(compiled) > before

    assert remade() and not remade()
    (tiny / "tiny.cu").write_text((tiny / "tiny.cu").read_text() + "\n")
    assert remade() and not remade()
    (tiny / "common.cuh").write_text("// one\n")
    assert remade() and not remade()
    (tiny / "common.cuh").write_text("// two\n")
    assert remade() and not remade()
    monkeypatch.setattr(kernels, "OPTIONS", (*kernels.OPTIONS, "-DMORE"))
    assert remade() and not remade()
    monkeypatch.setattr(driver, "compiler_version", lambda: (13, 0))
    assert remade() and not remade()
    assert make("double") and make(arch="sm_80") and len(compiled) == 8


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b[:-1],
        lambda b: b[:40],
        lambda b: b"",
        lambda b: b[:-1] + b"?",
        lambda b: b"?" + b[1:],
        lambda b: b * 2,
    ],
)
def test_a_spoilt_entry_is_compiled_again(tiny: Path, compiled: list[Any], spoil: Callable[[bytes], bytes]) -> None:
    first = make()
    (entry,) = entries(tiny)
    whole = entry.read_bytes()
    entry.write_bytes(spoil(whole))
    assert make() == first and len(compiled) == 2
    assert entry.read_bytes() == whole


def test_a_folder_that_others_can_write_to_is_not_used(tiny: Path, compiled: list[Any]) -> None:
    make()
    folder = tiny.parent / "cache" / "kernels"
    for mode in (0o720, 0o702):
        folder.chmod(mode)
        make()
    assert len(compiled) == 3 and len(entries(tiny)) == 1
    folder.chmod(0o755)
    make()
    assert len(compiled) == 3


def test_a_folder_of_somebody_else_is_not_used(
    tiny: Path, compiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    make()
    make()
    assert len(compiled) == 2 and entries(tiny) == []


def test_where_nothing_can_be_kept(tiny: Path, compiled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tiny.parent / "file"
    blocked.write_text("")
    monkeypatch.setenv("GPUKM_CACHE_DIR", str(blocked))
    assert make() == make() and len(compiled) == 2
    monkeypatch.delenv("GPUKM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tiny.parent / "xdg"))
    make()
    assert len(list((tiny.parent / "xdg" / "gpukm" / "kernels").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tiny.parent / "home"))
    make()
    assert len(list((tiny.parent / "home" / ".cache" / "gpukm" / "kernels").iterdir())) == 1


def test_many_write_the_same_entry(tiny: Path, compiled: list[Any]) -> None:
    first = make()
    (entry,) = entries(tiny)
    found: list[bytes | None] = []

    def work() -> None:
        for _ in range(100):
            driver._write(entry, first)
            found.append(driver._read(entry))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 400 and set(found) == {first}
    assert entries(tiny) == [entry]  # nothing is left aside


# Real compilers


@pytest.fixture
def nvrtc() -> Iterator[None]:
    """The real compiler, or a skip that says so."""
    forget()
    try:
        driver.compiler_version()
    except ImportError as error:
        pytest.skip(f"not run: {error}")
    yield
    forget()


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    monkeypatch.setattr(driver, "_compilers", lambda: iter(["/nowhere/libnvrtc.so.12"]))
    with pytest.raises(ImportError, match=r"libnvrtc.* was not found .*CUDA_HOME.* run 'pip install nvidia-cuda-nvrtc"):
        driver.compiler_version()


def test_a_compiler_that_is_newer_than_the_driver(fake: FakeDriver, nvrtc: None) -> None:
    fake.version = 11080
    forget()
    with pytest.raises(ImportError, match="the driver supports CUDA 11"):
        driver.compiler_version()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("row", kernels.ROWS.values())
@pytest.mark.parametrize("file", kernels.files())
def test_nvrtc_compiles(nvrtc: None, tmp_path: Path, monkeypatch: Any, file: str, row: str, arch: str) -> None:
    monkeypatch.setenv("GPUKM_CACHE_DIR", str(tmp_path))
    cubin = driver.compile(file, row, arch)
    assert cubin.startswith(b"\x7fELF")
    assert all(name.encode() in cubin for name in kernels.signatures(file))
    monkeypatch.setattr(driver, "_compiled", None)
    assert driver.compile(file, row, arch) == cubin


@pytest.mark.parametrize(("file", "row"), [("sort", "float"), ("sort", "gpukm_brain"), ("matrix", "gpukm_half")])
def test_instructions_where_they_count(nvrtc: None, tmp_path: Path, monkeypatch: Any, file: str, row: str) -> None:
    """Blocks find room as they are meant to, nothing is spilled, and loops take what kernels/README.md says."""
    pytest.importorskip("triton", reason="not run: triton, which brings the tools, is not installed")
    from tests.unit.kernels.machine_code import functions

    monkeypatch.setenv("GPUKM_CACHE_DIR", str(tmp_path))
    found = functions(driver.compile(file, row, "sm_90"))
    assert set(found) == set(kernels.signatures(file)) and not any(code.stack for code in found.values())
    if file == "sort":
        # Eight values of float32 at a time, for three widths.
        assert found["add_runs"].registers <= 80 and len([n for n in found["add_runs"].loops if 100 < n <= 170]) == 3
        assert found["line_up"].registers <= 64
    else:
        assert all(code.registers <= 256 for code in found.values())
        # A tile of centroids with the products of 32 features, which is the inner loop.
        per_tile = {name: code.loops[1] - code.loops[0] for name, code in found.items() if name != "pairs"}
        assert per_tile["find_tiles"] <= 300 and per_tile["label_within"] <= 850 and per_tile["label"] <= 1450, per_tile


def test_the_compilers_words_are_in_the_error(nvrtc: None, tiny: Path) -> None:
    assert make().startswith(b"\x7fELF")
    (tiny / "tiny.cu").write_text("row_t broken;")
    with pytest.raises(
        RuntimeError, match=r"(?s)tiny.cu was not compiled by libnvrtc \d+.*sm_90.*\"row_t\" is undefined"
    ):
        make()
    with pytest.raises(RuntimeError, match=r"(?s)sm_1 .*--gpu-architecture"):
        make(arch="sm_1")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("file", "row"),
    [*itertools.product(kernels.files(), kernels.ROWS.values()), ("tiny", "float"), ("tiny", "double")],
)
def test_nvcc_fuses_and_flushes_nothing(tmp_path: Path, file: str, row: str) -> None:
    """Multiply-adds of float64 round twice, and the smallest float32 are not taken for zero."""
    folder = NATIVE if file == "tiny" else kernels.FOLDER
    targets = [f"-gencode=arch={arch.replace('sm', 'compute')},code={arch}" for arch in ARCHS]
    run(
        program("nvcc"), *kernels.OPTIONS, f"-DGPUKM_ROW={row}", *targets, "-fatbin", "--keep", "--keep-dir",
        str(tmp_path), "-o", str(tmp_path / "out.fatbin"), str(folder / f"{file}.cu"),
    )  # fmt: skip
    made = list(tmp_path.glob("*.ptx"))
    assert len(made) == len(list(tmp_path.glob("*.cubin"))) == len(ARCHS)
    for path in made:
        assert "fma.rn.f64" not in path.read_text()
        assert ".ftz" not in path.read_text()
