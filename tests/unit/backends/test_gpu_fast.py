"""Labels as the screen of a GPU finds them."""

from __future__ import annotations

import numpy as np
import pytest
from gpukm_kernels.screening import mode

from gpukm.backends.base import Frame
from gpukm.backends.gpu import GpuBackend
from gpukm.backends.matrix_screen import MatrixScreen
from gpukm.functional import kmeans
from tests.emulated import as_cupy  # noqa: F401
from tests.emulator import Emulated


def test_rows_in_doubt_are_counted_and_left() -> None:
    rng = np.random.default_rng(0)
    c = rng.normal(size=(40, 24)).astype(np.float32)
    a, b = rng.integers(0, 40, 300), rng.integers(0, 40, 300)
    near = np.where(rng.random((300, 1)) < 0.5, 0.5 + 2e-5, 0.5 - 2e-5)
    x = (near * c[a] + (1 - near) * c[b]).astype(np.float32)
    found = {}
    for certify in (True, False):
        device = Emulated(seed=2)
        backend = GpuBackend(device, MatrixScreen(device, mode("fp16", (9, 0))), certify=certify)
        labels = np.empty(300, np.int32)
        rechecked = backend.assign(x, backend.prepare(c, Frame(np.zeros(24), float(np.abs(c).max()))), labels)
        found[certify] = labels, rechecked, device.launched["decide.measure"]
    d = backend.cross_distances(x, c)
    np.testing.assert_array_equal(found[True][0], d.argmin(axis=1))
    assert found[True][1] == found[False][1] > 100
    assert found[True][2] and not found[False][2]
    wrong = found[False][0] != found[True][0]
    assert wrong.any()
    rows = np.arange(300)
    # As good as equal, and no more than that.
    assert (d[rows, found[False][0]] <= d.min(axis=1) * (1 + 1e-2)).all()


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_a_result_names_it(as_cupy: GpuBackend, precision: str) -> None:  # noqa: F811
    x = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    assert kmeans(x, 4, backend="cupy", precision=precision).settings["precision"] == precision
