"""The program as users run it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@dataclass(frozen=True)
class Done:
    """A finished run of the program."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The ``data`` of the JSON object."""
        return json.loads(self.out)["data"]


Gpukm = Callable[..., Done]


def command(*arguments: object) -> list[str]:
    """The program's command line."""
    return [sys.executable, "-m", "gpukm", *map(str, arguments)]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings of gpukm, on two threads."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GPUKM_") or key == "GPUKM_ISA"}
    return {**kept, "OMP_NUM_THREADS": "2", "NO_COLOR": "1", **(more or {})}


@pytest.fixture
def gpukm(tmp_path: Path) -> Gpukm:
    """Run the program in the test's folder."""

    def run(*arguments: object, env: Mapping[str, str] | None = None, **options: Any) -> Done:
        done = subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env=environment(env),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def example(n: int = 400, seed: int = 0) -> pa.Table:
    """Rows around four centres, with an id, a month, a weight, a category and some missing values."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0, 0, 0], [10, 0, 5], [0, 10, -5], [10, 10, 0]], float)
    x = centres[rng.integers(0, 4, n)] + rng.normal(0, 1, (n, 3))
    gaps = np.zeros(n, bool)
    gaps[5::50] = True
    return pa.table(
        {
            "id": [f"r{i:05d}" for i in range(n)],
            "month": pa.array(1 + np.arange(n) % 12, pa.int64()),
            "delay": x[:, 0],
            "distance": pa.array(x[:, 1].astype(np.float32)),
            "gappy": pa.array(x[:, 2], mask=gaps),
            "weight": rng.uniform(0.5, 2, n),
            "carrier": [("AA", "B6", "UA")[i % 3] for i in range(n)],
        }
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The example as Parquet, without missing values."""
    path = tmp_path / "flights.parquet"
    pq.write_table(example().drop_columns(["gappy"]), path, row_group_size=150)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
