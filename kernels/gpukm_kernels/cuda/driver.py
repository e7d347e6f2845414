"""Compiles the kernels and launches them: NVRTC and the CUDA driver, called through ctypes for any library of arrays.

Both GPU backends launch through this module, so that the same machine code runs whichever library holds the arrays.
CuPy's own compiler would not do: it always adds ``-ftz=true``, which makes float32 rows below 2^-126 zero, and the
distances are defined without that.

What is compiled is kept in ``kernels`` within ``$GPUKM_CACHE_DIR``, else ``$XDG_CACHE_HOME/gpukm``, else
``~/.cache/gpukm``. A folder that others can write to, or that belongs to somebody else, is not used; kernels are then
compiled once in every process, which takes seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gpukm_kernels.cuda as kernels
from gpukm_kernels.cuda.arguments import pack

#: Below it a block cannot have more than 48 KiB of shared memory.
MINIMUM_CAPABILITY = (7, 0)

_LIBCUDA = "libcuda.so.1"
_INT, _P = ctypes.c_int, ctypes.c_void_p
_UNSIGNED, _SIZE = ctypes.c_uint, ctypes.c_size_t
# Names as the libraries export them: where the header makes cuCtxPushCurrent cuCtxPushCurrent_v2, the plain name is
# an older function.
_DRIVER = {
    "cuInit": (_UNSIGNED,),
    "cuDriverGetVersion": (_P,),
    "cuGetErrorName": (_INT, _P),
    "cuGetErrorString": (_INT, _P),
    "cuDeviceGetCount": (_P,),
    "cuDeviceGet": (_P, _INT),
    "cuDeviceGetName": (_P, _INT, _INT),
    "cuDeviceGetAttribute": (_P, _INT, _INT),
    "cuDeviceTotalMem_v2": (_P, _INT),
    "cuDevicePrimaryCtxRetain": (_P, _INT),
    "cuCtxPushCurrent_v2": (_P,),
    "cuCtxPopCurrent_v2": (_P,),
    "cuPointerGetAttribute": (_P, _INT, ctypes.c_uint64),
    "cuModuleLoadData": (_P, _P),
    "cuModuleGetFunction": (_P, _P, ctypes.c_char_p),
    "cuFuncSetAttribute": (_P, _INT, _INT),
    "cuStreamCreate": (_P, _UNSIGNED),
    "cuStreamDestroy_v2": (_P,),
    "cuStreamWaitEvent": (_P, _P, _UNSIGNED),
    "cuEventCreate": (_P, _UNSIGNED),
    "cuEventDestroy_v2": (_P,),
    "cuEventRecord": (_P, _P),
    "cuEventSynchronize": (_P,),
    "cuMemcpyHtoDAsync_v2": (ctypes.c_uint64, _P, _SIZE, _P),
    "cuMemHostAlloc": (_P, _SIZE, _UNSIGNED),
    "cuMemFreeHost": (_P,),
    "cuMemHostRegister_v2": (_P, _SIZE, _UNSIGNED),
    "cuMemHostUnregister": (_P,),
    "cuLaunchKernel": (_P, *[_UNSIGNED] * 7, _P, _P, _P),
}
_COMPILER = {
    "nvrtcVersion": (_P, _P),
    "nvrtcCreateProgram": (_P, ctypes.c_char_p, ctypes.c_char_p, _INT, _P, _P),
    "nvrtcCompileProgram": (_P, _INT, _P),
    "nvrtcGetProgramLogSize": (_P, _P),
    "nvrtcGetProgramLog": (_P, _P),
    "nvrtcGetCUBINSize": (_P, _P),
    "nvrtcGetCUBIN": (_P, _P),
    "nvrtcDestroyProgram": (_P,),
}
_INVALID_VALUE, _OUT_OF_MEMORY, _NO_DEVICE = 1, 2, 100
_PROCESSORS, _MAJOR, _MINOR = 16, 75, 76  # CU_DEVICE_ATTRIBUTE_...
_POINTER_DEVICE = 9  # CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
_NON_BLOCKING, _NO_TIMING = 1, 2  # CU_STREAM_..., CU_EVENT_...
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_...
#: Dynamic shared memory that every function may have; it must be asked for more.
_SHARED = 48 << 10
_MAX_BLOCKS, _MAX_THREADS = 2**31 - 1, 1024
_HEAD = b"gpukm cubin 1 "


class CudaError(RuntimeError):
    """A call of the CUDA driver failed.

    Attributes
    ----------
    code : int
        The driver's number of the error.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class CudaDevice:
    """A device that the driver shows to this process; the driver has heeded CUDA_VISIBLE_DEVICES and MIG."""

    name: str
    capability: tuple[int, int]
    processors: int
    memory: int

    @property
    def arch(self) -> str:
        """What is compiled for, ``sm_90``."""
        return "sm_{}{}".format(*self.capability)

    def __str__(self) -> str:
        return f"{self.name} ({self.arch}), {self.memory / 2**30:.0f} GiB"


