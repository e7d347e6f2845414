"""What a contender on a GPU is: rows that lie on the device in, labels or a fit out.

An adapter prepares what is not part of a call (views, norms that a library computes once a fit, orders of rows) and
returns a function without parameters, which is what is timed. Sampling, restarts and early stops of a library's own are
off. Who cannot be imported, or cannot take a problem, raises :class:`Absent` with the reason.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


class Absent(RuntimeError):
    """A contender does not take part; the text says why."""


@dataclass
class Data:
    """Rows on the device, and the numbers of those that a fit starts from.

    Attributes
    ----------
    x : tensor or ndarray of shape (n, d)
    rows : ndarray of int64 of shape (k,)
    origin : str
        Where the rows come from, with every seed.
    """

    x: Any
    rows: np.ndarray
    origin: str = ""

    @cached_property
    def host(self) -> np.ndarray:
        """The rows in the host's memory."""
        return host(self.x)

    @cached_property
    def start(self) -> Any:
        """The starting rows, where the rows are."""
        return taken(self.x, self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, features and clusters."""
        return self.x.shape[0], self.x.shape[1], len(self.rows)


@dataclass(frozen=True)
class Fit:
    """What a fit arrived at; ``inertia``, ``rechecked`` and labels only of those that tell them for these centroids."""

    centroids: Any
    iterations: int
    labels: Any = None
    inertia: float | None = None
    rechecked: float | None = None


Assigning = Callable[[], Any]
Fitting = Callable[[], Fit]


class Peer:
    """One contender.

    Attributes
    ----------
    package : str
        Whose version is reported.
    kinds : tuple of str
        Types of rows that it takes.
    """

    package = ""
    kinds: tuple[str, ...] = ("float32",)

    def assigning(self, data: Data) -> Assigning:
        """Something that labels the rows by the starting rows."""
        raise Absent("it has no call that labels rows by given centroids")

    def fitting(self, data: Data, iterations: int, converge: bool) -> Fitting:
        """Something that fits from the starting rows; with ``converge`` it may stop where nothing moves."""
        raise Absent("it has no fit from a given start")

    def passing(self, x: np.ndarray, start: np.ndarray, iterations: int) -> Callable[[], Any]:
        """Something that makes so many iterations over rows (n, d) that stay in the host's memory."""
        raise Absent("it does not stream rows from the host's memory")


def host(array: Any) -> np.ndarray:
    """Any library's array in the host's memory; bfloat16 is widened."""
    if hasattr(array, "detach"):
        array = array.detach()
        if "bfloat16" in str(array.dtype):
            array = array.float()
        return array.cpu().numpy()
    return array.get() if hasattr(array, "get") else np.asarray(array)


def taken(array: Any, places: np.ndarray) -> Any:
    """Some rows of an array, by their numbers on the host."""
    if isinstance(array, np.ndarray):
        return array[places]
    import torch

    return array[torch.from_numpy(np.ascontiguousarray(places)).to(array.device)]


def needed(module: str) -> Any:
    """A module, or Absent."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken installation can raise anything
        raise Absent(f"{module} cannot be imported: {type(error).__name__}: {error}") from None


def needs_cuda() -> None:
    """Absent where torch sees no device, since all rows are its tensors."""
    if not needed("torch").cuda.is_available():
        raise Absent("it needs a CUDA device")


def tensors(data: Data) -> tuple[Any, Any]:
    """Rows and starting rows as tensors."""
    if isinstance(data.x, np.ndarray):
        torch = needed("torch")
        return torch.from_numpy(data.x), torch.from_numpy(data.start)
    return data.x, data.start
