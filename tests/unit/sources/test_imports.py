"""Arrays and .npy files need NumPy alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import gpukm

_CODE = """
import sys
for name in ("pyarrow", "fsspec", "scipy", "pandas", "polars", "torch", "sklearn", "pydantic"):
    sys.modules[name] = None  # an import of it fails
import numpy as np
from gpukm.sources import open_source
from gpukm.sources.fingerprint import RowDigest
from gpukm.sources.memory import available_bytes, batch_rows
from gpukm.sources.prefetch import Prefetch
for data in (np.eye(3), [[1, 2], [3, 4], [5, 6]], sys.argv[1]):
    for batch in Prefetch(open_source(data)).batches(batch_rows(available_bytes(), 24, 0)):
        print(batch.x.sum())
"""


def test_numpy_is_enough(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 2), np.float32))
    path = os.pathsep.join([str(Path(gpukm.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", _CODE, str(tmp_path / "x.npy")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3.0", "21.0", "8.0"]
