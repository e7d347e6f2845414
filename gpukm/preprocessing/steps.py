"""Steps with their fitted numbers: what they do to rows, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from gpukm.errors import ConfigError, DataError
from gpukm.preprocessing.columns import closest
from gpukm.preprocessing.covariance import limbs, project
from gpukm.preprocessing.log1p import log1p
from gpukm.preprocessing.spec import PCA, Clip, Step
from gpukm.sources.faults import Unusable

#: Row number of row i of the block at hand.
RowNumber = Callable[[int], int]


T = TypeVar("T")


def row_by_row(work: Callable[[slice], T], part: slice, row: RowNumber) -> T:
    """Work on rows; where that fails, the error is that of the first row that fails alone, however rows are cut.

    Raises
    ------
    Unusable
        With the number ``row(i)`` of that row.
    """
    try:
        return work(part)
    except DataError:
        for i in range(part.start, part.stop):
            try:
                work(slice(i, i + 1))
            except DataError as error:
                raise Unusable(str(error), row(i)) from None
        raise


@dataclass(frozen=True)
class Feature:
    """A feature on its way through the steps: its name, the input column it comes from, and whether it is 0 or 1."""

    name: str
    column: str
    indicator: bool = False


def chosen(step: Step, features: Sequence[Feature]) -> np.ndarray:
    """Places of the features a step works on, int64, ascending.

    Raises
    ------
    ConfigError
        The step names a feature that is not there.
    """
    if step.columns is None:
        places = [i for i, f in enumerate(features) if step.takes_indicators or not f.indicator]
    else:
        wanted = set(step.columns)
        for name in wanted - {f.name for f in features} - {f.column for f in features}:
            names = [f.name for f in features] + sorted({f.column for f in features})
            raise ConfigError(f"step {step.kind} names {name!r}, which is no feature here; {closest(name, names)}")
        places = [i for i, f in enumerate(features) if f.name in wanted or f.column in wanted]
    return np.array(places, dtype=np.int64)


class FittedStep(ABC):
    """A step and its numbers. ``apply`` may change its argument in place."""

    def __init__(self, places: np.ndarray, n_features: int) -> None:
        self.places = places
        self._rest = np.setdiff1d(np.arange(n_features), places)
        first, last = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
        #: A slice where it can be one: then rows are worked on in place.
        self._where: slice | np.ndarray = slice(first, last) if last - first == len(places) else places

    def apply(self, x: np.ndarray, row: RowNumber) -> np.ndarray:
        """Transform rows of float64 values (n, n_features)."""
        if len(self.places):
            part = x[:, self._where]
            done = self._forward(part, row)
            if done is not part or not isinstance(self._where, slice):
                x[:, self._where] = done
        return x

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """Undo; NaN where nothing can."""
        x = x.copy()
        x[:, self.places] = self._backward(x[:, self.places])
        return x

    def features(self, features: Sequence[Feature]) -> tuple[Feature, ...]:
        """The features it makes of these."""
        return tuple(features)

    def tensors(self) -> dict[str, np.ndarray]:
        """Its numbers."""
        return {}

    @abstractmethod
    def _forward(self, x: np.ndarray, row: RowNumber) -> np.ndarray:
        """Transform the chosen features, in place or anew."""

    def _backward(self, x: np.ndarray) -> np.ndarray:
        """Undo on the chosen features."""
        return x


class Logarithm(FittedStep):
    """log1p."""

    def _forward(self, x: np.ndarray, row: RowNumber) -> np.ndarray:
        low = x <= -1.0
        if low.any():
            i, j = divmod(int(np.argmax(low)), low.shape[1])
            raise DataError(
                f"log1p needs values above -1, but row {row(i)} has {float(x[i, j])!r}; "
                "clip first, such as clip:lower=0"
            )
        return log1p(x)

    def _backward(self, x: np.ndarray) -> np.ndarray:
        # For people to read, never part of a result, so the library's bits will do.
        with np.errstate(over="ignore"):
            out: np.ndarray = np.expm1(x)
        return out


class Limits(FittedStep):
    """clip."""

    def __init__(self, places: np.ndarray, n_features: int, step: Clip) -> None:
        super().__init__(places, n_features)
        self._lower = -np.inf if step.lower is None else step.lower
        self._upper = np.inf if step.upper is None else step.upper

    def _forward(self, x: np.ndarray, row: RowNumber) -> np.ndarray:
        np.maximum(x, self._lower, out=x)
        np.minimum(x, self._upper, out=x)
        return x


class Affine(FittedStep):
    """(x - center) / scale: standardize, minmax and robust."""

    def __init__(self, places: np.ndarray, n_features: int, tensors: Mapping[str, np.ndarray]) -> None:
        super().__init__(places, n_features)
        self._center = np.asarray(tensors["center"], dtype=np.float64)
        self._scale = np.asarray(tensors["scale"], dtype=np.float64)

    def tensors(self) -> dict[str, np.ndarray]:
        return {"center": self._center, "scale": self._scale}

    def _forward(self, x: np.ndarray, row: RowNumber) -> np.ndarray:
        x -= self._center
        x /= self._scale
        return x

    def _backward(self, x: np.ndarray) -> np.ndarray:
        return x * self._scale + self._center


class Length(FittedStep):
    """l2."""

    def _forward(self, x: np.ndarray, row: RowNumber) -> np.ndarray:
        top = np.abs(x).max(axis=1)
        zero = np.flatnonzero(top == 0)
        if len(zero):
            raise DataError(
                f"row {row(int(zero[0]))} is zero and has no direction, so l2 cannot scale it; "
                "drop such rows or leave the step out"
            )
        # Scaling by powers of two is exact; squares then neither over- nor underflow.
        np.ldexp(x, -np.frexp(top)[1][:, None], out=x)
        x /= np.sqrt(_tree_sums(x * x))[:, None]
        return x

    def _backward(self, x: np.ndarray) -> np.ndarray:
        return np.full_like(x, np.nan)


class Components(FittedStep):
    """pca."""

    def __init__(self, places: np.ndarray, n_features: int, tensors: Mapping[str, np.ndarray], prefix: str) -> None:
        super().__init__(places, n_features)
        self._tensors = {name: np.asarray(array, dtype=np.float64) for name, array in tensors.items()}
        self._limbs = limbs(self._tensors["components"], 0)
        self._prefix = prefix

    def apply(self, x: np.ndarray, row: RowNumber) -> np.ndarray:
        projected = self._forward(x[:, self.places], row)
        return np.concatenate([x[:, self._rest], projected], axis=1) if len(self._rest) else projected

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """The point of the components' span, in the units before."""
        n_rest = len(self._rest)
        out = np.empty((len(x), n_rest + len(self.places)))
        out[:, self._rest] = x[:, :n_rest]
        out[:, self.places] = x[:, n_rest:] @ self._tensors["components"] + self._tensors["mean"]
        return out

    def features(self, features: Sequence[Feature]) -> tuple[Feature, ...]:
        names = [f"{self._prefix}[{i}]" for i in range(len(self._limbs[0]))]
        return (*(features[i] for i in self._rest), *(Feature(name, self._prefix) for name in names))

    def tensors(self) -> dict[str, np.ndarray]:
        return dict(self._tensors)

    def _forward(self, x: np.ndarray, row: RowNumber) -> np.ndarray:
        return project(x - self._tensors["mean"], self._limbs)


