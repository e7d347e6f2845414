"""What to do with the columns before clustering: declarative, frozen, told apart from what is fitted to data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from gpukm.errors import ConfigError

NullPolicy = Literal["error", "drop", "mean"]
UnknownCategory = Literal["zeros", "error"]
OutputType = Literal["auto", "float32", "float64"]


@dataclass(frozen=True)
class Step:
    """One operation on features.

    Parameters
    ----------
    columns : tuple of str or None
        Features or input columns it works on; the name of a vector or one-hot column stands for all its features.
        None takes the default of the step.
    """

    kind: ClassVar[str]
    #: Whether the default of ``columns`` covers the indicators of one-hot columns too.
    takes_indicators: ClassVar[bool] = False

    columns: tuple[str, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.columns is not None:
            object.__setattr__(self, "columns", _names(self.columns, f"columns of {self.kind}"))
            if not self.columns:
                raise ConfigError(f"{self.kind} has an empty list of columns; name some, or leave columns out")

    def to_json(self) -> dict[str, Any]:
        """JSON types; :func:`step_from_json` reads them."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"kind": self.kind, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}


@dataclass(frozen=True)
class Log1p(Step):
    """log1p: replace x by log(1 + x), for counts and skewed amounts; every x must be above -1."""

    kind = "log1p"


@dataclass(frozen=True)
class Clip(Step):
    """clip: limit values to lower .. upper; one of the two may be left out."""

    kind = "clip"
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lower is None and self.upper is None:
            raise ConfigError("clip has neither lower nor upper; give one, such as clip:lower=-3,upper=3")
        for name in ("lower", "upper"):
            value = getattr(self, name)
            if value is not None:
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                    raise ConfigError(f"{name} of clip is {value!r}, expected a finite number")
                object.__setattr__(self, name, float(value))
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise ConfigError(f"clip has lower={self.lower!r} above upper={self.upper!r}; exchange them")


@dataclass(frozen=True)
class Standardize(Step):
    """standardize: subtract the mean and divide by the standard deviation (of the population, as scikit-learn)."""

    kind = "standardize"


@dataclass(frozen=True)
class MinMax(Step):
    """minmax: scale the range seen in training to 0 .. 1."""

    kind = "minmax"


@dataclass(frozen=True)
class Robust(Step):
    """robust: subtract the median and divide by the interquartile range, both exact; outliers hardly move them."""

    kind = "robust"


@dataclass(frozen=True)
class L2Normalize(Step):
    """l2: divide each row by its Euclidean length, over all features unless columns are named."""

    kind = "l2"
    takes_indicators = True


@dataclass(frozen=True)
class PCA(Step):
    """pca: replace features (all unless columns are named) by n_components principal components, put last."""

    kind = "pca"
    takes_indicators = True
    n_components: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        n = self.n_components
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ConfigError(f"n_components of pca is {n!r}, expected a whole number, such as pca:n_components=8")


STEPS: dict[str, type[Step]] = {s.kind: s for s in (Log1p, Clip, Standardize, MinMax, Robust, L2Normalize, PCA)}


def step_from_json(value: dict[str, Any]) -> Step:
    """Rebuild a step from :meth:`Step.to_json`.

    Raises
    ------
    ConfigError
        Unknown kind, unknown option or a bad value.
    """
    options = dict(value)
    kind = options.pop("kind", None)
    step = STEPS.get(str(kind))
    if step is None:
        raise ConfigError(f"unknown preprocessing step {kind!r}; expected one of {', '.join(STEPS)}")
    try:
        return step(**options)
    except TypeError as error:
        raise ConfigError(f"preprocessing step {kind}: {error}") from None


@dataclass(frozen=True)
class Preprocessing:
    """Everything that is done to the data before clustering.

    The order is: select columns, treat missing values, expand one-hot columns, apply the steps in order, round once.
    A null and a NaN are both missing values; an infinity is always an error.

    Parameters
    ----------
    columns : tuple of str or None
        Numeric columns to cluster; None takes every numeric column. A fixed-size-list column ``name`` becomes the
        features ``name[0]``, ``name[1]``, ...
    null_policy : {"error", "drop", "mean"}
        Refuse missing values, drop their rows, or put the column's mean in their place (for a category, the shares of
        the categories).
    one_hot : tuple of str
        Columns of categories, each expanded to indicators ``name=value`` in sorted order of the values; they come
        after the numeric features.
    steps : tuple of Step
        Applied in order. By default the scaling steps leave indicators alone, ``l2`` and ``pca`` take every feature.
    dtype : {"auto", "float32", "float64"}
        Type of the result; "auto" takes float32 where it holds the type of every column exactly.
    unknown_category : {"zeros", "error"}
        What a category that training has not seen becomes: no indicator, with a warning, or an error.
    """

    columns: tuple[str, ...] | None = None
    null_policy: NullPolicy = "error"
    one_hot: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    dtype: OutputType = "auto"
    unknown_category: UnknownCategory = "zeros"

    def __post_init__(self) -> None:
        if self.columns is not None:
            object.__setattr__(self, "columns", _names(self.columns, "columns"))
        object.__setattr__(self, "one_hot", _names(self.one_hot, "one_hot"))
        object.__setattr__(self, "steps", tuple(self.steps))
        for name, allowed in (
            ("null_policy", get_args(NullPolicy)),
            ("dtype", get_args(OutputType)),
            ("unknown_category", get_args(UnknownCategory)),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        for step in self.steps:
            if not isinstance(step, Step):
                raise ConfigError(f"a step is {step!r}, expected a Step such as Standardize()")
        if self.columns == () and not self.one_hot:
            raise ConfigError("no columns are chosen; name at least one, or leave columns out to take all numeric ones")

    def to_json(self) -> dict[str, Any]:
        """JSON types; :meth:`from_json` reads them."""
        return {
            "columns": None if self.columns is None else list(self.columns),
            "null_policy": self.null_policy,
            "one_hot": list(self.one_hot),
            "steps": [step.to_json() for step in self.steps],
            "dtype": self.dtype,
            "unknown_category": self.unknown_category,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Preprocessing:
        """Rebuild from :meth:`to_json`; ConfigError for what it does not know."""
        try:
            return cls(**{**value, "steps": tuple(step_from_json(step) for step in value.get("steps", ()))})
        except TypeError as error:
            raise ConfigError(f"preprocessing: {error}") from None


def _names(value: Any, what: str) -> tuple[str, ...]:
    """A tuple of distinct names."""
    if isinstance(value, str):
        value = (value,)
    names = tuple(value)
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{what}: {name!r} is no column name; expected text")
        if name in names[:i]:
            raise ConfigError(f"{what}: {name!r} is named twice; name it once")
    return names
