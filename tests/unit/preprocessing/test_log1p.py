from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest

from gpukm.preprocessing.log1p import log1p


def error_ulps(x: np.ndarray) -> float:
    """Largest error in units in the last place of the true value, by decimals of 60 digits."""
    worst = 0.0
    with localcontext() as context:
        context.prec = 60
        for value, got in zip(x.tolist(), log1p(x).tolist(), strict=True):
            true = (Decimal(1) + Decimal(value)).ln()
            worst = max(worst, abs(float((Decimal(got) - true) / Decimal(float(np.spacing(abs(float(true))))))))
    return worst


@pytest.mark.parametrize("low, high", [(-30, 0), (-3, 3), (0, 60), (60, 700)])
def test_is_within_one_ulp(low: float, high: float) -> None:
    rng = np.random.default_rng(1)
    x = np.exp(rng.uniform(low, high, 400))
    assert error_ulps(x) < 1
    if high <= 60:
        assert error_ulps(-np.minimum(x, 1 / (1 + x))) < 1


def test_is_within_one_ulp_where_the_formula_changes() -> None:
    edges = np.array([np.sqrt(0.5) - 1, np.sqrt(2) - 1, 1.0, 2 * np.sqrt(2) - 1, 2.0**53, -1 + 2.0**-53, -0.5])
    x = (edges[:, None] + np.arange(-20, 21) * np.spacing(np.abs(edges))[:, None]).ravel()
    assert error_ulps(x[x > -1]) < 1


@pytest.mark.parametrize("exponent", range(-60, 2, 3))
@pytest.mark.parametrize("sign", [1, -1])
def test_grows_from_one_number_to_the_next(exponent: int, sign: int) -> None:
    x = sign * 2.0**exponent * 0.75
    x = x + np.arange(-3000, 3000) * np.spacing(abs(x))
    assert (np.diff(log1p(x[x > -1])) >= 0).all()


def test_tiny_values_are_returned_as_they_are() -> None:
    x = np.array([5e-324, -5e-324, 1e-308, -1e-300, 1e-20, 2.0**-55, 0.0])
    assert log1p(x).tobytes() == x.tobytes()


def test_keeps_the_sign_of_zero_and_nan() -> None:
    assert np.signbit(log1p(np.array([-0.0, 0.0]))).tolist() == [True, False]
    assert np.isnan(log1p(np.array([np.nan]))).all()


def test_bits_do_not_depend_on_where_a_value_stands() -> None:
    x = np.random.default_rng(0).lognormal(0, 3, 20_001)
    whole = log1p(x)
    assert whole[7:].tobytes() == log1p(x[7:]).tobytes()
    assert whole.tobytes() == np.concatenate([log1p(x[i : i + 97]) for i in range(0, len(x), 97)]).tobytes()


def test_known_bits() -> None:
    x = np.array([1e-5, 0.3, 0.5, 1.0, -0.7, 12345.678, 1e200])
    assert [value.hex() for value in log1p(x).tolist()] == KNOWN


KNOWN = [
    "0x1.4f8aea9ae7317p-17",
    "0x1.0ca937be1b9dcp-2",
    "0x1.9f323ecbf984cp-2",
    "0x1.62e42fefa39efp-1",
    "-0x1.34378fcbda720p+0",
    "0x1.2d79ff745b2fdp+3",
    "0x1.cc845b54b54f2p+8",
]
