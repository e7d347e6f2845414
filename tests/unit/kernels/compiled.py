"""Compiles the Triton kernels for GPUs that need not be there; run by test_triton.py.

A line each: the kernel, the compute capability, whether its matrix products are made by the matrix units, the bytes of
shared memory and the registers it takes, the bytes it spills, and the instructions of its longest loop a score.
"""

from __future__ import annotations

from collections.abc import Callable

import triton
from gpukm_kernels.triton import screen
from gpukm_kernels.triton.tiles import table
from machine_code import functions
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {
    **dict.fromkeys(["norms", "residuals", "half_norms", "largest", "c_residual", "threshold", "rest_of"], "*fp32"),
    **dict.fromkeys(["order", "labels", "stop", "in_turn", "tile_of", "pair_places", "pair_centroids"], "*i32"),
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
    text, scores = made.asm["ptx"], constants["BLOCK_N"] * constants["BLOCK_K"] // (32 * options["num_warps"])
    by_matrix = any(unit in text for unit in ("wgmma", "mma.sync", "tcgen05.mma"))
    (code,) = functions(made.asm["cubin"]).values()
    print(
        name, capability, by_matrix, made.metadata.shared, code.registers, code.stack,
        max(code.loops) / scores,
    )  # fmt: skip


POINTEES = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32"}
MODES = (("float16", "ieee"), ("bfloat16", "ieee"), ("float32", "tf32"), ("float32", "ieee"))

for arch in (80, 86, 90, 100):
    for stored, precision in MODES if arch in (80, 90) else MODES[:1]:
        # Of 16 bits one type is cut as the other.
        for d in (64,) if stored == "bfloat16" else (64, 512):
            cut = table((arch // 10, arch % 10), "float16" if stored == "bfloat16" else stored, d)
            values = {**TYPES, **dict.fromkeys(["values", "c_values"], POINTEES[stored])}
            kernels = {
                "sweep": (screen.sweep, cut, {}),
                "screen": (screen.screen, cut.with_places, {"WITHIN": False}),
                "within": (screen.screen, cut.with_places, {"WITHIN": True}),
                "pairs": (screen.pairs, cut.with_places, {"TILES": 4}),
            }
            for name, (kernel, t, own) in kernels.items():
                constants = {
                    "BLOCK_N": t.rows,
                    "BLOCK_K": t.centroids,
                    "BLOCK_D": t.features,
                    "PRECISION": precision,
                    "WHOLE": d <= t.features,
                    "EVEN": d % t.features == 0,
                    **own,
                }
                options = {"num_warps": t.warps, "num_stages": t.stages, "enable_fp_fusion": True}
                compiled(f"{name}-{d}-{stored}-{precision}", kernel, values, constants, arch, options)