def make(step: Step, features: Sequence[Feature], tensors: Mapping[str, np.ndarray]) -> FittedStep:
    """A step with its numbers, for rows of these features."""
    places, n = chosen(step, features), len(features)
    if isinstance(step, Clip):
        return Limits(places, n, step)
    if isinstance(step, PCA):
        taken = {f.column for f in features}
        prefix = next(p for p in ("pca", *(f"pca{i}" for i in range(2, n + 3))) if p not in taken)
        return Components(places, n, tensors, prefix)
    if step.kind == "log1p":
        return Logarithm(places, n)
    if step.kind == "l2":
        return Length(places, n)
    return Affine(places, n, tensors)


def _tree_sums(terms: np.ndarray) -> np.ndarray:
    """Sums of rows over a fixed binary tree: pad with zeros to a power of two, then add halves; (n, m) -> (n,)."""
    width = 1 << max(0, (terms.shape[1] - 1).bit_length())
    half = width // 2
    if half:
        # The first halving does the padding: beyond the last column there are zeros.
        first = terms[:, :half].copy()
        first[:, : terms.shape[1] - half] += terms[:, half:]
        terms = first
    while terms.shape[1] > 1:
        half = terms.shape[1] // 2
        terms = terms[:, :half] + terms[:, half:]
    return terms[:, 0]
