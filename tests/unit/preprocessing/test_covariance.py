from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from gpukm.core.exact import exact_sum
from gpukm.preprocessing.covariance import Gram, limbs, on_grid, project

rng = np.random.default_rng(7)


def gram(d: np.ndarray, w: np.ndarray | None, rows: int = 10**9) -> np.ndarray:
    bounds, top = np.abs(d).max(axis=0), 1.0 if w is None else float(w.max())
    total = Gram(bounds, top)
    for i in range(0, len(d), rows):
        part = Gram(bounds, top)
        part.add(d[i : i + rows], None if w is None else w[i : i + rows])
        total.merge(part)
    weight = exact_sum(np.ones(len(d)) if w is None else w)
    assert isinstance(weight, int)
    return total.covariance(weight)


def correlated(n: int, m: int) -> np.ndarray:
    x = rng.standard_normal((n, m)) @ rng.standard_normal((m, m)) * 10.0 ** rng.integers(-3, 4, m)
    return x - x.mean(axis=0)


def unit_rows(p: int, m: int) -> np.ndarray:
    x = rng.standard_normal((p, m))
    return on_grid(x / np.linalg.norm(x, axis=1)[:, None])


@pytest.mark.parametrize("weighted", [False, True])
def test_is_the_covariance_within_the_stated_bound(weighted: bool) -> None:
    d = correlated(4000, 6)
    w = rng.random(4000) if weighted else None
    top = np.abs(d).max(axis=0)
    expected = np.cov(d.T, aweights=w, bias=True) if weighted else d.T @ d / len(d)
    if w is not None:
        mean = (w[:, None] * d).sum(axis=0) / w.sum()
        expected = expected + np.outer(mean, mean)
    scale = np.outer(top, top) * (2.0 if not weighted else 2.0 * float(w.max() / w.mean()))  # type: ignore[union-attr]
    assert (np.abs(gram(d, w) - expected) <= scale * (4 * 2.0**-42 + 1e-14)).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_bits_depend_neither_on_batches_nor_on_the_order_of_rows(weighted: bool) -> None:
    d = correlated(5000, 5)
    w = rng.random(5000) if weighted else None
    whole, order = gram(d, w), rng.permutation(5000)
    assert gram(d, w, 333).tobytes() == whole.tobytes()
    assert gram(d[order], None if w is None else w[order], 2000).tobytes() == whole.tobytes()


def test_integer_deviations_are_exact() -> None:
    d = rng.integers(-1000, 1000, (3000, 4)).astype(np.float64)
    exact = d.astype(np.int64).T @ d.astype(np.int64)
    expected = [[float(Fraction(int(v), 3000)) for v in row] for row in exact]
    assert gram(d, None).tolist() == expected


def test_the_largest_limbs_do_not_round() -> None:
    z = 2**42 - rng.integers(0, 2**30, 20_000)
    total = sum(int(v) ** 2 for v in z)
    assert gram(z[:, None] * 2.0**-42, None).tolist() == [[float(Fraction(total, 20_000 << 84))]]


def test_many_chunks_carry() -> None:
    d = np.full((3 << 20, 1), 1.0 - 2.0**-42)
    d[::2] *= -1.0
    assert gram(d, None).tolist() == [[float(Fraction(2**42 - 1, 2**42) ** 2)]]


def test_constant_columns() -> None:
    d = np.zeros((10, 2))
    d[:, 0] = np.arange(10) - 4.5
    assert gram(d, None)[1].tolist() == [0.0, 0.0]


def test_limbs_put_a_number_together() -> None:
    x = rng.standard_normal(1000)
    high, low = limbs(x, 3)
    assert np.abs(high).max() <= 2**21
    assert np.abs(low).max() <= 2**20
    assert np.abs((high * 2.0**21 + low) * 2.0 ** (3 - 42) - x).max() <= 2.0 ** (3 - 43)


@pytest.mark.parametrize("m, p", [(1, 1), (5, 3), (700, 20), (2500, 4)])
def test_projection_is_the_product_within_the_stated_bound(m: int, p: int) -> None:
    d = rng.standard_normal((50, m)) * 10.0 ** rng.integers(-200, 200, (50, 1))
    components = unit_rows(p, m)
    top = 2.0 ** np.frexp(np.abs(d).max(axis=1))[1]
    error = np.abs(project(d, limbs(components, 0)) - d @ components.T).max(axis=1)
    assert (error <= m * 2.0**-42 * top).all()


def test_projection_bits_do_not_depend_on_the_shape_of_the_product() -> None:
    d = rng.standard_normal((200, 1500))
    both = limbs(unit_rows(16, 1500), 0)
    whole = project(d, both)
    for i in (0, 7, 199):
        assert project(d[i : i + 1], both).tobytes() == whole[i].tobytes()
    assert project(d, (both[0][3:5], both[1][3:5])).tobytes() == whole[:, 3:5].tobytes()
    assert project(np.asfortranarray(d), both).tobytes() == whole.tobytes()


def test_zero_rows_project_to_zero() -> None:
    assert project(np.zeros((2, 3)), limbs(np.eye(3), 0)).tolist() == np.zeros((2, 3)).tolist()
