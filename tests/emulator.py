"""A device that runs the CUDA kernels on the host: tests/native/emulate.h, compiled around an unmodified ``.cu``."""

from __future__ import annotations

import ctypes
import hashlib
import math
import operator
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpukm_kernels import cuda

from gpukm.backends.device import SHORT, Device

ROOT = Path(__file__).resolve().parents[1]
HEADER = ROOT / "tests" / "native" / "emulate.h"
BUILT = ROOT / "build" / "emulator"
COMPILERS = ("g++", "c++", "clang++")

#: What C++ leaves undefined and a device does in some way of its own: the header has the functions that these call.
CHECKS = "alignment,null,bounds,shift-exponent,integer-divide-by-zero,signed-integer-overflow,float-cast-overflow"
# Kernels look at the same bytes as several types, which nvcc lets them.
COMPILE = (
    *("-std=c++17", "-O2", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-fvisibility=hidden", "-pthread"),
    *("-U_FORTIFY_SOURCE", f"-fsanitize={CHECKS}", "-x", "c++", "-DGPUKM_EMULATE=1"),
)
LINK = ("-shared", "-pthread", "-Wl,-Bsymbolic")

#: Guards before and behind every array, and what they and memory that nobody wrote hold; emulate.h says why this.
GUARD = 1024
ALIGNMENT = 256
POISON = np.uint32(0xFFFDA5A5)
PATTERN = np.full(GUARD // 4 + 1, POISON).view(np.uint8)

#: NumPy's name of what a pointer of this type points to, of a vector one of its numbers.
POINTEES = {
    **dict.fromkeys(("float", "float2", "float4"), "float32"),
    **dict.fromkeys(("double", "double2"), "float64"),
    **dict.fromkeys(("int", "int2", "int4"), "int32"),
    **dict.fromkeys(("unsigned", "unsigned int", "uint2", "uint4"), "uint32"),
    **dict.fromkeys(("long long", "longlong2"), "int64"),
    **dict.fromkeys(("unsigned long long", "ulonglong2"), "uint64"),
    **dict.fromkeys(("half_t", "bf16_t", "unsigned short", "ushort2", "ushort4"), "uint16"),
    **dict.fromkeys(("short", "short2", "short4"), "int16"),
    **dict.fromkeys(("unsigned char", "uchar4"), "uint8"),
    **dict.fromkeys(("signed char", "char4"), "int8"),
}
#: Bytes of shared memory that a block can have, by compute capability.
SHARED = {(7, 5): 64, (8, 0): 163, (8, 6): 99, (8, 7): 163, (8, 9): 99, (9, 0): 227, (10, 0): 227, (12, 0): 99}

# Libraries keep what they run in one place, and take signals.
_ONE_AT_A_TIME = threading.Lock()


def compiler() -> str:
    """Path of a C++ compiler; without one the test is skipped and says so."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = next((p for name in COMPILERS if (p := shutil.which(name, path=path))), None)
    if found is None:
        pytest.skip(f"not run: none of {', '.join(COMPILERS)} is installed to compile kernels for the host")
    return found


@cache
def signatures(folder: Path, file: str) -> dict[str, tuple[cuda.Parameter, ...]]:
    """:func:`gpukm_kernels.cuda.signatures` of a file in any folder."""
    if folder == cuda.FOLDER:
        return cuda.signatures(file)
    text = cuda._COMMENT.sub(" ", (folder / f"{file}.cu").read_text())
    found = cuda._KERNEL.findall(text)
    return {name: tuple(cuda._parameter(p) for p in parameters.split(",")) for name, parameters in found}


def registry(folder: Path, file: str) -> str:
    """Source of what calls the kernels of a file by name."""
    # In a namespace without a name nothing of it can be taken for what the host calls the same.
    lines = ["namespace {", f'#include "{folder / file}.cu"', "}"]
    lines += ['extern "C" __attribute__((visibility("default"))) const char* gpukm_launch(']
    lines += [
        "    const char* name, unsigned grid, unsigned block, size_t shared, unsigned long long seed, void** args) {"
    ]
    for name, parameters in signatures(folder, file).items():
        call = f"gpukm_emulator::Caller<&::{name}>"
        lines += [f'  static_assert({call}::count == {len(parameters)}, "{name} has other parameters than were read");']
        lines += [f'  if (!strcmp(name, "{name}"))']
        lines += [f"    return gpukm_emulator::launch(name, &{call}::run, grid, block, shared, seed, args);"]
    lines += ['  return "no such kernel";', "}", ""]
    return "\n".join(lines)


@cache
def version(path: str) -> bytes:
    """What a compiler says of itself."""
    return subprocess.run([path, "--version"], capture_output=True, check=True).stdout


@cache
def library(folder: Path, file: str, row: str, options: tuple[str, ...]) -> Any:
    """``gpukm_launch`` of a file's kernels for a type of rows, compiled where that was not done before."""
    path = compiler()
    source = registry(folder, file)
    command = [path, *COMPILE, "-include", str(HEADER), f"-DGPUKM_ROW={cuda.ROWS[row]}", f"-I{folder}", *options]
    key = hashlib.sha256(repr((command, LINK, source)).encode() + version(path))
    # A kernel may include any file that is no kernel's.
    used = [p for p in folder.iterdir() if p.is_file() and p.suffix not in (".cu", ".py", ".pyc")]
    for used_file in (HEADER, folder / f"{file}.cu", *sorted(used)):
        key.update(used_file.name.encode() + b"\0" + used_file.read_bytes() + b"\0")
    built = BUILT / f"{file}-{row}-{key.hexdigest()[:24]}.so"
    if not built.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        # Written aside, since other processes may be at the same.
        aside = BUILT / f"{built.stem}.{os.getpid()}-{threading.get_ident()}"
        written, compiled, linked = (aside.with_name(aside.name + end) for end in (".cpp", ".o", ".so"))
        try:
            written.write_text(source)
            for step in (
                [*command, "-c", str(written), "-o", str(compiled)],
                [path, *LINK, str(compiled), "-o", str(linked)],
            ):
                done = subprocess.run(step, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise RuntimeError(f"{file}.cu does not compile for the host:\n{done.stderr[:6000]}")
            linked.replace(built)
        finally:
            for p in (written, compiled, linked):
                p.unlink(missing_ok=True)
    launch = ctypes.CDLL(str(built)).gpukm_launch
    launch.restype = ctypes.c_char_p
    launch.argtypes = [
        ctypes.c_char_p,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_size_t,
        ctypes.c_ulonglong,
        ctypes.c_void_p,
    ]
    return launch


class Memory:
    """Bytes between guards."""

    def __init__(self, device: Emulated, size: int) -> None:
        self.device = device
        self.size = size
        self.raw = np.empty((size + 2 * GUARD + 2 * ALIGNMENT) // 4, np.uint32)
        self.raw.fill(POISON)
        first = self.raw.ctypes.data + GUARD
        self.start = -(-first // ALIGNMENT) * ALIGNMENT
        self.offset = self.start - self.raw.ctypes.data

    def holds(self, address: int, size: int) -> bool:
        """Whether these bytes are of its own."""
        return self.start <= address and address + size <= self.start + self.size

    def overwritten(self) -> str:
        """Where a guard is not what it was, and '' where all is well; guards are then made good."""
        view = self.raw.view(np.uint8)
        end = self.offset + self.size
        for side, at, skipped in (("before its start", self.offset - GUARD, 0), ("behind its end", end, self.size % 4)):
            guard, filled = view[at : at + GUARD], PATTERN[skipped : skipped + GUARD]
            if not np.array_equal(guard, filled):
                there = np.flatnonzero(guard != filled)
                distance = GUARD - int(there[-1]) if at < self.offset else int(there[0]) + 1
                guard[:] = filled
                return f"{len(there)} bytes {side}, the nearest at a distance of {distance}"
        return ""


class Array(np.ndarray):
    """An array of the emulated device; views of it are as well."""

    memory: Memory | None
    #: Bits of bfloat16, which NumPy does not have, are held as uint16.
    brain: bool

    def __array_finalize__(self, other: Any) -> None:
        self.memory = getattr(other, "memory", None)
        self.brain = getattr(other, "brain", False)


class Emulated(Device):
    """Runs kernels on the host.

    Memory holds values that are no numbers until it is written. What would be undefined on a device raises: writes
    beyond an array, barriers and collectives of warps that not all threads come to, arguments that do not fit; and so
    does a launch that takes a minute of the processor's time.

    Parameters
    ----------
    capability : tuple of (int, int), default (9, 0)
        What the device calls itself; it also bounds shared memory.
    seed : int, default 0
        Order of threads between barriers, and of blocks: 0 ascending, 1 descending, above that random, and another
        one at each launch.
    processors : int, default 4
    folder : Path, optional
        Where the kernels are.
    options : tuple of str, default ()
        More options for the compiler. ``-DGPUKM_ALIGN_BITS=24`` makes matrix units cut every product off below so many
        bits of the largest, as some do; without it only sums are cut off.

    Attributes
    ----------
    seed : int
    free : int
        What :meth:`free_bytes` returns.
    launched : Counter
        How often each kernel ran.
    """

    library = "emulator"
    name = "emulated:0"
    _replaying = False
    model = "emulated"

    def __init__(
        self,
        capability: tuple[int, int] = (9, 0),
        *,
        seed: int = 0,
        processors: int = 4,
        folder: Path = cuda.FOLDER,
        options: tuple[str, ...] = (),
    ) -> None:
        compiler()
        self.capability = capability
        self.processors = processors
        self.seed = seed
        self.free = 1 << 30
        self.launched: Counter[str] = Counter()
        self._folder = folder
        self._options = options

    def owns(self, array: Any) -> bool:
        if not isinstance(array, Array) or array.memory is None or array.memory.device is not self:
            return False
        # Results of arithmetic are of the same class, and lie elsewhere.
        ends = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
        low = array.ctypes.data + sum(min(end, 0) for end in ends)
        high = array.ctypes.data + sum(max(end, 0) for end in ends) + array.itemsize
        return not array.size or array.memory.holds(low, high - low)

    def kind(self, array: Any) -> str:
        return "bfloat16" if array.brain else array.dtype.name

    def dtype(self, array: Any) -> np.dtype:
        if array.brain:
            raise TypeError("NumPy has no type for arrays of bfloat16")
        return array.dtype

    def place_bfloat16(self, array: np.ndarray) -> Array:
        """Values of float32 that bfloat16 holds."""
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        if (bits & 0xFFFF).any():
            raise ValueError("these values are not bfloat16's")
        made = self.place((bits >> 16).astype(np.uint16))
        made.brain = True
        return made

    def address(self, array: Any) -> int:
        return int(array.ctypes.data)

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        dtype = np.dtype(dtype)
        shape = tuple(shape) if isinstance(shape, tuple | list) else (operator.index(shape),)
        assert not self._replaying, "what is recorded takes memory that nothing keeps for it"
        memory = Memory(self, math.prod(shape) * dtype.itemsize)
        made = np.ndarray.__new__(Array, shape, dtype, memory.raw.data, memory.offset)
        made.memory = memory
        return made

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            self._replaying = True
            try:
                work()
            finally:
                self._replaying = False

        return replay

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        made = self.empty(shape, dtype)
        made[...] = 0
        return made

    def place(self, array: np.ndarray, out: Any = None) -> Array:
        if out is None:
            out = self.empty(array.shape, array.dtype)
        self._same(out, array)
        out[...] = array
        return out

    def fetch(self, array: Any, out: np.ndarray | None = None) -> np.ndarray:
        if out is None:
            out = np.empty(array.shape, array.dtype)
        self._same(array, out)
        out[...] = array
        return out

    def launch(self, kernel: str, row: str, blocks: int, threads: int, *args: Any, shared: int = 0) -> None:
        file, _, name = kernel.partition(".")
        if row not in cuda.ROWS:
            raise TypeError(f"{kernel}: no kernel takes rows of {row}")
        known = signatures(self._folder, file)
        if name not in known:
            raise ValueError(f"{file}.cu has no kernel {name!r}, but {', '.join(known)}")
        parameters = known[name]
        if len(args) != len(parameters):
            names = ", ".join(p.name for p in parameters)
            raise TypeError(f"{kernel} takes {len(parameters)} arguments, not {len(args)}: {names}")
        values = [self._passed(kernel, p, a, row) for p, a in zip(parameters, args, strict=True)]
        if not (1 <= blocks < 2**31 and 1 <= threads <= 1024):
            raise ValueError(f"{kernel}: no grid has {blocks} blocks of {threads} threads")
        most = SHARED.get(self.capability, 48) << 10
        if not 0 <= shared <= most:
            raise ValueError(f"{kernel}: {shared} bytes of shared memory, of which a block has {most}")
        addresses = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
        run = library(self._folder, file, row, self._options)
        # Another order at each launch, the same in each run.
        seed = self.seed if self.seed <= 1 else self.seed + (self.launched.total() << 20)
        self.launched[kernel] += 1
        with _ONE_AT_A_TIME:
            failed = run(name.encode(), blocks, threads, shared, seed, addresses)
        if failed is not None:
            raise RuntimeError(failed.decode(errors="replace"))
        for parameter, array in zip(parameters, args, strict=True):
            if parameter.pointer and array is not None and (where := array.memory.overwritten()):
                raise RuntimeError(f"{kernel} wrote beyond {parameter.name!r}: {where}")

    def free_bytes(self) -> int:
        return self.free

    def _same(self, own: Any, host: np.ndarray) -> None:
        """Raise where a copy would not be one, byte by byte."""
        if not self.owns(own):
            raise TypeError("not an array of this device")
        if self.owns(host) or isinstance(host, Array):
            raise TypeError("not an array of the host")
        if own.shape != host.shape or own.dtype != host.dtype:
            raise ValueError(f"{own.dtype} {own.shape} cannot be copied to or from {host.dtype} {host.shape}")

    def _passed(self, kernel: str, parameter: cuda.Parameter, argument: Any, row: str) -> Any:
        """An argument as ctypes passes it, once it is known to fit its parameter."""
        what = f"{kernel}: {parameter.name!r}"
        if not parameter.pointer:
            return _value(what, parameter.type, argument)
        if argument is None:
            return ctypes.c_void_p(None)
        if not self.owns(argument):
            raise TypeError(f"{what} is a pointer and takes an array of this device, not {type(argument).__name__}")
        if not argument.flags.c_contiguous:
            raise TypeError(f"{what} is not C-contiguous")
        if parameter.type != "void":
            wide = "float64" if row == "float64" else "float32"
            expected = {"row_t": row, "wide_t": wide}.get(parameter.type, POINTEES.get(parameter.type))
            if expected is None:
                raise TypeError(f"{what} points to {parameter.type}, which no array holds")
            # Kernels know numbers of 16 bits by their bits.
            if self.kind(argument) not in ((expected, *SHORT) if expected == "uint16" else (expected,)):
                raise TypeError(f"{what} points to {parameter.type}, {expected}, not {self.kind(argument)}")
        return ctypes.c_void_p(argument.ctypes.data)


def _value(what: str, kind: str, argument: Any) -> Any:
    """A number as ctypes passes it, once it is known to fit."""
    c_type = getattr(ctypes, cuda.VALUES[kind])
    if kind in ("float", "double"):
        if not isinstance(argument, Real):
            raise TypeError(f"{what} is a {kind}, not {type(argument).__name__}")
        value = c_type(float(argument))
        if math.isinf(value.value) and not math.isinf(argument):
            raise TypeError(f"{what}: {argument!r} does not fit a {kind}")
        return value
    try:
        number = operator.index(argument)
    except TypeError:
        raise TypeError(f"{what} is an {kind}, not {type(argument).__name__}") from None
    value = c_type(number)
    if value.value != number:
        raise TypeError(f"{what}: {number} does not fit an {kind}")
    return value
