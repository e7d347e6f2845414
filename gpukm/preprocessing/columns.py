"""Input columns: which there are, what each is, and how they differ from those of the training."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpukm.errors import ConfigError, DataError
from gpukm.sources.base import Source

if TYPE_CHECKING:
    from gpukm.preprocessing.spec import Preprocessing
    from gpukm.sources.table import Table

Role = Literal["number", "vector", "category"]
Category = str | int | float | bool

#: Arrow types read as float32, as :func:`gpukm.sources.array.working_dtype` has it for matrices; the rest as float64.
_SMALL = frozenset({"halffloat", "float", "int8", "int16", "uint8", "uint16", "bool"})
_SHOWN = 5


@dataclass(frozen=True)
class Column:
    """One input column.

    Attributes
    ----------
    name : str
    type : str
        Arrow's name of its type; that of the entries for a vector, of the values for a dictionary.
    role : {"number", "vector", "category"}
    size : int
        Features it becomes: 1, the length of the vector, or the number of categories.
    minimum, maximum : float or None
        Range seen in training; None for categories.
    categories : tuple
        Values seen in training, sorted.
    """

    name: str
    type: str
    role: Role = "number"
    size: int = 1
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[Category, ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features it becomes."""
        if self.role == "number":
            return (self.name,)
        if self.role == "vector":
            return tuple(f"{self.name}[{i}]" for i in range(self.size))
        return tuple(f"{self.name}={_shown(value)}" for value in self.categories)

    def to_json(self) -> dict[str, Any]:
        """JSON types; :meth:`from_json` reads them."""
        return {**asdict(self), "categories": list(self.categories)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Column:
        """Rebuild from :meth:`to_json`."""
        return cls(**{**value, "categories": tuple(value["categories"])})


def resolve(raw: Source | Table, spec: Preprocessing, weight_column: str | None) -> tuple[Column, ...]:
    """The input columns that a preprocessing takes from a source: numbers and vectors first, then categories.

    Raises
    ------
    DataError
        A column is not there (with the closest name), is there twice, or is of a type that cannot be used.
    ConfigError
        The weight column is to be clustered too.
    """
    there = types_of(raw)
    if spec.columns is not None:
        numeric = tuple(name for name in spec.columns if name not in spec.one_hot)
    else:
        others = (*spec.one_hot, weight_column)
        # A name that is there twice has no type, and is taken to be refused below.
        numeric = tuple(n for n, t in there.items() if n not in others and (t is None or _size(t) is not None))
    if weight_column is not None and weight_column in (*numeric, *spec.one_hot):
        raise ConfigError(f"column {weight_column!r} is the weight column; take it out of the columns to cluster")
    check_there([*numeric, *spec.one_hot], there, raw)
    if not numeric and not spec.one_hot:
        for name in (name for name, type_ in there.items() if "list<" in str(type_)):
            _number(name, there[name])  # says what to do about vectors of many lengths
        raise DataError(f"{place(raw)} has no numeric column to cluster; its columns are {some(list(there))}")
    return tuple(_number(name, there[name]) for name in numeric) + tuple(
        _category(name, there[name]) for name in spec.one_hot
    )


def rejoin(raw: Source | Table, columns: Sequence[Column]) -> tuple[Column, ...]:
    """The same columns in other data, with the types they have there.

    Numbers may be of another width; names, vector lengths and the kinds of values must be those of the training.

    Raises
    ------
    DataError
        The schema differs: which columns, and how.
    """
    there = types_of(raw)
    found, wrong = [], []
    for column in columns:
        what, here = _compare(column, there)
        found.append(here)
        wrong += [what] if what else []
    if isinstance(raw, Source) and raw.names is None and raw.n_features != _matrix_width(columns, raw.n_features):
        wrong = [f"it has {raw.n_features} columns, expected {_matrix_width(columns, raw.n_features)}"]
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise DataError(
            f"{place(raw)} does not have the columns of the training: {'; '.join(wrong[:_SHOWN])}{more}; "
            "give data with the same columns, or train again"
        )
    return tuple(found)


def check_there(names: Sequence[str], there: Mapping[str, Any], raw: Source | Table) -> None:
    """Raise DataError for the first name that is not there, with the closest one."""
    for name in names:
        if name not in there:
            raise DataError(f"{place(raw)} has no column {name!r}; {closest(name, list(there))}")
        if there[name] is None:
            raise DataError(f"{place(raw)} has two columns called {name!r}; rename one of them")


def check_weight(name: str, there: Mapping[str, Any], raw: Source | Table) -> None:
    """Raise DataError unless there is a column of numbers to weigh by."""
    check_there([name], there, raw)
    if _size(there[name]) != -1:
        raise DataError(f"column {name!r} is {there[name]}, expected numbers as weights; choose another weight column")


def types_of(raw: Source | Table) -> dict[str, Any]:
    """Arrow type (a name for a matrix) of each column, in order; None for a name that is there twice."""
    if isinstance(raw, Source):
        type_ = "float" if raw.dtype == np.float32 else "double"
        names = raw.names or tuple(f"f{i}" for i in range(raw.n_features))
        return {name: None if names.count(name) > 1 else type_ for name in dict.fromkeys(names)}
    types: dict[str, Any] = {}
    for entry in raw.schema:
        types[entry.name] = None if entry.name in types else entry.type
    return types


def read_dtype(columns: Sequence[Column]) -> np.dtype:
    """Type that holds the numbers of these columns: float32 where every number is of a small type."""
    return np.dtype(np.float32 if all(c.type in _SMALL for c in columns if c.role != "category") else np.float64)


def place(raw: Source | Table) -> str:
    """How the data is called in messages."""
    return str(getattr(raw, "location", "the data"))


def closest(name: str, names: Sequence[str]) -> str:
    """``did you mean ...?`` or the names there are."""
    near = similar(name, names)
    return f"did you mean {near!r}?" if near else f"its columns are {some(names)}"


def similar(name: str, names: Sequence[str]) -> str:
    """The most similar name, whatever the case; empty if there is none."""
    folded = {other.casefold(): other for other in names}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1)
    return folded[close[0]] if close else ""


