"""From settings to sources: which file, which rows, which columns."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from gpukm.errors import ConfigError, DataError, SnapshotNotFoundError
from gpukm.pipeline.steps import parse_steps

if TYPE_CHECKING:
    import pyarrow as pa

    from gpukm.config import Settings
    from gpukm.preprocessing import Preprocessing
    from gpukm.snapshots import Store
    from gpukm.sources.base import Source
    from gpukm.sources.table import Table


def open_input(location: str, where: Sequence[str] = ()) -> Source | Table:
    """Open a file, folder, glob or URL, and keep to the rows that ``where`` (``column=value`` each) selects."""
    from gpukm.sources import open_source
    from gpukm.sources.table import Table

    raw = open_source(location)
    if not where:
        return raw
    if not isinstance(raw, Table):
        raise ConfigError(f"--where needs named columns, and {location} has none; give a Parquet, Arrow or CSV file")
    from gpukm.pipeline.where import Filtered, parse_condition

    return Filtered(raw, [parse_condition(text) for text in where])


def preprocessing_of(raw: Source | Table, settings: Settings) -> Preprocessing:
    """The preprocessing that the settings ask for, with the columns spelled out.

    Raises
    ------
    DataError
        A setting names a column that is not there.
    """
    from gpukm.preprocessing import Preprocessing

    return Preprocessing(
        columns=feature_columns(raw, settings),
        null_policy=settings.null_policy,
        one_hot=settings.one_hot,
        steps=parse_steps(settings.step),
        dtype=settings.dtype,
    )


def feature_columns(raw: Source | Table, settings: Settings) -> tuple[str, ...] | None:
    """Columns to cluster; None takes all columns of a matrix."""
    from gpukm.sources.table import Table

    others = (*settings.exclude, *settings.id_column, *settings.one_hot)
    if settings.weight_column is not None:
        others = (*others, settings.weight_column)
    if not isinstance(raw, Table):
        names = raw.names or tuple(f"f{i}" for i in range(raw.n_features))
        if not settings.columns and not others:
            return None
        check_columns(names, (*settings.columns, *others), "the data")
        return settings.columns or tuple(name for name in names if name not in others)
    check_columns(raw.schema.names, (*settings.columns, *others), raw.location)
    if settings.columns:
        return settings.columns
    found = tuple(f.name for f in raw.schema if f.name not in others and is_numeric(f.type))
    if not found and not settings.one_hot:
        raise DataError(f"{raw.location} has no numeric column to cluster; its columns are {_some(raw.schema.names)}")
    return found


def check_columns(there: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Raise DataError for the first wanted column that is not there, with the closest name."""
    for name in wanted:
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"its columns are {_some(there)}"
            raise DataError(f"{where} has no column {name!r}; {hint}")


def is_numeric(type_: pa.DataType) -> bool:
    """Whether a column of this type can be clustered: numbers, booleans, and vectors of numbers of one length."""
    import pyarrow.types as types

    if types.is_fixed_size_list(type_):
        type_ = type_.value_type
    return bool(types.is_integer(type_) or types.is_floating(type_) or types.is_boolean(type_))


def model_name(location: str) -> str:
    """A model's name from that of the data: the file's or folder's own, without its extension.

    Examples
    --------
    >>> model_name("s3://bucket/2013/New York flights.parquet")
    'New-York-flights'
    """
    path = location.split("::")[0].split("?")[0].rstrip("/")
    parts = [part for part in PurePosixPath(path.replace("\\\\", "/")).parts if not set(part) & set("*?[")]
    stem = re.sub(r"(\.(parquet|pq|csv|arrow|feather|ipc|npy|tsv|gz|zst))+$", "", parts[-1] if parts else "")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100].strip("-._")
    if not name:
        raise ConfigError(f"no model name can be made of {location!r}; give one with --model NAME")
    return name


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def the_model(store: Store, model: str | None, source: str | None) -> str:
    """The model that is meant: the named one, the one called like the data, or the only one of the store.

    Raises
    ------
    ConfigError
        It is not clear which.
    """
    if model is not None:
        return model
    models = store.models()
    if source is not None:
        with suppress(ConfigError):
            if model_name(source) in models:
                return model_name(source)
    if len(models) == 1:
        return models[0]
    if not models:
        raise SnapshotNotFoundError(f"{store.location} holds no snapshots yet; gpukm train makes one")
    raise ConfigError(f"{store.location} holds several models ({_some(models)}); name one of them")