# The driver


@cache
def _driver() -> ctypes.CDLL:
    """The driver's library, initialised."""
    try:
        library = _bound(ctypes.CDLL(_LIBCUDA), _DRIVER)
    except (OSError, AttributeError) as error:
        raise ImportError(
            f"no NVIDIA driver was found ({error}); install one that supports CUDA 12 or later, or run on the CPU"
        ) from None
    _check(library, "cuInit", library.cuInit(0))
    return library


def _bound(library: ctypes.CDLL, functions: dict[str, tuple[Any, ...]]) -> ctypes.CDLL:
    """Declare the functions: undeclared, a pointer would be cut to 32 bits."""
    for name, types in functions.items():
        getattr(library, name).argtypes = types
    return library


def _call(function: str, *args: Any) -> None:
    """Call the driver and raise what it reports, which can be an earlier launch's error."""
    library = _driver()
    _check(library, function, getattr(library, function)(*args))


def _check(library: ctypes.CDLL, function: str, code: int) -> None:
    """Raise an error by its name and text."""
    if code == 0:
        return
    name, text = ctypes.c_char_p(), ctypes.c_char_p()
    library.cuGetErrorName(code, ctypes.byref(name))
    library.cuGetErrorString(code, ctypes.byref(text))
    message = f"{function}: {(name.value or b'unknown error').decode()} ({code}): {(text.value or b'').decode()}"
    if code == _OUT_OF_MEMORY:
        raise MemoryError(message)
    raise CudaError(message, code)


def driver_version() -> tuple[int, int]:
    """CUDA version that the driver supports.

    Raises
    ------
    ImportError
        Without a driver.
    CudaError
        When the driver does not start.
    """
    number = _INT()
    _call("cuDriverGetVersion", ctypes.byref(number))
    return number.value // 1000, number.value % 1000 // 10


def devices() -> list[CudaDevice]:
    """Devices in the order of their numbers; none where the driver shows none.

    This starts the driver, which a process that is forked later cannot use.

    Raises
    ------
    ImportError
        Without a driver.
    CudaError
        When the driver does not start.
    """
    count = _INT()
    try:
        _call("cuDeviceGetCount", ctypes.byref(count))
    except CudaError as error:
        if error.code == _NO_DEVICE:
            return []
        raise
    return [_device(_handle(index)) for index in range(count.value)]


def device(index: int) -> CudaDevice:
    """One device, which the kernels can run on.

    Raises
    ------
    ImportError, CudaError
        Without a driver, without this device, or with one that is too old.
    """
    found = devices()
    if not 0 <= index < len(found):
        raise ImportError(
            f"cuda:{index} was asked for, but {len(found)} CUDA devices are visible "
            f"(CUDA_VISIBLE_DEVICES={visible()}); choose a lower number"
        )
    if found[index].capability < MINIMUM_CAPABILITY:
        raise ImportError(too_old(found[index]))
    return found[index]


def visible() -> str:
    """What CUDA_VISIBLE_DEVICES says, for messages."""
    return repr(os.environ["CUDA_VISIBLE_DEVICES"]) if "CUDA_VISIBLE_DEVICES" in os.environ else "not set"


