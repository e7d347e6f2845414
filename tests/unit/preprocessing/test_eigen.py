from __future__ import annotations

import numpy as np
import pytest

from gpukm.preprocessing.eigen import _tournament, eigh

rng = np.random.default_rng(11)


def covariance(m: int, spread: float = 1.0) -> np.ndarray:
    x = rng.standard_normal((2 * m + 3, m)) * spread ** np.linspace(0, 1, m)
    return x.T @ x


@pytest.mark.parametrize("m", [1, 2, 3, 7, 16, 33, 90])
@pytest.mark.parametrize("spread", [1.0, 1e-6, 1e150])
def test_eigenpairs(m: int, spread: float) -> None:
    a = covariance(m, spread)
    values, vectors = eigh(a)
    top = values[0]
    assert np.allclose(values, np.linalg.eigvalsh(a)[::-1], rtol=0, atol=1e-13 * top)
    assert np.allclose(vectors @ vectors.T, np.eye(m), atol=1e-12)
    assert np.allclose((vectors @ (a / top)) @ vectors.T, np.diag(values / top), atol=1e-12)
    assert (np.diff(values) <= 0).all()


@pytest.mark.parametrize("a", [np.zeros((4, 4)), np.eye(5), np.ones((6, 6)), np.diag([1.0, 3.0, 2.0])])
def test_degenerate(a: np.ndarray) -> None:
    values, vectors = eigh(a)
    assert np.allclose(vectors @ a @ vectors.T, np.diag(values), atol=1e-14)
    assert np.allclose(vectors @ vectors.T, np.eye(len(a)), atol=1e-14)


def test_the_largest_entry_is_positive() -> None:
    _, vectors = eigh(covariance(20))
    largest = np.argmax(np.abs(vectors), axis=1)
    assert (vectors[np.arange(20), largest] > 0).all()


def test_known_bits() -> None:
    a = 1.0 / (1.0 + np.add.outer(np.arange(4.0), np.arange(4.0)))
    values, vectors = eigh(a)
    assert [v.hex() for v in values.tolist()] == VALUES
    assert [v.hex() for v in vectors[0].tolist()] == FIRST


@pytest.mark.parametrize("m", [1, 2, 3, 8, 9])
def test_a_tournament_has_every_pair_once(m: int) -> None:
    pairs = [(int(i), int(j)) for p, q in _tournament(m) for i, j in zip(p, q, strict=True)]
    assert sorted(pairs) == [(i, j) for i in range(m) for j in range(i + 1, m)]
    for p, q in _tournament(m):
        assert len({*p.tolist(), *q.tolist()}) == 2 * len(p)


VALUES = [
    "0x1.800e0b05d8bd1p+0",
    "0x1.5a66b64a0da4ep-3",
    "0x1.b99978c4ab890p-8",
    "0x1.95994eed286e4p-14",
]
FIRST = [
    "0x1.95d0c1022c726p-1",
    "0x1.cec4ef4250830p-2",
    "0x1.4a27863e69830p-2",
    "0x1.023689a48746bp-2",
]
