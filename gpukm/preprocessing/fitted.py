"""A preprocessing with the numbers fitted to data: stored with a snapshot, applied at training and ever after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from gpukm.errors import ConfigError, DataError
from gpukm.preprocessing.columns import Column
from gpukm.preprocessing.spec import Preprocessing
from gpukm.preprocessing.steps import Feature, FittedStep, make, row_by_row

FORMAT = 1
# Values that a block of rows has while the steps work on it, so that it stays in the cache.
_BLOCK_VALUES = 1 << 15
_LEAST_ROWS = 256


@dataclass(frozen=True, eq=False)
class Fitted:
    """What :func:`gpukm.preprocessing.fit` found, and the transformation it stands for.

    Attributes
    ----------
    spec : Preprocessing
    columns : tuple of Column
        Input columns with their types, ranges and categories: numbers and vectors first, then categories.
    dtype : numpy.dtype
        Type of the transformed rows, float32 or float64.
    fill : ndarray of float64 of shape (n_input_features,) or None
        What takes the place of missing values under the policy "mean": means, and shares of categories.
    numbers : tuple of dict of str to ndarray
        Fitted numbers of each step.
    warnings : tuple of str
        What the fit found doubtful; not stored.
    """

    spec: Preprocessing
    columns: tuple[Column, ...]
    dtype: np.dtype
    fill: np.ndarray | None = None
    numbers: tuple[Mapping[str, np.ndarray], ...] = ()
    warnings: tuple[str, ...] = field(default=())

    @cached_property
    def input_features(self) -> tuple[Feature, ...]:
        """Features before the steps."""
        return tuple(Feature(name, c.name, c.role == "category") for c in self.columns for name in c.features)

    @cached_property
    def steps(self) -> tuple[FittedStep, ...]:
        """The steps with their numbers."""
        steps: list[FittedStep] = []
        features: Sequence[Feature] = self.input_features
        for step, numbers in zip(self.spec.steps, self.numbers, strict=False):
            steps.append(make(step, features, numbers))
            features = steps[-1].features(features)
        return tuple(steps)

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """Features after the steps."""
        features: tuple[Feature, ...] = self.input_features
        for step in self.steps:
            features = step.features(features)
        return features

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the transformed rows' columns, in order."""
        return tuple(f.name for f in self.features)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the columns of :meth:`inverse`: the features before the steps."""
        return tuple(f.name for f in self.input_features)

    @property
    def schema(self) -> dict[str, Any]:
        """Ordered input columns with Arrow type names and the ranges seen, the null policy, and the features."""
        shown = ("name", "type", "role", "size", "minimum", "maximum")
        return {
            "columns": [{k: v for k, v in c.to_json().items() if k in shown} for c in self.columns],
            "null_policy": self.spec.null_policy,
            "features": list(self.feature_names),
        }

    @property
    def n_numeric(self) -> int:
        """Input features that are numbers, not indicators."""
        return sum(c.size for c in self.columns if c.role != "category")

    @property
    def is_identity(self) -> bool:
        """Whether rows without missing values stay as they are but for the type."""
        return not self.spec.steps and all(c.role != "category" for c in self.columns)

    def transform(
        self, x: np.ndarray, codes: Sequence[np.ndarray] = (), row: Callable[[int], int] = int, check: bool = True
    ) -> np.ndarray:
        """Transform rows.

        Parameters
        ----------
        x : ndarray of float32 or float64 of shape (n, n_numeric)
            Numbers; NaN where missing. Never changed.
        codes : sequence of ndarray of int64 of shape (n,)
            For each category column the place of the row's category among the known ones, -1 where missing, -2 where
            unknown.
        row : callable
            Row number of row i of ``x``, for messages.
        check : bool
            Refuse results that are not finite.

        Returns
        -------
        ndarray of shape (n, n_features)
            C-contiguous, of type ``dtype``; ``x`` itself where there is nothing to do.

        Raises
        ------
        DataError
            A step cannot be applied to a row, or a number does not fit the type.
        """
        if self.is_identity and x.dtype == self.dtype and (self.fill is None or np.isfinite(x).all()):
            return np.ascontiguousarray(x)
        out = np.empty((len(x), len(self.features)), self.dtype)
        rows = max(_LEAST_ROWS, _BLOCK_VALUES // max(1, len(self.input_features)))

        def work(part: slice) -> None:
            if self.is_identity and self.fill is None:
                # Rounded once: an int64 or float64 goes to float32 directly.
                out[part] = x[part]
            else:
                out[part] = self.through(x[part], [code[part] for code in codes], lambda i: row(part.start + i))
            if check and not np.isfinite(out[part]).all():
                self._refuse(out[part], row(part.start + int(np.argmin(np.isfinite(out[part]).all(axis=1)))))

        with np.errstate(over="ignore", invalid="ignore"):
            for i in range(0, len(x), rows):
                row_by_row(work, slice(i, min(i + rows, len(x))), row)
        return out

    def through(self, x: np.ndarray, codes: Sequence[np.ndarray], row: Callable[[int], int]) -> np.ndarray:
        """Rows after the steps in float64, not rounded; of few enough rows to stay in the cache."""
        out = self.expand(x, codes)
        with np.errstate(over="ignore", invalid="ignore"):
            for step in self.steps:
                out = step.apply(out, row)
        return out

    def expand(self, x: np.ndarray, codes: Sequence[np.ndarray]) -> np.ndarray:
        """Rows before the steps, new float64 (n, n_input_features): missing values filled, categories expanded."""
        out = np.empty((len(x), len(self.input_features)))
        n = self.n_numeric
        out[:, :n] = x
        if self.fill is not None:
            np.copyto(out[:, :n], self.fill[:n], where=np.isnan(out[:, :n]))
        out[:, n:] = 0.0
        for column, code in zip([c for c in self.columns if c.role == "category"], codes, strict=True):
            known = np.flatnonzero(code >= 0)
            out[known, n + code[known]] = 1.0
            if self.fill is not None:
                out[np.flatnonzero(code == -1), n : n + column.size] = self.fill[n : n + column.size]
            n += column.size
        return out

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """Take transformed rows, such as centroids, back to the units of the input; for people to read.

        Parameters
        ----------
        x : ndarray of shape (n, n_features)

        Returns
        -------
        ndarray of float64 of shape (n, len(input_names))
            NaN where a step cannot be undone (l2). A clipped value stays the limit; rows after ``pca`` become points
            of the components' span. The inverse of a mean is not the mean of the inverses: after log1p it is a
            geometric mean (of 1 + x).
        """
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != len(self.features):
            raise ConfigError(f"got rows of shape {x.shape}, expected (n, {len(self.features)})")
        with np.errstate(over="ignore", invalid="ignore"):
            for step in reversed(self.steps):
                x = step.inverse(x)
        return x

    def to_json(self) -> dict[str, Any]:
        """All but the arrays, as JSON types; :meth:`from_parts` reads them."""
        return {
            "format": FORMAT,
            "spec": self.spec.to_json(),
            "columns": [c.to_json() for c in self.columns],
            "dtype": self.dtype.name,
        }

    def tensors(self) -> dict[str, np.ndarray]:
        """The fitted arrays, float64: ``fill``, and ``<number of the step>.<name>``."""
        found = {} if self.fill is None else {"fill": self.fill}
        for i, numbers in enumerate(self.numbers):
            found.update({f"{i}.{name}": array for name, array in numbers.items()})
        return found

    @classmethod
    def from_parts(cls, json: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Fitted:
        """Rebuild from :meth:`to_json` and :meth:`tensors`.

        Raises
        ------
        ConfigError
            The parts are of a newer format, or do not belong together.
        """
        if json.get("format") != FORMAT:
            raise ConfigError(f"the preprocessing has the format {json.get('format')}, expected {FORMAT}; update gpukm")
        try:
            spec = Preprocessing.from_json(dict(json["spec"]))
            columns = tuple(Column.from_json(c) for c in json["columns"])
            numbers: list[dict[str, np.ndarray]] = [{} for _ in spec.steps]
            for name, array in tensors.items():
                number, _, key = name.partition(".")
                if name != "fill":
                    numbers[int(number)][key] = array
            fitted = cls(spec, columns, np.dtype(json["dtype"]), tensors.get("fill"), tuple(numbers))
            fitted.steps  # noqa: B018 - made here so that what is missing is said here
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ConfigError(f"the stored preprocessing is incomplete ({error!r}); publish the model again") from None
        return fitted

    def _refuse(self, out: np.ndarray, row: int) -> None:
        """Raise DataError for a number that is not finite, the first of which is in row ``row``."""
        j = int(np.argmin(np.isfinite(out))) % out.shape[1]
        largest = float(np.finfo(self.dtype).max)
        advice = "choose dtype float64 or scale the column" if self.dtype == np.float32 else "scale or clip the column"
        raise DataError(
            f"feature {self.feature_names[j]!r} of row {row} does not fit in {self.dtype.name}, whose "
            f"largest number is {largest:.4g}; {advice}"
        )