def too_old(found: CudaDevice) -> str:
    """Why the kernels do not run on a device."""
    return "{} has compute capability {}.{}, expected {}.{} or more".format(
        found.name, *found.capability, *MINIMUM_CAPABILITY
    )


def _handle(index: int) -> int:
    """The driver's handle of a device."""
    handle = _INT()
    _call("cuDeviceGet", ctypes.byref(handle), index)
    return handle.value


def _device(handle: int) -> CudaDevice:
    """Look a device up."""
    name, memory = ctypes.create_string_buffer(256), _SIZE()
    _call("cuDeviceGetName", name, len(name), handle)
    _call("cuDeviceTotalMem_v2", ctypes.byref(memory), handle)

    def attribute(number: int) -> int:
        value = _INT()
        _call("cuDeviceGetAttribute", ctypes.byref(value), number, handle)
        return value.value

    capability = attribute(_MAJOR), attribute(_MINOR)
    return CudaDevice(name.value.decode(errors="replace"), capability, attribute(_PROCESSORS), memory.value)


def location(array: Any) -> str:
    """Where an array of any library is: ``cuda:0``, or ``the host``.

    Parameters
    ----------
    array : object with ``__dlpack_device__`` or ``__cuda_array_interface__``

    Raises
    ------
    TypeError
        For anything else.
    """
    if hasattr(array, "__dlpack_device__"):
        kind, index = array.__dlpack_device__()
        return f"cuda:{index}" if int(kind) in (2, 13) else "the host"  # kDLCUDA, kDLCUDAManaged
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is None:
        raise TypeError(f"{type(array).__name__} has neither __dlpack__ nor __cuda_array_interface__")
    ordinal = _INT()
    try:
        _call("cuPointerGetAttribute", ctypes.byref(ordinal), _POINTER_DEVICE, interface["data"][0])
    except CudaError as error:
        if error.code == _INVALID_VALUE:  # memory that the driver does not know
            return "the host"
        raise
    return f"cuda:{ordinal.value}"


# Compiling


@cache
def _compiler() -> tuple[ctypes.CDLL, tuple[int, int]]:
    """NVRTC and its version, which must not be newer than the driver's: that could not load what it makes."""
    try:
        newest: float = driver_version()[0]
    except (ImportError, CudaError):
        newest = float("inf")  # kernels can be compiled where they cannot run
    newer = []
    for path in _compilers():
        try:
            library = _bound(ctypes.CDLL(path), _COMPILER)
        except (OSError, AttributeError):
            continue
        major, minor = _INT(), _INT()
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        if major.value <= newest:
            return library, (major.value, minor.value)
        newer.append(f"{path} is of CUDA {major.value}.{minor.value}, the driver supports CUDA {newest}")
    found = "; ".join(newer) or (
        "looked in this process, in NVIDIA's wheels, in CUDA_HOME, CUDA_PATH, "
        f"{sys.prefix} and /usr/local/cuda, and where the loader looks"
    )
    raise ImportError(
        f"libnvrtc, which compiles the kernels, was not found ({found}); run 'pip install nvidia-cuda-nvrtc-cu12'"
    )


def _compilers() -> Iterator[str]:
    """Paths where libnvrtc may be: in this process, NVIDIA's wheels, the toolkit, where the loader looks."""
    with contextlib.suppress(OSError):
        maps = Path("/proc/self/maps").read_text()
        yield from dict.fromkeys(re.findall(r"(/.*/libnvrtc(?:-\w+)?\.so\S*)$", maps, re.MULTILINE))
    with contextlib.suppress(ImportError, ValueError):
        spec = find_spec("nvidia")
        for folder in (spec.submodule_search_locations if spec else None) or ():
            yield from map(str, sorted(Path(folder).glob("*/lib/libnvrtc.so.[0-9]*"), reverse=True))
    for root in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), sys.prefix, "/usr/local/cuda"):
        for folder in ("lib64", "lib"):
            if root:
                yield from map(str, sorted(Path(root, folder).glob("libnvrtc.so.[0-9]*"), reverse=True))
    yield from ("libnvrtc.so.13", "libnvrtc.so.12")


