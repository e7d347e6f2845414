"""A fit and the process it runs in: forks, and threads as OpenMP's variable has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gpukm_kernels import native_status

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not native_status()[0], reason=str(native_status()[1])),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]

FORK = """
import os, signal, warnings
import numpy as np
from gpukm import kmeans
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of every fork beside threads
x = np.random.default_rng(0).normal(size=(20000, 8)).astype(np.float32)
expected = kmeans(x, 16, max_iter=5, backend="cpu", threads=2, watched=True).digest()
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if kmeans(x, 16, max_iter=5, backend="cpu", threads=2, watched=True).digest() == expected else 1)
    children.append(child)
assert kmeans(x, 16, max_iter=5, backend="cpu", threads=2, watched=True).digest() == expected
print([os.waitpid(child, 0)[1] for child in children])
"""

THREADS = """
import os
import numpy as np
from gpukm import kmeans
x = np.random.default_rng(0).normal(size=(50000, 16)).astype(np.float32)
before = len(os.listdir("/proc/self/task"))
kmeans(x, 32, max_iter=3, backend="cpu", watched=True)
print(len(os.listdir("/proc/self/task")) - before)
"""


def run(code: str, **environment: str) -> str:
    """Standard output of a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_child_forked_after_a_fit_can_fit() -> None:
    assert run(FORK) == "[0, 0, 0]"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_omp_num_threads_is_obeyed(threads: int) -> None:
    assert run(THREADS, OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS="1") == str(threads - 1)