def some(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _number(name: str, type_: Any) -> Column:
    """A column of numbers or of vectors."""
    size = _size(type_)
    if size is None:
        import pyarrow.types as types

        if types.is_list(type_) or types.is_large_list(type_):
            raise DataError(f"column {name!r} is {type_}, expected vectors of one length; cast it to a fixed-size list")
        if types.is_decimal(type_) or types.is_temporal(type_):
            raise DataError(f"column {name!r} is {type_}, expected numbers; leave it out or cast it to double first")
        raise DataError(f"column {name!r} is {type_}, expected numbers; leave it out or expand it with one-hot")
    if size < 0:
        return Column(name, _entry(type_))
    if size == 0:
        raise DataError(f"column {name!r} is {type_}, vectors without entries; leave it out")
    return Column(name, _entry(type_), "vector", size)


def _category(name: str, type_: Any) -> Column:
    """A column of categories."""
    column = Column(name, _entry(type_), "category", 0)
    if _kind(column.type) is None or str(type_).startswith("fixed_size_list"):
        raise DataError(
            f"column {name!r} is {type_}; one-hot takes text, numbers and booleans: cast it or leave it out"
        )
    return column


def _compare(column: Column, there: Mapping[str, Any]) -> tuple[str, Column]:
    """How a column differs from that of the training, and the column as it is."""
    name = column.name
    if there.get(name) is None:
        what = "is there twice" if name in there else "is missing"
        near = "" if name in there else similar(name, list(there))
        return f"{name!r} {what}" + (f" (there is {near!r})" if near else ""), column
    here = replace(column, type=_entry(there[name]))
    wanted = f"{column.type}[{column.size}]" if column.role == "vector" else column.type
    size = _size(there[name])
    if column.role == "category":
        fits = _kind(here.type) == _kind(column.type) and not str(there[name]).startswith("fixed_size_list")
    else:
        fits = size == (column.size if column.role == "vector" else -1)
    return "" if fits else f"{name!r} is {there[name]}, was {wanted}", here


def _matrix_width(columns: Sequence[Column], width: int) -> int:
    """Columns that an unnamed matrix must have, if the training's was one of which all columns were used."""
    names = [c.name for c in columns]
    return len(names) if names == [f"f{i}" for i in range(len(names))] else width


def _size(type_: Any) -> int | None:
    """Length of a vector type, -1 for a number, None for anything else."""
    if isinstance(type_, str):
        return -1
    import pyarrow.types as types

    if types.is_fixed_size_list(type_):
        return int(type_.list_size) if _size(type_.value_type) == -1 else None
    return -1 if types.is_integer(type_) or types.is_floating(type_) or types.is_boolean(type_) else None


def _entry(type_: Any) -> str:
    """Name of the type of a number, of a vector's entries or of a dictionary's values."""
    text = str(type_)
    return str(type_.value_type) if text.startswith(("dictionary", "fixed_size_list")) else text


def _kind(type_: str) -> str | None:
    """Kind of category: types of one kind have comparable values."""
    if type_ in ("string", "large_string", "string_view"):
        return "text"
    if type_ == "bool":
        return "bool"
    return "number" if type_.removeprefix("u").startswith("int") or type_ in ("halffloat", "float", "double") else None


def _shown(value: Category) -> str:
    """A category in a feature's name."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
