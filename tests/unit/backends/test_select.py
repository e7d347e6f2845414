from importlib import import_module

import pytest
from gpukm_kernels import cuda_devices, native_status

from gpukm.backends import probe, select
from gpukm.errors import BackendUnavailableError, ConfigError


def test_auto_takes_the_best_and_keeps_the_reasons():
    chosen = select()
    assert chosen.backend.name == ("cpu" if native_status()[0] else "numpy")
    assert dict(chosen.rejected).keys() >= {"torch", "cupy"}
    assert [name for name, _, _ in probe()] == ["torch", "cupy", "cpu", "numpy"]


@pytest.mark.parametrize(
    ("backend", "device"), [("torch", "auto"), ("cupy", "auto"), ("auto", "cuda"), ("torch", "cuda:1")]
)
def test_what_is_named_never_falls_back(backend, device):
    if cuda_devices():
        pytest.skip("there is a GPU here, which these may name")
    with pytest.raises(BackendUnavailableError, match=f"{backend if backend != 'auto' else device} cannot be used"):
        select(backend, device)


def test_unknown_names():
    with pytest.raises(ConfigError, match="expected one of auto, torch"):
        select("cuda")
    with pytest.raises(ConfigError, match="device"):
        select("auto", "gpu")
    with pytest.raises(ConfigError, match="threads"):
        select("cpu", threads=0)


def test_precision():
    with pytest.raises(ConfigError, match="expected one of exact, fast, tf32, ieee"):
        select("cpu", precision="quick")
    with pytest.raises(ConfigError, match="precision 'fast' is for GPUs, and backend cpu was chosen"):
        select("cpu", precision="fast")
    with pytest.raises(ConfigError, match="precision 'tf32' is for GPUs"):
        select("numpy", precision="tf32")


@pytest.mark.parametrize(("backend", "device"), [("cpu", "cuda"), ("numpy", "cuda:1"), ("torch", "cpu")])
def test_names_that_contradict_each_other(backend, device):
    with pytest.raises(ConfigError, match=f"backend {backend} does not run on device {device}"):
        select(backend, device)


def test_a_lost_backend_is_said_once(capsys, monkeypatch):
    import gpukm_kernels

    monkeypatch.setattr(gpukm_kernels, "native_status", lambda: (False, "not built; install a compiler"))
    import_module("gpukm.backends.notices")._said.clear()
    assert select().backend.name == "numpy"
    assert select().backend.name == "numpy"
    assert capsys.readouterr().err.count("install a compiler") == 1
