"""Cases of benchmarks/gpu.py without a GPU, some through the GPU engine on the emulated device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.emulated import as_cupy  # noqa: F401


def test_targets_are_least_or_most(gpu: Any) -> None:
    assert gpu.cases.Target("a", 3.0).met(3.0) and not gpu.cases.Target("a", 3.0).met(2.9)
    assert gpu.cases.Target("a", 3.0, True).met(3.0) and not gpu.cases.Target("a", 3.0, True).met(3.1)


def test_useful_operations(gpu: Any) -> None:
    assert gpu.times.useful_tflops(1 << 20, 4096, 128, 4.0) == pytest.approx(2 * 2**20 * 4096 * 128 / 4e-3 / 1e12)


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_labels_of_any_rows_with_proof_and_without(gpu: Any, gpu_bench: Any, as_cupy: Any, kind: str) -> None:  # noqa: F811
    case = gpu.cases.Case("half", gpu.assign.run_half, 300, 20, 9, kind=kind)
    x = np.random.default_rng(0).normal(size=(300, 20)).astype(kind)
    data = gpu.contenders.Data(as_cupy.device.place(x), np.arange(9))
    bench = gpu_bench()
    bench.rotation = lambda case: [data]
    bench.gpukm = {"gpukm cupy": gpu.ours.Gpukm(as_cupy, "cupy")}
    found, values = gpu.assign.run_half(bench, case)
    assert not bench.wrong and not found["left_out"]
    assert found["contenders"]["gpukm cupy"]["exact"] == 1 and "rechecked" in found["contenders"]["gpukm cupy"]
    assert found["contenders"]["gpukm cupy, fast"]["exact"] > 0.99
    assert values[gpu.cases.FAST] > 0


def test_contenders_take_turns(gpu: Any, gpu_bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.times, "MOST_CALLS", 4)
    called: list[str] = []
    work = {name: [lambda name=name, i=i: called.append(f"{name}{i}") for i in (0, 1)] for name in "ab"}  # type: ignore[misc]
    bench = gpu_bench()
    bench.seconds_each = 1
    times = gpu.times.take_turns(bench, work)
    assert called == ["a1", "b1", "a0", "b0", "b1", "a1", "a0", "b0", "b1", "a1"]
    assert {name: len(ms) for name, ms in times.items()} == {"a": 4, "b": 4}
    bench.deadline = -math.inf
    assert {name: len(ms) for name, ms in gpu.times.take_turns(bench, work).items()} == {"a": 1, "b": 1}


def test_fits_are_compared_with_both_and_by_inertia(gpu: Any, gpu_bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpukm.backends.numpy import NumpyBackend

    class Slow(gpu.contenders.Peer):  # type: ignore[name-defined, misc]
        """Ends where the rows say."""

        def __init__(self, move: float) -> None:
            self.move = np.float32(move)

        def fitting(self, data: Any, iterations: int, converge: bool) -> Any:
            fit = gpu.ours.Gpukm(NumpyBackend(), "numpy").fitting(data, iterations, converge)
            return lambda: gpu.contenders.Fit(fit().centroids + self.move, iterations)

    monkeypatch.setattr(gpu.fits, "take_turns", lambda _, work: {n: [1.0 if "gpukm" in n else 4.0] for n in work})
    case = gpu.cases.Case("fit", gpu.fits.run_fit, 300, 3, 5)

    def values_of(**peers: Any) -> dict[str, float]:
        bench = gpu_bench(**peers)
        bench.gpukm = {"gpukm torch": gpu.ours.Gpukm(NumpyBackend(), "numpy")}
        return gpu.fits.run_fit(bench, case)[1]

    flashlib, both = {"flashlib triton": Slow(0)}, {"flashlib triton": Slow(0), "flash-kmeans": Slow(0)}
    assert values_of(**flashlib) == {gpu.cases.TO_FLASHLIB: 4.0}
    assert values_of(**flashlib, **{"flash-kmeans": Slow(0.1)}) == {gpu.cases.TO_FLASHLIB: 4.0, gpu.cases.TO_BOTH: 4.0}
    monkeypatch.setattr(gpu.check, "total", lambda x, c, labels: 1.0)
    monkeypatch.setattr(gpu.check, "INERTIA_TOLERANCE", 1e9)
    assert values_of(**both)[gpu.cases.TO_BOTH] == 4.0
    totals = iter([2.0, 1.0, 2.0])
    monkeypatch.setattr(gpu.check, "total", lambda x, c, labels: next(totals))
    assert values_of(**both)[gpu.cases.TO_BOTH] == 0.0


def test_shapes_of_the_hashes_are_those_of_the_parity_tests(gpu: Any) -> None:
    from tests.parity.test_bits import data

    n, d, k, _, dtype, weighted, *_ = next(gpu.bits.parity_shapes())
    x, weight = data(np.dtype(dtype), weighted)
    assert x.shape == (n, d) and (weight is None) != weighted
    made = gpu.bits.parity_data(n, d, k, dtype, True)
    np.testing.assert_array_equal(made[0], x)
    np.testing.assert_array_equal(made[1], data(np.dtype(dtype), True)[1])
    assert len(list(gpu.bits.parity_shapes())) == 34


@pytest.mark.usefixtures("as_cupy")
class TestEmulated:
    """Cases through the GPU engine, whose kernels the emulated device runs."""

    @pytest.fixture
    def bench(self, gpu: Any, gpu_bench: Any, as_cupy: Any) -> Any:  # noqa: F811
        bench = gpu_bench()
        bench.gpukm = {"gpukm cupy": gpu.ours.Gpukm(as_cupy, "cupy")}
        return bench

    def test_assignments(self, gpu: Any, bench: Any) -> None:
        case = gpu.cases.Case("assign", gpu.assign.run_assign, 400, 9, 20, (gpu.cases.Target(gpu.cases.TFLOPS, 1.0),))
        found, values = gpu.assign.run_assign(bench, case)
        assert found["left_out"] == {} and bench.wrong == []
        more = ("", ", fast", ", fast, rows rounded before", ", rows rounded before", ", centroids from the host")
        assert list(found["contenders"]) == [f"gpukm cupy{name}" for name in more] and values[gpu.cases.TFLOPS] > 0
        certified = [one for name, one in found["contenders"].items() if "fast" not in name]
        assert all(one["exact"] == 1 and 0 <= one["rechecked"] < 1 for one in certified)

    def test_fits(self, gpu: Any, bench: Any) -> None:
        found, values = gpu.fits.run_fit(bench, gpu.cases.Case("fit", gpu.fits.run_fit, 400, 5, 8))
        (ours,) = found["contenders"].values()
        assert bench.wrong == [] and ours["iterations"] > 2 and values == {}

    def test_iterations_inside_the_loop(self, gpu: Any, bench: Any) -> None:
        case = gpu.cases.Case("iteration", gpu.iterations.run_iteration, 600, 5, 12, noise=True)
        found, values = gpu.iterations.run_iteration(bench, case)
        assert bench.wrong == [] and found["left_out"] == {}
        assert list(found["contenders"]) == [
            "gpukm cupy", "gpukm cupy, inside the loop", "gpukm cupy, inside the loop, queued",
        ]  # fmt: skip
        assert all(one["tflops"] > 0 for name, one in found["contenders"].items() if "inside" in name)
        assert gpu.cases.MICROSECONDS in values

    def test_stages(self, gpu: Any, bench: Any) -> None:
        case = gpu.cases.Case("stages", gpu.stages.run_stages, 400, 5, 8, noise=True)
        found, _ = gpu.stages.run_stages(bench, case)
        stages = found["stages_ms"]["gpukm cupy"]
        named = {"rows rounded, once a fit", "centroids packed", "screen", "pairs", "decide", "accumulate", "means"}
        assert named | {"commit", "all"} <= set(stages) and all(ms > 0 for ms in stages.values())
        inner = sum(ms for stage, ms in stages.items() if stage not in ("rows rounded, once a fit", "all"))
        assert stages["all"] == pytest.approx(inner)

    def test_hashes(self, gpu: Any, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        shapes = [(300, 5, 6, 6, "float32", True, "array", "euclidean")]
        monkeypatch.setattr(gpu.bits, "parity_shapes", lambda: iter(shapes))
        found, values = gpu.bits.run_bits(bench, gpu.cases.Case("bits", gpu.bits.run_bits, 1, 1, 1))
        assert values == {gpu.cases.HASHES: 1.0} and len(found["fits"][0]["digests"]) == 2
