"""Freed memory is kept where a worker's environment says otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from gpukm.executors.heap import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
    keep_freed_memory()
for _ in range(300):
    np.ones(1 << 17)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to do with freed memory")
def test_temporaries_are_not_fetched_page_by_page() -> None:
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
    faults = []
    for what in ("keep", "not"):
        done = subprocess.run(
            [sys.executable, "-c", CODE, what], env=environment, capture_output=True, text=True, check=True
        )
        faults.append(int(done.stdout))
    # 300 arrays of 256 pages.
    assert faults[1] - faults[0] > 50_000
