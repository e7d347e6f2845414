"""Settings: read from flags, the environment, a file and defaults, checked once, frozen, each with its origin."""

from __future__ import annotations

import csv
import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from gpukm.errors import ConfigError

FILE_NAME = "gpukm.toml"
PREFIX = "GPUKM_"
#: Variables of that prefix that are no settings: where the file is, and switches of the kernels and the build.
OTHER_VARIABLES = frozenset({"GPUKM_CACHE_DIR", "GPUKM_CONFIG", "GPUKM_ISA", "GPUKM_REQUIRE_NATIVE"})


def _split(value: Any) -> Any:
    """Turn ``a,b`` into a list, as CSV does: a name that holds a comma goes in double quotes."""
    parts = [value] if isinstance(value, str) else value
    if isinstance(parts, (list, tuple)) and all(isinstance(part, str) for part in parts):
        return tuple(name.strip() for row in csv.reader(parts, skipinitialspace=True) for name in row if name.strip())
    return value


def _steps(value: Any) -> Any:
    """Turn ``log1p; standardize`` into a list; commas belong to a step."""
    parts = [value] if isinstance(value, str) else value
    if isinstance(parts, (list, tuple)) and all(isinstance(part, str) for part in parts):
        return tuple(step.strip() for part in parts for step in part.split(";") if step.strip())
    return value


def _bytes(value: Any) -> Any:
    """Read ``2GB`` as a number of bytes."""
    if not isinstance(value, str):
        return value
    from gpukm.sources.memory import parse_bytes

    return parse_bytes(value)


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Steps = Annotated[tuple[str, ...], BeforeValidator(_steps)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=1 << 20)]
#: Of a device, which may be as little as a few rows take.
DeviceBytes = Annotated[int, BeforeValidator(_bytes), Field(ge=1)]
Positive = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Every setting of gpukm, resolved and checked; never changed afterwards.

    The first group decides the result and is part of a snapshot; the second says where and how the work is done,
    and no bit of the result depends on it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    n_clusters: Positive | None = Field(None, description="number of clusters")
    columns: Names = Field((), description="columns to cluster; empty takes every numeric column")
    exclude: Names = Field((), description="columns to leave out")
    id_column: Names = Field((), description="columns that identify a row: never clustered, copied by assign")
    weight_column: str | None = Field(None, description="column of sample weights")
    null_policy: Literal["error", "drop", "mean"] = Field("error", description="what to do with missing values")
    one_hot: Names = Field((), description="columns of categories to expand into indicators")
    step: Steps = Field((), description="preprocessing steps in order, such as log1p:delay or standardize")
    dtype: Literal["auto", "float32", "float64"] = Field("auto", description="type of the prepared numbers")
    algorithm: Literal["lloyd", "minibatch"] = Field("lloyd", description="all rows in every step, or few that double")
    batch_size: Positive | None = Field(None, description="minibatch: rows of the first batch; by default 64 a cluster")
    max_excess: float | None = Field(
        None, ge=0, description="minibatch: stop when the inertia is estimated to be this share too high (0.001)"
    )
    init: Literal["auto", "breathing", "pooled", "k-means++", "random"] = Field("auto", description="seeding method")
    n_init: Positive | Literal["auto"] = Field("auto", description="starts to make; the best one wins")
    max_iter: Positive = Field(300, description="iterations at most")
    tol: float = Field(1e-4, ge=0, description="stop when centroids move less, relative to the mean variance")
    seed: int = Field(0, ge=0, lt=2**64, description="seed of all random draws")
    metric: Literal["euclidean", "cosine"] = Field("euclidean", description="distance")
    precision: Literal["exact", "fast", "tf32", "ieee"] = Field(
        "exact", description="whether labels of iterations are certified; all but exact are for GPUs"
    )
    quality: Literal["standard", "best"] = Field("standard", description="best swaps centroids after the fit")

    store: str = Field("./gpukm-store", min_length=1, description="snapshot store, a folder or a URL")
    model: str | None = Field(None, min_length=1, description="model name; by default the name of the data file")
    backend: Literal["auto", "cpu", "numpy", "torch", "cupy"] = Field("auto", description="what computes")
    device: str = Field("auto", min_length=1, description="auto, cpu, cuda or cuda:N")
    device_memory: DeviceBytes | None = Field(
        None, description="memory to take on a GPU; by default nearly all that is free"
    )
    threads: Positive | None = Field(None, description="CPU threads; by default all")
    memory_limit: Bytes | None = Field(None, description="memory to use, such as 2GB; by default half of what is free")
    batch_rows: Positive | None = Field(None, description="rows read at a time; by default what the memory allows")
    cluster: str | None = Field(
        None, min_length=1, description="Dask cluster: local:N, cuda, tcp://host:port, file:, slurm:, kubernetes:PATH"
    )
    cluster_wait: float | None = Field(
        None, ge=0, description="seconds to wait for the first worker; by default 60, or what the profile says"
    )
    tls_ca: str | None = Field(None, min_length=1, description="file of the authority's certificates, for tls://")
    tls_cert: str | None = Field(None, min_length=1, description="file of the certificate to show to a cluster")
    tls_key: str | None = Field(None, min_length=1, description="file of its key; by default in tls_cert too")
    checkpoint: str | None = Field(None, min_length=1, description="folder or URL to save the state of a fit in")
    checkpoint_seconds: float = Field(10, ge=0, description="seconds between two savings at least")

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        """Refuse settings that contradict each other."""
        both = sorted(set(self.columns) & set(self.exclude))
        if both:
            raise ValueError(f"column {both[0]!r} is both in columns and in exclude; take it out of one of them")
        if self.weight_column is not None and self.weight_column in (*self.columns, *self.one_hot):
            raise ValueError(f"column {self.weight_column!r} is the weight column and cannot be clustered too")
        both = sorted(set(self.columns) & set(self.id_column))
        if both:
            raise ValueError(f"column {both[0]!r} is an id column and cannot be clustered too")
        if self.algorithm == "minibatch" and self.checkpoint is not None:
            raise ValueError("a fit with algorithm 'minibatch' saves no checkpoint; leave out one of the two")
        if self.algorithm == "minibatch" and self.precision != "exact":
            raise ValueError(f"precision {self.precision!r} needs algorithm 'lloyd'; leave out one of the two")
        if self.algorithm == "minibatch" and self.quality != "standard":
            raise ValueError("quality 'best' needs algorithm 'lloyd'; a start by 'breathing' is what 'minibatch' has")
        if self.algorithm == "lloyd":
            given = [name for name in ("batch_size", "max_excess") if getattr(self, name) is not None]
            if given:
                raise ValueError(f"{given[0]} needs algorithm 'minibatch'; set that, or leave {given[0]} out")
            if self.init == "breathing":
                raise ValueError("init 'breathing' needs algorithm 'minibatch'; set that, or another init")
        return self


