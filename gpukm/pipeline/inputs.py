"""From settings to sources: which file, which rows, which columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from gpukm.errors import ConfigError, SnapshotNotFoundError

if TYPE_CHECKING:
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
    """The preprocessing that the settings ask for, on the columns they choose.

    Raises
    ------
    DataError
        A setting names a column that is not there.
    """
    from gpukm.preprocessing import Preprocessing, parse_step

    return Preprocessing(
        columns=feature_columns(raw, settings),
        null_policy=settings.null_policy,
        one_hot=settings.one_hot,
        steps=tuple(parse_step(text) for text in settings.step),
        dtype=settings.dtype,
    )


def feature_columns(raw: Source | Table, settings: Settings) -> tuple[str, ...] | None:
    """Numeric columns to cluster; None takes every one there is.

    Raises
    ------
    DataError
        A setting names a column that is not there.
    """
    from gpukm.preprocessing import Preprocessing
    from gpukm.preprocessing.columns import check_there, resolve, types_of

    out = (*settings.exclude, *settings.id_column)
    check_there([*settings.columns, *out], types_of(raw), raw)
    if settings.columns or not out:
        return settings.columns or None
    every = resolve(raw, Preprocessing(one_hot=settings.one_hot), settings.weight_column)
    return tuple(column.name for column in every if column.role != "category" and column.name not in out)


def model_name(location: str) -> str:
    """A model's name from that of the data: the file's or folder's own, without its extension.

    Examples
    --------
    >>> model_name("s3://bucket/2013/New York flights.parquet")
    'New-York-flights'
    """
    path = location.split("::")[0].split("?")[0].rstrip("/")
    parts = [part for part in PurePosixPath(path).parts if not set(part) & set("*?[")]
    stem = re.sub(r"(\.(parquet|pq|csv|arrow|feather|ipc|npy|tsv|gz|zst))+$", "", parts[-1] if parts else "")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100].strip("-._")
    if not name:
        raise ConfigError(f"no model name can be made of {location!r}; give one with --model NAME")
    return name


def the_model(store: Store, model: str | None, source: str | None) -> str:
    """The model that is meant: the named one, the one called like the data, or the only one of the store.

    Raises
    ------
    ConfigError
        It is not clear which.
    """
    if model is not None:
        return model
    from gpukm.preprocessing.columns import some

    models = store.models()
    if source is not None:
        with suppress(ConfigError):
            if model_name(source) in models:
                return model_name(source)
    if len(models) == 1:
        return models[0]
    if not models:
        raise SnapshotNotFoundError(f"{store.location} holds no snapshots yet; gpukm train makes one")
    raise ConfigError(f"{store.location} holds several models ({some(models)}); name one of them")