def compiler_version() -> tuple[int, int]:
    """CUDA version of the compiler.

    Raises
    ------
    ImportError
        Without one.
    """
    return _compiler()[1]


def compile(file: str, row: str, arch: str) -> bytes:
    """Machine code of a file of kernels.

    Parameters
    ----------
    file : str
        One of :func:`gpukm_kernels.cuda.files`.
    row : str
        What ``row_t`` is, one of the values of :data:`gpukm_kernels.cuda.ROWS`.
    arch : str
        What to compile for, ``sm_90``.

    Returns
    -------
    bytes
        A cubin, from the cache where it was compiled before.

    Raises
    ------
    ImportError
        Without a compiler.
    RuntimeError
        When it does not compile; the compiler's own words are in the message.
    """
    source = (kernels.FOLDER / f"{file}.cu").read_bytes()
    options = (*kernels.OPTIONS, f"-DGPUKM_ROW={row}", f"--gpu-architecture={arch}")
    folder = cache_folder()
    if folder is None:
        return _compiled(file, source, options)
    entry = folder / f"{file}-{row}-{arch}-{_key(options, compiler_version())}.cubin"
    held = _read(entry)
    if held is None:
        held = _compiled(file, source, options)
        _write(entry, held)
    return held


def _compiled(file: str, source: bytes, options: Sequence[str]) -> bytes:
    """Run the compiler."""
    library, version = _compiler()
    program = _P()
    if library.nvrtcCreateProgram(ctypes.byref(program), source, f"{file}.cu".encode(), 0, None, None):
        raise RuntimeError(f"libnvrtc {version[0]}.{version[1]} took no source of {file}.cu")
    try:
        passed = (ctypes.c_char_p * len(options))(*map(os.fsencode, options))
        failed = library.nvrtcCompileProgram(program, len(options), passed)
        if failed:
            log = _output(library, program, "nvrtcGetProgramLog").rstrip(b"\0").decode(errors="replace").strip()
            raise RuntimeError(
                f"{file}.cu was not compiled by libnvrtc {version[0]}.{version[1]} with {' '.join(options)} "
                f"(error {failed}):\n{log}"
            )
        return _output(library, program, "nvrtcGetCUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _output(library: ctypes.CDLL, program: ctypes.c_void_p, function: str) -> bytes:
    """One of the things that a program has after compiling."""
    size = _SIZE()
    code = getattr(library, f"{function}Size")(program, ctypes.byref(size))
    out = ctypes.create_string_buffer(size.value)
    code = code or getattr(library, function)(program, out)
    if code or not size.value:
        raise RuntimeError(f"{function} of libnvrtc gave nothing (error {code})")
    return out.raw


def _key(options: Sequence[str], version: tuple[int, int]) -> str:
    """Digest of all that machine code follows from."""
    digest = hashlib.sha256(repr((version, options)).encode())
    for path in sorted(kernels.FOLDER.glob("*.cu*")):
        source = path.read_bytes()
        digest.update(f"{path.name} {len(source)}\n".encode() + source)
    return digest.hexdigest()


def cache_folder() -> Path | None:
    """Folder of compiled kernels; None where there can be none, or where others could put theirs."""
    try:
        if named := os.environ.get("GPUKM_CACHE_DIR"):
            root = Path(named)
        elif caches := os.environ.get("XDG_CACHE_HOME"):
            root = Path(caches, "gpukm")
        else:
            root = Path.home() / ".cache" / "gpukm"
        folder = root / "kernels"
        for made in (root, folder):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except (OSError, RuntimeError):  # the latter where there is no home
        return None
    return folder if found.st_uid == os.geteuid() and not found.st_mode & 0o022 else None


def _read(entry: Path) -> bytes | None:
    """What was kept, if it is there and whole: its digest stands before it."""
    try:
        head, _, held = entry.read_bytes().partition(b"\n")
    except OSError:
        return None
    return held if head == _HEAD + hashlib.sha256(held).hexdigest().encode() else None


def _write(entry: Path, made: bytes) -> None:
    """Keep it, whole or not at all; where that fails it is compiled again next time."""
    with contextlib.suppress(OSError):
        handle, aside = tempfile.mkstemp(dir=entry.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_HEAD + hashlib.sha256(made).hexdigest().encode() + b"\n" + made)
            Path(aside).replace(entry)
        except BaseException:
            Path(aside).unlink()
            raise


# Launching


class Module:
    """Machine code on one device; it stays there as long as the process lives.

    Parameters
    ----------
    cubin : bytes
    index : int
        The device's number.

    Raises
    ------
    CudaError
        When the device does not take it.
    """

    def __init__(self, cubin: bytes, index: int) -> None:
        self._context = _context(index)
        self._handle = _P()
        self._functions: dict[str, ctypes.c_void_p] = {}
        self._shared: dict[str, int] = {}
        self._lock = threading.Lock()
        with _current(self._context):
            _call("cuModuleLoadData", ctypes.byref(self._handle), cubin)

    def launch(self, function: str, blocks: int, threads: int, shared: int, stream: int, args: Sequence[Any]) -> None:
        """Put a function into a stream.

        Parameters
        ----------
        function : str
        blocks, threads : int
            Blocks, and threads in each.
        shared : int
            Bytes of dynamic shared memory.
        stream : int
            Handle of a stream of this device; 0 is its default stream.
        args : sequence of ctypes values
            From :func:`gpukm_kernels.cuda.arguments.pack`.

        Raises
        ------
        ValueError
            For numbers of blocks or threads that no device takes.
        CudaError
            When the driver does not take it, or reports an earlier launch's error.
        """
        if not 1 <= blocks <= _MAX_BLOCKS or not 1 <= threads <= _MAX_THREADS:
            raise ValueError(
                f"{function} was to run with {blocks} blocks of {threads} threads, "
                f"expected 1 to {_MAX_BLOCKS} blocks of 1 to {_MAX_THREADS}"
            )
        addresses = (_P * len(args))(*(ctypes.addressof(arg) for arg in args))
        with _current(self._context):
            handle = self._function(function, shared)
            _call("cuLaunchKernel", handle, blocks, 1, 1, threads, 1, 1, shared, stream, addresses, None)

    def _function(self, name: str, shared: int) -> ctypes.c_void_p:
        """Handle of a function that may have this much shared memory; what it may have never shrinks."""
        with self._lock:
            handle = self._functions.get(name)
            if handle is None:
                handle = _P()
                _call("cuModuleGetFunction", ctypes.byref(handle), self._handle, name.encode())
                self._functions[name] = handle
            if shared > self._shared.get(name, _SHARED):
                _call("cuFuncSetAttribute", handle, _MAX_DYNAMIC_SHARED, shared)
                self._shared[name] = shared
        return handle


_modules: dict[tuple[str, str, int], Module] = {}
_modules_lock = threading.Lock()


def launch(
    kernel: str,
    row: str,
    index: int,
    stream: int,
    blocks: int,
    threads: int,
    args: Sequence[Any],
    memory_of: Callable[[Any], tuple[int, str]],
    shared: int = 0,
) -> None:
    """Put a kernel into a stream; its file is compiled and loaded at its first launch on a device.

    Parameters
    ----------
    kernel : str
        ``file.function``.
    row : str
        Name of the type of rows, one of :data:`gpukm_kernels.cuda.ROWS`.
    index : int
        The device's number.
    stream : int
        Handle of a stream of that device.
    blocks, threads : int
    args, memory_of
        As :func:`gpukm_kernels.cuda.arguments.pack` takes them.
    shared : int
        Bytes of dynamic shared memory.

    Raises
    ------
    LookupError
        For a kernel, or a type of rows, that there is not.
    TypeError, OverflowError, ValueError
        For arguments that the kernel does not take.
    ImportError, RuntimeError, MemoryError
        When it cannot be compiled, loaded or launched.
    """
    if row not in kernels.ROWS:
        raise LookupError(f"rows are {row}, expected one of {', '.join(kernels.ROWS)}")
    values = pack(kernel, _signature(kernel), args, kernels.ROWS[row], memory_of)
    file, _, function = kernel.partition(".")
    _module(file, row, index).launch(function, blocks, threads, shared, stream, values)


@cache
def _signature(kernel: str) -> tuple[kernels.Parameter, ...]:
    """Parameters of ``file.function``."""
    file, _, function = kernel.partition(".")
    found = kernels.signatures(file) if file in kernels.files() else {}
    if function not in found:
        raise LookupError(f"there is no kernel {kernel!r}, expected file.function of {', '.join(kernels.files())}")
    return found[function]


def _module(file: str, row: str, index: int) -> Module:
    """The file's machine code on a device."""
    with _modules_lock:
        held = _modules.get((file, row, index))
        if held is None:
            held = Module(compile(file, kernels.ROWS[row], device(index).arch), index)
            _modules[file, row, index] = held
    return held


# Streams and copies


def stream(index: int) -> int:
    """Handle of a new stream that runs beside the default one."""
    handle = _P()
    with _current(_context(index)):
        _call("cuStreamCreate", ctypes.byref(handle), _NON_BLOCKING)
    return handle.value or 0


def destroy_stream(index: int, handle: int) -> None:
    """Give a stream back, once its work is done."""
    _at_exit(index, "cuStreamDestroy_v2", handle)


def event(index: int, handle: int) -> int:
    """Handle of an event at the end of what a stream was given."""
    made = _P()
    with _current(_context(index)):
        _call("cuEventCreate", ctypes.byref(made), _NO_TIMING)
        _call("cuEventRecord", made, handle)
    return made.value or 0


def destroy_event(index: int, handle: int) -> None:
    """Give an event back."""
    _at_exit(index, "cuEventDestroy_v2", handle)


def wait(index: int, handle: int, event: int) -> None:
    """Make a stream wait for an event."""
    with _current(_context(index)):
        _call("cuStreamWaitEvent", handle, event, 0)


def wait_on_host(index: int, event: int) -> None:
    """Wait for an event."""
    with _current(_context(index)):
        _call("cuEventSynchronize", event)


def copy(index: int, to: int, source: int, n_bytes: int, handle: int) -> None:
    """Copy page-locked memory to the device, in a stream."""
    with _current(_context(index)):
        _call("cuMemcpyHtoDAsync_v2", to, source, n_bytes, handle)


def host_memory(index: int, n_bytes: int, flags: int) -> int:
    """Address of new page-locked memory."""
    pointer = _P()
    with _current(_context(index)):
        _call("cuMemHostAlloc", ctypes.byref(pointer), n_bytes, flags)
    return pointer.value or 0


def free_host_memory(index: int, pointer: int) -> None:
    """Give page-locked memory back."""
    _at_exit(index, "cuMemFreeHost", pointer)


def lock(index: int, pointer: int, n_bytes: int, flags: int) -> bool:
    """Page-lock memory where it lies; False where the system does not let that happen."""
    with _current(_context(index)):
        return int(_driver().cuMemHostRegister_v2(pointer, n_bytes, flags)) == 0


def unlock(index: int, pointer: int) -> None:
    """Undo :func:`lock`."""
    _at_exit(index, "cuMemHostUnregister", pointer)


def _at_exit(index: int, function: str, handle: int) -> None:
    """Give something back; nothing is said of failures, since the driver may have shut down before."""
    with contextlib.suppress(CudaError, ImportError), _current(_context(index)):
        getattr(_driver(), function)(handle)


@cache
def _context(index: int) -> ctypes.c_void_p:
    """The device's primary context, which the libraries use too; never released, as the modules live in it."""
    context = _P()
    _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), _handle(index))
    return context


@contextlib.contextmanager
def _current(context: ctypes.c_void_p) -> Iterator[None]:
    """Work in a context, whatever this thread worked in before."""
    _call("cuCtxPushCurrent_v2", context)
    try:
        yield
    finally:
        _driver().cuCtxPopCurrent_v2(ctypes.byref(_P()))