SEMANTIC = tuple(Settings.model_fields)[: tuple(Settings.model_fields).index("store")]


@dataclass(frozen=True)
class Config:
    """Settings and where each came from.

    Attributes
    ----------
    settings : Settings
    origins : dict of str to str
        For each setting ``"--flag"``, the name of a variable, the path of a file, or ``"default"``.
    warnings : tuple of str
        Variables that look like settings and are none.
    """

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    file: str | os.PathLike[str] | None = None,
) -> Config:
    """Resolve every setting: flags win over ``GPUKM_*`` variables, these over ``gpukm.toml``, that over defaults.

    Parameters
    ----------
    flags : mapping
        Settings given by the caller, by name.
    environ : mapping
        The environment; None takes the process's own.
    file : path or None
        The settings file; None takes ``GPUKM_CONFIG``, else ``gpukm.toml`` in the current folder if there is one.

    Raises
    ------
    ConfigError
        An unknown key (with the closest name), or a value out of range (with its origin).
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    path = file or environ.get(PREFIX + "CONFIG") or None
    read = _read_file(Path(path or FILE_NAME), required=path is not None)
    for key, value in read.items():
        if key not in origins:
            raise ConfigError(f"{path or FILE_NAME}: unknown key {key!r}{_closest(key)}; see: gpukm config show")
        values[key], origins[key] = value, str(path or FILE_NAME)
    warnings = []
    for name, text in sorted(environ.items()):
        key = name[len(PREFIX) :].lower()
        if not name.startswith(PREFIX) or name in OTHER_VARIABLES:
            continue
        if key not in origins:
            warnings.append(f"the environment variable {name} is no setting and is ignored{_closest(key, PREFIX)}")
        elif text:
            values[key], origins[key] = text, name
    for key, value in (flags or {}).items():
        if key not in origins:
            raise ConfigError(f"unknown setting {key!r}{_closest(key)}")
        values[key], origins[key] = value, flag(key)
    try:
        return Config(Settings(**values), origins, tuple(warnings))
    except ValidationError as error:
        raise ConfigError(_explain(error, origins)) from None


def flag(key: str) -> str:
    """The command-line flag of a setting."""
    return "--" + key.replace("_", "-")


def _read_file(path: Path, required: bool) -> dict[str, Any]:
    """Read a settings file; an absent one is empty unless it was asked for."""
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError:
        if required:
            raise ConfigError(f"no settings file {path}; create it or leave out --config and GPUKM_CONFIG") from None
        return {}
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}; correct it") from None


def _closest(key: str, prefix: str = "") -> str:
    """`` (did you mean ...?)`` or nothing."""
    names = difflib.get_close_matches(key.lower().replace("-", "_"), list(Settings.model_fields), n=1)
    return f" (did you mean {prefix + names[0].upper() if prefix else names[0]}?)" if names else ""


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    """The first thing wrong, in one line: where, what was got, what was expected."""
    first = error.errors(include_url=False)[0]
    text = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return text
    key = str(first["loc"][0])
    same = [e for e in error.errors(include_url=False) if e["loc"] and e["loc"][0] == key]
    expected = " or ".join(dict.fromkeys(_lower(str(e["msg"]).removeprefix("Value error, ")) for e in same))
    return f"{key} is {first['input']!r} (from {origins.get(key, 'the caller')}), but {expected}"


def _lower(text: str) -> str:
    """Make a sentence fit into another."""
    return text[:1].lower() + text[1:]
