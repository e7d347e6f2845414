"""Exact labels, and what a wrong one leads to."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).integers(-3, 4, (601, 11)).astype(np.float32)


@pytest.mark.parametrize("d", [1, 8, 11])
def test_the_definition_is_that_of_the_engine(gpu: Any, d: int) -> None:
    from gpukm.backends.numpy import NumpyBackend

    rng = np.random.default_rng(d)
    x, c = rng.normal(size=(50, d)).astype(np.float32), rng.normal(size=(9, d)).astype(np.float32)
    np.testing.assert_array_equal(gpu.check.definition(x, c), NumpyBackend().cross_distances(x, c))


def test_exact_labels_with_ties(gpu: Any, x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    c = np.concatenate([x[:20], x[:5]])
    expected = gpu.check.definition(x, c).argmin(1)
    monkeypatch.setattr(gpu.check, "BLOCK_VALUES", 3000)
    np.testing.assert_array_equal(gpu.check.expected(x, c), expected)
    np.testing.assert_array_equal(gpu.check.exact_labels(x, c[:1]), 0)


def test_exact_labels_of_rows_all_but_midway(gpu: Any) -> None:
    rng = np.random.default_rng(2)
    c = 1000 + rng.normal(size=(30, 12)).astype(np.float32)
    a, b = rng.integers(0, 30, 300), rng.integers(0, 30, 300)
    x = ((c[a] + c[b]) / 2).astype(np.float32)
    np.testing.assert_array_equal(gpu.check.exact_labels(x, c), gpu.check.definition(x, c).argmin(1))


def test_the_check_on_tensors(gpu: Any, x: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    c = np.concatenate([x[:20], x[:5]])
    rows, centroids = torch.from_numpy(x), torch.from_numpy(c)
    expected = gpu.check.expected(x, c)
    np.testing.assert_array_equal(gpu.check.expected(rows, centroids), expected)
    np.testing.assert_array_equal(gpu.check.expected(rows.bfloat16(), centroids.bfloat16()), expected)
    assert gpu.check.total(rows, centroids, expected) == gpu.check.total(x, c, expected)


def test_the_sum_is_that_of_verify(gpu: Any, x: np.ndarray) -> None:
    theirs = importlib.import_module("verify").inertia(x, x[:20])
    assert gpu.check.total(x, x[:20], gpu.check.expected(x, x[:20])) == pytest.approx(theirs, rel=1e-12)


def test_a_wrong_fit_of_gpukm_is_told(gpu: Any, x: np.ndarray) -> None:
    data, judged, fit = gpu.contenders.Data(x, np.arange(7)), gpu.check.judged, gpu.contenders.Fit
    labels = gpu.check.expected(x, x[:7])
    inertia = gpu.check.total(x, x[:7], labels)
    assert judged(data, fit(x[:7], 3, labels, inertia), True) == (None, inertia)
    assert "it reports inertia" in judged(data, fit(x[:7], 3, labels, inertia * (1 + 1e-6)), True)[0]
    other = labels.copy()
    other[3] = (other[3] + 1) % 7
    assert judged(data, fit(x[:7], 3, other, inertia), True)[0] == "1 labels are wrong"
    assert judged(data, fit(x[:7], 3), False) == (None, inertia)


def test_a_wrong_label_of_gpukm_is_not_timed(gpu: Any, gpu_bench: Any) -> None:
    """And of a peer its share is told."""
    from gpukm.backends.numpy import NumpyBackend

    class Wrong(gpu.contenders.Peer):  # type: ignore[name-defined, misc]
        """Two labels of all rows are others."""

        def assigning(self, data: Any) -> Any:
            labels = gpu.check.expected(data.x, data.start)
            labels[[5, 60]] += 1
            return lambda: labels

    class Ours(gpu.ours.Gpukm):  # type: ignore[name-defined, misc]
        assigning = Wrong.assigning

    bench = gpu_bench(careless=Wrong())
    bench.gpukm = {
        "gpukm torch": Ours(NumpyBackend(), "numpy"),
        "gpukm cupy": gpu.ours.Gpukm(NumpyBackend(), "numpy"),
    }
    case = gpu.cases.Case("test", gpu.assign.run_assign, 500, 6, 9)
    found, values = gpu.assign.run_assign(bench, case)
    assert found["contenders"]["careless"]["exact"] == 1 - 2 / 500
    assert found["contenders"]["gpukm cupy"]["exact"] == 1 and gpu.cases.TFLOPS in values
    assert "gpukm torch" not in found["contenders"] and "wrong: " in found["left_out"]["gpukm torch"]
    assert len(bench.wrong) == 1
