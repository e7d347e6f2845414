"""Reading ahead: the next batches are decoded while this one is computed on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from gpukm.sources.base import Batch, Source


class Prefetch(Source):
    """Another source whose batches are read by a thread, a few ahead.

    Batches that exist at once: the one in use, ``depth`` that wait, and the one being read.

    Parameters
    ----------
    source : Source
        What it has in memory is handed through by :meth:`array` and :meth:`weights`.
    depth : int
        Batches that may wait, at least 1.
    """

    def __init__(self, source: Source, depth: int = 1) -> None:
        if depth < 1:
            raise ValueError(f"depth is {depth}, expected at least 1")
        self.source, self.depth = source, depth
        self.dtype, self.n_features = source.dtype, source.n_features
        self.names, self.n_rows = source.names, source.n_rows

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The same batches; an error of the source is raised here, and leaving early stops the thread."""
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(self.depth)
        stopped = threading.Event()

        def put(item: Batch | BaseException | None) -> bool:
            """Hand over, unless nobody listens any more."""
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=0.05)
                    return True
                except queue.Full:
                    continue
            return False

        def read() -> None:
            """Read until the end, an error, or the consumer's leaving."""
            try:
                batches = self.source.batches(rows, start, stop)
                try:
                    for batch in batches:
                        if not put(batch):
                            return
                        del batch
                finally:
                    close = getattr(batches, "close", None)
                    if close is not None:
                        close()
                put(None)
            except BaseException as error:  # raised again where the batches are used
                put(error)

        thread = threading.Thread(target=read, name="gpukm-prefetch", daemon=True)
        thread.start()
        try:
            while True:
                item = ready.get()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
                # Not kept while waiting for the next one.
                del item
        finally:
            stopped.set()
            thread.join()

    def part(self, start: int, stop: int | None) -> Prefetch:
        return Prefetch(self.source.part(start, stop), self.depth)

    def borders(self) -> Sequence[int]:
        return self.source.borders()

    def array(self) -> np.ndarray | None:
        """What the source has in memory; it needs no reading ahead."""
        return self.source.array()

    def weights(self) -> np.ndarray | None:
        """Of the source."""
        return self.source.weights()
