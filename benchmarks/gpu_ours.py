"""gpukm as a contender on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gpu_contenders import Assigning, Data, Fit, Fitting, Peer, host


def centroids(data: Data) -> np.ndarray:
    """The starting rows on the host, of 32 bits at least."""
    start = host(data.start)
    return start.astype(np.float32) if start.dtype.itemsize < 4 else start


class Gpukm(Peer):
    """A backend of gpukm.

    Parameters
    ----------
    backend : Backend
    library : str
        What users name it; fits go by it.
    how : {"engine", "rounded", "call"}
        What an assignment holds: centroids packed and rows rounded anew, as an iteration on rows that are new; the
        same with rows that were rounded before, as all further iterations; or the backend's own calls, with centroids
        that come from the host.
    from_host : bool
        Whether fits bring the rows to the device too.
    stepwise : bool
        Whether fits go the engine's own way even where small problems are solved in one call.
    """

    package = "gpukm"

    def __init__(
        self, backend: Any, library: str, how: str = "engine", from_host: bool = False, stepwise: bool = False
    ) -> None:
        self.backend, self.library, self.how = backend, library, how
        self.from_host, self.stepwise = from_host, stepwise
        if self.cascade is not None:
            # CuPy has no bfloat16.
            self.kinds = ("float32", "float16", *(("bfloat16",) if backend.device.library != "cupy" else ()))

    @property
    def cascade(self) -> Any:
        """What the GPU engine screens and rechecks by; None of the other backends."""
        return getattr(self.backend, "cascade", None)

    @property
    def certifies(self) -> bool:
        """Whether its labels are exact."""
        return self.cascade is None or self.cascade.certify

    def fast(self, how: str = "engine") -> Gpukm:
        """The same with labels as the screen finds them."""
        from gpukm.backends.gpu import GpuBackend

        return Gpukm(GpuBackend(self.backend.device, self.backend.screen, certify=False), self.library, how)

    def rows(self, x: Any) -> Any:
        """The rows as the backend's library holds them, over the same memory where it can be shared."""
        device = getattr(self.backend, "device", None)
        if device is None:
            return host(x)
        if hasattr(device, "adopt") and not isinstance(x, np.ndarray):
            return device.adopt(x)
        return device.place(host(x))

    def frame(self, rows: Any) -> Any:
        """Where screening puts its origin, as a fit finds it."""
        from gpukm.backends.base import Frame

        sample = np.arange(0, len(rows), max(1, len(rows) // 1024))
        looked_at, device = self.backend.fetch(self.backend.take(rows, sample)), getattr(self.backend, "device", None)
        return Frame.of(
            looked_at, *self.backend.column_range(rows), looked_at.dtype, None if device is None else device.kind(rows)
        )

    def assigning(self, data: Data) -> Assigning:
        backend, rows, start = self.backend, self.rows(data.x), centroids(data)
        frame, labels = self.frame(rows), backend.zeros(len(rows), np.int32)
        prepared, cascade = backend.prepare(start, frame), self.cascade

        def call() -> Any:
            backend.assign(rows, backend.prepare(start, frame), labels)
            return labels

        if self.how == "call" or cascade is None:
            return call
        lists, counters = cascade.lists(len(rows)), backend.device.zeros(2, np.uint64)
        rounded = cascade.round(rows, prepared) if self.how == "rounded" else None

        def engine() -> Any:
            cascade.repack(prepared)
            cascade.assign(rows, prepared, labels, rounded, lists, counters)
            return labels

        return engine

    def rechecked(self, data: Data) -> float:
        """Share of the rows that screening by the starting rows leaves open."""
        rows = self.rows(data.x)
        prepared = self.backend.prepare(centroids(data), self.frame(rows))
        return float(self.backend.assign(rows, prepared, self.backend.zeros(len(rows), np.int32)) / len(rows))

    def fitting(self, data: Data, iterations: int, converge: bool) -> Fitting:
        from gpukm.functional import kmeans
        from gpukm.sources.array import ArraySource

        in_place = not self.from_host and not isinstance(data.x, np.ndarray) and hasattr(self.backend, "device")
        source = self.rows(data.x) if in_place else ArraySource(data.host)
        start = centroids(data)

        def fit() -> Fit:
            found = kmeans(
                source, len(start), init=start, max_iter=iterations, tol=0, backend=self.library, watched=self.stepwise
            )
            rechecked = found.n_rechecked / max(1, found.n_scored)
            return Fit(found.centroids, found.n_iter, found.labels, found.inertia, rechecked)

        return fit

    def passing(self, x: np.ndarray, start: np.ndarray, iterations: int) -> Callable[[], Any]:
        from gpukm.functional import kmeans
        from gpukm.sources.array import ArraySource

        class Streamed(ArraySource):
            """Rows handed out batch by batch, as a file's are."""

            def array(self) -> None:
                return None

            def weights(self) -> None:
                return None

        settings = {"init": start, "max_iter": iterations, "tol": 0, "keep_labels": False, "backend": self.library}
        return partial(kmeans, Streamed(x), len(start), **settings)
