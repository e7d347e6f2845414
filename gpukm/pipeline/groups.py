"""A table cut into groups by the values of a column, and what the model of a group is called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpukm.errors import ConfigError, DataError
from gpukm.plan import human_bytes
from gpukm.sources.table import MemoryTable, Table, check_columns

#: The table as read, the same in the order of the groups, and prepared rows.
_COPIES = 3
_READ_ROWS = 1 << 16


@dataclass(frozen=True)
class Group:
    """Rows of one value.

    Attributes
    ----------
    value : str
        The value as text.
    table : MemoryTable
        Its rows in input order, without the group column.
    rows : ndarray of int64 of shape (n,)
        Where they stand in the input.
    """

    value: str
    table: MemoryTable
    rows: np.ndarray


def split(raw: Table, by: str, columns: Sequence[str], limit_bytes: int) -> tuple[list[Group], int]:
    """Read columns of a table and cut it into groups, in ascending order of their values.

    Parameters
    ----------
    raw : Table
    by : str
        Column of text, whole numbers, booleans or dates.
    columns : sequence of str
        What the groups hold, in the order of the table.
    limit_bytes : int
        Memory that this may take.

    Returns
    -------
    groups : list of Group
    n_missing : int
        Rows without a value, which are in no group.

    Raises
    ------
    DataError
        There is no such column, or it is of another type.
    ConfigError
        The rows do not fit in memory.
    """
    type_ = group_type(raw, by)
    names = [name for name in raw.schema.names if name in {*columns, by}]
    batches, n_bytes = [], 0
    for _, batch in raw.record_batches(names, _READ_ROWS):
        batches.append(batch)
        n_bytes += batch.nbytes
        if _COPIES * n_bytes > limit_bytes:
            raise ConfigError(
                f"{raw.location} is grouped in memory and takes more than the {human_bytes(limit_bytes)} allowed; "
                "raise --memory-limit, or train on files of fewer groups"
            )
    table = pa.Table.from_batches(batches, pa.schema([raw.schema.field(name) for name in names]))
    keys = table.column(by).cast(type_).combine_chunks()
    encoded = keys.dictionary_encode()
    ranks = np.empty(len(encoded.dictionary) + 1, np.int64)
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    ranks[order] = np.arange(len(order))
    ranks[-1] = len(order)  # rows without a value come last
    codes = ranks[encoded.indices.fill_null(len(order)).to_numpy()]
    rows = np.argsort(codes, kind="stable")
    cuts = np.searchsorted(codes[rows], np.arange(len(order) + 1))
    values = texts(encoded.dictionary.take(pa.array(order)))
    sorted_ = table.drop_columns([by]).take(pa.array(rows))
    groups = [
        Group(value, MemoryTable(sorted_.slice(first, last - first)), rows[first:last])
        for value, first, last in zip(values, cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)
    ]
    return groups, len(rows) - int(cuts[-1])


def group_type(raw: Table, by: str) -> pa.DataType:
    """The type of a group column's values.

    Raises
    ------
    DataError
        There is no such column, or it is of a type that makes no groups.
    """
    check_columns(raw.schema, [by], raw.location)
    type_ = raw.schema.field(by).type
    type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
    if not (_is_text(type_) or pa.types.is_integer(type_) or pa.types.is_boolean(type_) or pa.types.is_date(type_)):
        raise DataError(
            f"{raw.location}: the group column {by!r} is {type_}, expected text, whole numbers, booleans or dates; "
            "convert it first"
        )
    return type_


def texts(values: pa.Array) -> list[str]:
    """Values of a group column as people write them."""
    return [_text(value) for value in values.to_pylist()]


def group_model(model: str, value: str) -> str:
    """The model of a group: ``<model>.<value>``, where what a model's name cannot hold is ``_`` and its UTF-8 in hex.

    The value holds no ``.`` then, so that the last one of a name ends the model's own part.

    Examples
    --------
    >>> group_model("sales", "New York"), group_model("sales", "a.b_c"), group_model("sales", "")
    ('sales.New_20York', 'sales.a_2Eb_5Fc', 'sales._')
    """
    escaped = re.sub(r"[^A-Za-z0-9-]", lambda found: "".join(f"_{byte:02X}" for byte in found[0].encode()), value)
    name = f"{model}.{escaped or '_'}"
    if len(name) > 100:
        raise ConfigError(
            f"group {value!r} makes the model name {name[:40]}... of {len(name)} characters, expected at most 100; "
            "choose a shorter --model or shorter values"
        )
    return name


def group_value(name: str) -> str:
    """The value that :func:`group_model` made a name of.

    Examples
    --------
    >>> group_value("sales.New_20York")
    'New York'
    """
    escaped = name.rpartition(".")[2]
    parts = re.split(r"_([0-9A-F]{2})", "" if escaped == "_" else escaped)
    return b"".join(bytes.fromhex(part) if i % 2 else part.encode() for i, part in enumerate(parts)).decode()


def _is_text(type_: pa.DataType) -> bool:
    """Whether Arrow's type holds strings."""
    return any(test(type_) for test in (pa.types.is_string, pa.types.is_large_string))


def _text(value: object) -> str:
    """A value as people write it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
