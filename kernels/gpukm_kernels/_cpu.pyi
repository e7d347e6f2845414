"""The native kernels; gpukm.backends.cpu is the only caller and checks shapes, dtypes and layout."""

import numpy as np

class CentroidsF32:
    def __init__(self, centroids: np.ndarray, center: np.ndarray, radius: float) -> None: ...

class CentroidsF64:
    def __init__(self, centroids: np.ndarray, center: np.ndarray, radius: float) -> None: ...

class TrackerF32:
    scored: int
    pairs: int
    movers: int
    plan: int
    def __init__(self, n: int, d: int, groups: int, group_of: np.ndarray, boxes: int, heads: int) -> None: ...
    def assign(
        self,
        x: np.ndarray,
        centroids: np.ndarray,
        center: np.ndarray,
        radius: float,
        before: np.ndarray,
        labels: np.ndarray,
        threads: int,
    ) -> int: ...

class TrackerF64(TrackerF32): ...

class PoolF32:
    def __init__(self, n: int, d: int) -> None: ...
    def add(
        self, x: np.ndarray, center: np.ndarray, radius: float, nearest: np.ndarray, rows: np.ndarray, threads: int
    ) -> None: ...
    def choose(
        self,
        w: np.ndarray | None,
        scale: float,
        labels: np.ndarray,
        nearest: np.ndarray,
        first: int,
        enough: int,
        chosen: np.ndarray,
        threads: int,
    ) -> int: ...

class PoolF64(PoolF32): ...

SUM_BINS: int

def isa() -> str: ...
def max_threads() -> int: ...
def assign(x: np.ndarray, prepared: CentroidsF32 | CentroidsF64, labels: np.ndarray, threads: int) -> int: ...
def assign_two(
    x: np.ndarray,
    prepared: CentroidsF32 | CentroidsF64,
    labels: np.ndarray,
    nearest: np.ndarray,
    second: np.ndarray,
    threads: int,
) -> None: ...
def distances(x: np.ndarray, centroids: np.ndarray, labels: np.ndarray, out: np.ndarray, threads: int) -> None: ...
def total(
    x: np.ndarray,
    w: np.ndarray | None,
    c: np.ndarray,
    labels: np.ndarray | None,
    bins: np.ndarray,
    threads: int,
) -> bool: ...
def column_range(x: np.ndarray, low: np.ndarray, high: np.ndarray, threads: int) -> None: ...
def cross(x: np.ndarray, points: np.ndarray, out: np.ndarray, threads: int) -> None: ...
def lower(x: np.ndarray, points: np.ndarray, nearest: np.ndarray, threads: int) -> None: ...
def potentials(
    x: np.ndarray,
    w: np.ndarray | None,
    p: np.ndarray,
    nearest: np.ndarray,
    scale: float,
    out: np.ndarray,
    threads: int,
) -> None: ...
def means(
    hi: np.ndarray,
    lo: np.ndarray,
    weights: np.ndarray,
    units: np.ndarray,
    previous: np.ndarray,
    r: np.ndarray,
    mean: np.ndarray,
    shift: np.ndarray,
    gain: np.ndarray,
    threads: int,
) -> None: ...
def accumulate(
    x: np.ndarray,
    w: np.ndarray | None,
    labels: np.ndarray,
    previous: np.ndarray | None,
    scales: np.ndarray,
    w_scale: float,
    hi: np.ndarray,
    lo: np.ndarray,
    counts: np.ndarray,
    w_hi: np.ndarray | None,
    w_lo: np.ndarray | None,
    threads: int,
) -> int: ...
