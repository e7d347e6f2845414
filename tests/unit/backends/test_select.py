from importlib import import_module

import pytest
from gpukm_kernels import native_status

from gpukm.backends import probe, select
from gpukm.errors import BackendUnavailableError, ConfigError


def test_auto_takes_the_best_and_keeps_the_reasons():
    chosen = select()
    assert chosen.backend.name == ("cpu" if native_status()[0] else "numpy")
    assert dict(chosen.rejected).keys() >= {"torch", "cupy"}
    assert [name for name, _, _ in probe()] == ["torch", "cupy", "cpu", "numpy"]


@pytest.mark.parametrize(
    ("backend", "device"), [("torch", "auto"), ("cupy", "auto"), ("auto", "cuda"), ("cpu", "cuda:1")]
)
def test_what_is_named_never_falls_back(backend, device):
    with pytest.raises(BackendUnavailableError, match="use"):
        select(backend, device)


def test_unknown_names():
    with pytest.raises(ConfigError, match="expected one of auto, torch"):
        select("cuda")
    with pytest.raises(ConfigError, match="device"):
        select("auto", "gpu")
    with pytest.raises(ConfigError, match="threads"):
        select("cpu", threads=0)


def test_a_lost_backend_is_said_once(capsys, monkeypatch):
    import gpukm_kernels

    monkeypatch.setattr(gpukm_kernels, "native_status", lambda: (False, "not built; install a compiler"))
    monkeypatch.setattr(import_module("gpukm.backends.select"), "_said", False)
    assert select().backend.name == "numpy"
    assert select().backend.name == "numpy"
    assert capsys.readouterr().err.count("install a compiler") == 1
