"""Compiles the Triton kernels for GPUs that need not be there; run by test_triton.py.

A line each: the kernel, the compute capability, whether its matrix products are made by the matrix units, and the bytes
of shared memory it takes.
"""

from __future__ import annotations

from collections.abc import Callable

import triton
from gpukm_kernels.triton import screen
from gpukm_kernels.triton.tiles import table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {
    **dict.fromkeys(["norms", "residuals", "half_norms", "largest", "c_residual", "threshold"], "*fp32"),
    **dict.fromkeys(["order", "labels", "stop", "pair_places", "pair_centroids"], "*i32"),
    **dict.fromkeys(["listed", "n_listed", "n_pairs"], "*i64"),
    **dict.fromkeys(["by_product", "by_norm", "by_row", "tiny"], "fp32"),
    **dict.fromkeys(["N", "ROOM"], "i64"),
    **dict.fromkeys(["TWO", "K", "PITCH"], "i32"),
    "crowded": "*u8",
}


def compiled(
    name: str, kernel: Callable[..., None], types: dict[str, str], constants: dict, capability: int, options: dict
) -> None:
    """Compile one kernel to machine code, and print what it is made of."""
    names = kernel.arg_names  # type: ignore[attr-defined]
    signature = {arg: "constexpr" if arg in constants else types[arg] for arg in names}
    # As a launch finds them: memory is aligned, and vectors come in multiples of 16.
    wide = {
        (i,): [["tt.divisibility", 16]] for i, arg in enumerate(names) if signature[arg][0] == "*" or arg == "PITCH"
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=wide)
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(source, target=target, options=options)
    assert made.asm["cubin"]
    text = made.asm["ptx"]
    print(name, capability, "wgmma" in text or "mma.sync" in text, made.metadata.shared)


for arch in (80, 90):
    for stored, precision in (("float16", "ieee"), ("float32", "tf32"), ("float32", "ieee")):
        for d in (64, 512):
            t = table((arch // 10, arch % 10), stored, d)
            values = {**TYPES, **dict.fromkeys(["values", "c_values"], "*fp16" if stored == "float16" else "*fp32")}
            constants = {
                "BLOCK_N": t.rows,
                "BLOCK_K": t.centroids,
                "BLOCK_D": t.features,
                "PRECISION": precision,
                "WHOLE": d <= t.features,
            }
            options = {"num_warps": t.warps, "num_stages": t.stages, "enable_fp_fusion": True}
            compiled(f"screen-{d}-{stored}-{precision}", screen.screen, values, constants, arch, options)
            compiled(f"pairs-{d}-{stored}-{precision}", screen.pairs, values, constants, arch, options)
