"""CUDA C++ kernels: where they are, and what a launcher must know of them.

A ``.cu`` file is compiled once for each type of rows, which it calls ``row_t`` (``-DGPUKM_ROW=float``); centroids and
copies of rows are of its ``wide_t``, float32 where rows have 16 bits. A kernel is
named by its file and its function, ``exact.distances``; nothing of CUDA is needed to ask for its parameters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
#: Options of every compiler: contraction would round once where a definition rounds twice.
OPTIONS = ("-std=c++17", "--fmad=false", f"-I{FOLDER}")
#: What rows are made of, by the name of the type.
ROWS = {"float32": "float", "float64": "double", "float16": "gpukm_half", "bfloat16": "gpukm_brain"}
#: What is made of such rows, ``wide_t``.
WIDE = {"float": "float", "double": "double", "gpukm_half": "float", "gpukm_brain": "float"}

_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\s*\(([^)]*)\)')
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
#: Types of parameters that are passed by value, as ctypes calls them.
VALUES = {
    "int": "c_int",
    "long long": "c_longlong",
    "unsigned": "c_uint",
    "unsigned long long": "c_ulonglong",
    "float": "c_float",
    "double": "c_double",
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel; ``type`` is one of :data:`VALUES`, or what a pointer points to."""

    name: str
    type: str
    pointer: bool


def files() -> tuple[str, ...]:
    """Names of the files that hold kernels, without their ending."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.cu")))


@cache
def signatures(file: str) -> dict[str, tuple[Parameter, ...]]:
    """Parameters of every kernel of a file, by name.

    Raises
    ------
    ValueError
        For a parameter that no launcher could pass.
    """
    text = _COMMENT.sub(" ", (FOLDER / f"{file}.cu").read_text())
    return {name: tuple(_parameter(p) for p in parameters.split(",")) for name, parameters in _KERNEL.findall(text)}


def _parameter(text: str) -> Parameter:
    """``const float* __restrict__ x`` taken apart."""
    words = text.replace("*", " * ").split()
    pointer = "*" in words
    kind = " ".join(w for w in words[:-1] if w not in ("const", "*", "__restrict__"))
    if not pointer and kind not in VALUES:
        raise ValueError(f"parameter {text.strip()!r} is neither a pointer nor one of {', '.join(VALUES)}")
    return Parameter(words[-1], kind, pointer)
