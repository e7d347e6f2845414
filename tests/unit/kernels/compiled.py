"""Compiles the Triton kernels for GPUs that need not be there; run by test_triton.py.

A line each: the kernel, the compute capability, whether its matrix products are made by the matrix units, and how many
multiply-adds of float64 are fused, of which the definitions allow none.
"""

from __future__ import annotations

from collections.abc import Callable

import triton
from gpukm_kernels.triton import assign, update
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SCREEN = {
    "values": "*fp16",
    "c_values": "*fp16",
    "norms": "*fp32",
    "residuals": "*fp32",
    "half_norms": "*fp32",
    "largest": "*fp32",
    "c_residual": "*fp32",
    "labels": "*i32",
    "threshold": "*fp32",
    "listed": "*i64",
    "n_listed": "*i32",
    "by_product": "fp32",
    "by_norm": "fp32",
    "by_row": "fp32",
    "tiny": "fp32",
    "N": "i64",
    "K": "i32",
    "D": "i32",
    "x": "*fp32",
    "c": "*fp32",
    "order": "*i32",
}
SUMS = {
    **dict.fromkeys(["x"], "*fp32"),
    **dict.fromkeys(["w", "scales", "w_scale"], "*fp64"),
    **dict.fromkeys(["labels", "before"], "*i32"),
    **dict.fromkeys(["high", "low", "counts", "w_high", "w_low", "n_moved"], "*i64"),
    "N": "i64",
    "D": "i32",
}
TILE = {"BLOCK_N": 64, "BLOCK_K": 64, "BLOCK_D": 64, "PRECISION": "ieee"}


def compiled(name: str, kernel: Callable[..., None], types: dict[str, str], constants: dict, capability: int) -> None:
    """Compile one kernel to machine code, and print what it is made of."""
    signature = {arg: "constexpr" if arg in constants else types[arg] for arg in kernel.arg_names}  # type: ignore[attr-defined]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(source, target=target, options={"enable_fp_fusion": False})
    assert made.asm["cubin"]
    text = made.asm["ptx"]
    print(name, capability, "wgmma" in text or "mma.sync" in text, text.count("fma.rn.f64"))


for arch in (80, 90):
    for dtype, precision in (("*fp16", "ieee"), ("*fp32", "tf32"), ("*fp32", "ieee")):
        values = {**SCREEN, "values": dtype, "c_values": dtype}
        constants = {**TILE, "PRECISION": precision}
        compiled(f"screen-{dtype[1:]}-{precision}", assign._screen, values, constants, arch)
        compiled(f"decide-{dtype[1:]}-{precision}", assign._decide, values, {**constants, "BLOCK_N": 16}, arch)
    for flag in (False, True):
        constants = {"BLOCK_N": 64, "BLOCK_D": 64, "WEIGHTED": flag, "MOVED": flag}
        compiled("accumulate", update._accumulate, SUMS, constants, arch)
