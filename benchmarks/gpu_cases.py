"""What a case on a GPU is, what is asked of it, and what all cases share."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from data import MIXTURE_SEED, START_SEED, mixture
from gpu_contenders import Absent, Data, Peer
from gpu_ours import Gpukm
from gpu_times import SECONDS_EACH, Clock

STREAMED_ROWS = 16 << 20
#: Of the device whose own size torch does not tell.
L2_BYTES = 60 << 20
MAIN = ("gpukm torch", "gpukm cupy")
FLASHLIB = ("flashlib triton", "flashlib cutedsl")

TFLOPS, MICROSECONDS, SHARE, HASHES = (
    "useful TFLOP/s",
    "us an iteration",
    "of the slower of link and kernel",
    "of the fits with one hash",
)
FAST, EXACT = "ms, fast", "times the time of flashlib, exact"
TO_FLASHLIB = "times as fast as flashlib"
TO_BOTH = "times as fast as flashlib and flash-kmeans, at equal or lower inertia"


@dataclass(frozen=True)
class Target:
    """What is asked of a case: at least, or at most, so much."""

    what: str
    asked: float
    at_most: bool = False

    def met(self, value: float) -> bool:
        """Whether a value is as good as asked."""
        return value <= self.asked if self.at_most else value >= self.asked

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.asked:g} {self.what}"


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes
    ----------
    name : str
    run : function of a Bench and a Case that gives what was found and the values of the targets' words
    n, d, k : int
    targets : tuple of Target
    seconds : float
        What it takes with peers, roughly; a case that does not fit the budget is skipped.
    quick : tuple of (int, int, int)
        The shape of ``--quick``.
    kind : str
        Type of the rows.
    noise : bool
        Rows without clusters, in place of a mixture of as many Gaussians as there are clusters.
    """

    name: str
    run: Callable[[Bench, Case], tuple[dict[str, Any], dict[str, float]]]
    n: int
    d: int
    k: int
    targets: tuple[Target, ...] = ()
    seconds: float = 30.0
    quick: tuple[int, int, int] = (3000, 24, 40)
    kind: str = "float32"
    noise: bool = False

    @property
    def title(self) -> str:
        """Shape and type."""
        return f"{self.n:,} x {self.d or 'all'}, K={self.k:,}, {self.kind}{', noise' if self.noise else ''}"


@dataclass
class Bench:
    """Where a run stands: contenders, clock, and what is left of the time."""

    clock: Clock
    gpukm: dict[str, Gpukm]
    peers: dict[str, Peer] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    torch: Any = None
    deadline: float = math.inf
    embeddings: Path | None = None
    rows: int = STREAMED_ROWS
    seconds_each: float = SECONDS_EACH
    wrong: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    @property
    def on_gpu(self) -> bool:
        """Whether there is a device."""
        return self.clock.on_device

    def data(self, case: Case, seed: int = MIXTURE_SEED) -> Data:
        """Rows of a case, and a start: rows drawn without replacement."""
        n, d, k = case.n, case.d, case.k
        rows = np.random.default_rng(START_SEED).choice(n, k, replace=False)
        origin = f"{'normal noise' if case.noise else f'mixture of {k} Gaussians'}, seed {seed}; start {START_SEED}"
        if not self.on_gpu:
            x = mixture(n, d, 1 if case.noise else k, seed)
            x = x if self.torch is None else self.torch.from_numpy(x)
        else:
            torch, options = self.torch, {"device": "cuda", "generator": self.torch.Generator("cuda").manual_seed(seed)}
            x = torch.randn((n, d), **options)
            if not case.noise:
                centers = 1.5 * torch.randn((k, d), **options)
                x += centers[torch.randint(k, (n,), **options)]
        if case.kind != "float32":
            if self.torch is None:
                raise Absent(f"NumPy has no {case.kind}; torch is not installed")
            x = x.to(getattr(self.torch, case.kind))
        return Data(x, rows, origin)

    def rotation(self, case: Case) -> list[Data]:
        """As many equal problems as do not fit the cache of the device together; one where one does not."""
        first = self.data(case)
        size = first.x.nbytes
        copies = 1 if not self.on_gpu or size >= 2 * self.l2 else min(32, 1 + -(-2 * self.l2 // size))
        return [first, *(replace(first, x=first.x.clone()) for _ in range(copies - 1))]

    @property
    def l2(self) -> int:
        """Bytes of the cache."""
        return int(getattr(self.torch.cuda.get_device_properties(0), "L2_cache_size", 0) or L2_BYTES)

    def broken(self) -> str | None:
        """Why the device can do no more in this process, if so: no kernel runs after one that failed."""
        try:
            if self.on_gpu:
                self.torch.cuda.synchronize()
        except RuntimeError as error:
            return str(error).splitlines()[0]
        return None

    def clear(self) -> None:
        """Give memory back, so that no case pays for another."""
        gc.collect()
        if self.on_gpu:
            self.torch.cuda.empty_cache()
            if "cupy" in sys.modules:
                sys.modules["cupy"].get_default_memory_pool().free_all_blocks()

    def peak(self, work: Callable[..., Any], *args: Any) -> tuple[Any, int | None]:
        """A call's result, and the memory of the device that it took beyond what was taken; None without a device."""
        if not self.on_gpu:
            return work(*args), None
        cuda, pools = self.torch.cuda, []
        if "cupy" in sys.modules:
            pools = [sys.modules["cupy"].get_default_memory_pool()]
        for pool in pools:
            pool.free_all_blocks()
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        before, held = cuda.memory_allocated(), sum(pool.total_bytes() for pool in pools)
        found = work(*args)
        cuda.synchronize()
        # CuPy's pool keeps what it once took.
        return found, cuda.max_memory_allocated() - before + sum(pool.total_bytes() for pool in pools) - held


def attempt(absent: dict[str, str], name: str, make: Callable[..., Any], *args: Any) -> Any:
    """What ``make(*args)`` gives; a contender that cannot is listed with the reason, and None."""
    try:
        return make(*args)
    except Absent as error:
        absent[name] = str(error)
    except Exception as error:  # another library's kernel can fail in any way, and must not end the run
        absent[name] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return None


def least(found: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> str | None:
    """The fastest of some contenders, of those that were measured."""
    # A difference of times that is not above zero tells nothing.
    there = [name for name in names if found.get(name, {}).get("median_ms", 0) > 0]
    return min(there, key=lambda name: found[name]["median_ms"]) if there else None


def wrong(bench: Bench, case: Case, name: str, problem: str, absent: dict[str, str]) -> None:
    """Where gpukm is wrong, nothing of it is timed, and the run ends badly."""
    absent[name] = f"wrong: {problem}"
    bench.wrong.append(f"{case.name}: {name}: {problem}")


def failed(bench: Bench, case: Case, name: str, absent: dict[str, str]) -> None:
    """A peer may be unfit for a case; gpukm may not."""
    if name.startswith("gpukm"):
        bench.wrong.append(f"{case.name}: {name}: {absent.get(name, 'failed')}")
