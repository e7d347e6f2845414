"""The same bits with any number of BLAS threads, any BLAS kernel, and with NumPy's vector code switched off."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import hashlib, numpy as np
from gpukm.preprocessing import *
from gpukm.sources.array import ArraySource
from tests.unit.preprocessing.inputs import bits, rows_of
x = np.random.default_rng(0).lognormal(0, 1, (3000, 40))
x = x * 10.0 ** (np.arange(40) % 7)
digest = hashlib.sha256()
chains = [(Log1p(), Standardize(), PCA(n_components=7)), (Robust(), L2Normalize()), (MinMax(), PCA(n_components=3))]
for steps in chains:
    for raw in (ArraySource(x), ArraySource(x.astype(np.float32), np.arange(3000.0))):
        fitted = fit(raw, Preprocessing(steps=steps))
        digest.update(bits(fitted) + rows_of(PreparedSource(raw, fitted), 500).tobytes())
print(digest.hexdigest())
"""


def digest(**environment: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


@pytest.fixture(scope="module")
def expected() -> str:
    return digest(OPENBLAS_NUM_THREADS="1")


@pytest.mark.parametrize(
    "environment",
    [
        {"OPENBLAS_NUM_THREADS": "2"},
        {"OPENBLAS_CORETYPE": "Prescott"},
        {"OPENBLAS_CORETYPE": "Haswell"},
        {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_ICL X86_V3 X86_V4"},
    ],
    ids=lambda e: "-".join(e.values()).split(" ")[0],
)
def test_same_bits(environment: dict[str, str], expected: str) -> None:
    assert digest(**environment) == expected
