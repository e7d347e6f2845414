"""Laws of the statistics pass: merging is associative and commutative, batches do not matter, order does not either."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukm.core.moments import GroupSums
from gpukm.core.quantiles import RadiusCounts
from gpukm.core.sampling import Rows, sample
from gpukm.core.summary import Accumulator, Survey
from gpukm.sources.base import Batch

values = st.floats(-1e6, 1e6, width=32)


@st.composite
def labelled_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows, centroids, labels and weights; not nearest ones, since the sums do not care."""
    n, d, k = draw(st.integers(1, 30)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    x = np.array(draw(st.lists(values, min_size=n * d, max_size=n * d)), np.float32).reshape(n, d)
    c = np.array(draw(st.lists(values, min_size=k * d, max_size=k * d)), np.float32).reshape(k, d)
    labels = np.array(draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n)), np.int32)
    weights = np.array(draw(st.lists(st.floats(0, 100), min_size=n, max_size=n)))
    return x, c, labels, weights


def pieces(
    x: np.ndarray, c: np.ndarray, labels: np.ndarray, w: np.ndarray, cuts: list[int], look: Survey
) -> list[Accumulator]:
    """One accumulator for each run of rows between cuts."""
    borders = sorted({0, len(x), *(cut % (len(x) + 1) for cut in cuts)})
    nearest = ((x.astype(float) - c[labels]) ** 2).cumsum(axis=1)[:, -1]
    made = []
    for a, b in itertools.pairwise(borders):
        made.append(Accumulator(c, look))
        made[-1].add(Batch(x[a:b], a, b - a, None, w[a:b]), labels[a:b], nearest[a:b], 2 * nearest[a:b])
    return made


def looked(x: np.ndarray, w: np.ndarray, size: int = 64) -> Survey:
    """The survey of all rows."""
    batch = Batch(x, 0, len(x), None, w)
    rows = sample(Rows.none(x.shape[1], x.dtype, np.uint64), batch, 0, size)
    return Survey(x.min(axis=0).astype(float), x.max(axis=0).astype(float), float(w.max()), rows, size)


def bits(accumulator: Accumulator, look: Survey) -> list[bytes]:
    """Every number to the bit."""
    summary = accumulator.finish(look)
    golden = summary.golden
    arrays = [*summary.tensors().values(), golden.x, golden.labels, golden.row_numbers, golden.distances]
    return [np.float64(summary.total_inertia).tobytes(), *(a.tobytes() for a in arrays)]


@settings(max_examples=60, deadline=None)
@given(labelled_rows(), st.lists(st.integers(0, 30), max_size=4), st.randoms())
def test_merging_in_any_order_gives_the_whole(data, cuts, random) -> None:  # type: ignore[no-untyped-def]
    x, c, labels, w = data
    look = looked(x, w)
    [whole] = pieces(x, c, labels, w, [], look)
    parts = pieces(x, c, labels, w, cuts, look)
    random.shuffle(parts)
    while len(parts) > 1:
        left = parts.pop(random.randrange(len(parts)))
        parts[random.randrange(len(parts))].merge(left)
    assert bits(parts[0], look) == bits(whole, look)


@settings(max_examples=40, deadline=None)
@given(labelled_rows(), st.lists(st.integers(0, 30), max_size=4))
def test_batches_and_threads_give_the_whole(data, cuts) -> None:  # type: ignore[no-untyped-def]
    x, c, labels, w = data
    look = looked(x, w)
    [whole] = pieces(x, c, labels, w, [], look)
    borders = sorted({0, len(x), *(cut % (len(x) + 1) for cut in cuts)})
    nearest = ((x.astype(float) - c[labels]) ** 2).cumsum(axis=1)[:, -1]
    streamed = Accumulator(c, look)
    with ThreadPoolExecutor(2) as pool:
        for a, b in itertools.pairwise(borders):
            batch = Batch(x[a:b], a, b - a, None, w[a:b])
            streamed.add(batch, labels[a:b], nearest[a:b], 2 * nearest[a:b], pool)
    assert bits(streamed, look) == bits(whole, look)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1, exclude_min=True), min_size=1, max_size=50), st.integers(-200, 200), st.randoms())
def test_group_sums_are_near_the_exact_ones(terms, exponent, random) -> None:  # type: ignore[no-untyped-def]
    from fractions import Fraction

    scaled = [float(np.ldexp(t, exponent)) for t in terms]
    shuffled = list(scaled)
    random.shuffle(shuffled)
    sums = [GroupSums(1, np.array([exponent])) for _ in range(2)]
    zero = np.zeros(1, np.intp)
    for target, order in zip(sums, (scaled, shuffled), strict=True):
        target.add(slice(0, 1), np.array([order]), zero, zero)
    assert sums[0].limbs.tobytes() == sums[1].limbs.tobytes()
    exact = sum(map(Fraction, scaled))
    error = abs(Fraction(float(sums[0].totals()[0, 0])) - exact)
    assert error <= exact * Fraction(1, 2**51) + len(terms) * Fraction(2) ** (exponent - 91)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=200), st.integers(1, 10))
def test_quantiles_stay_within_a_bin_of_the_data(squared, parts) -> None:  # type: ignore[no-untyped-def]
    d = np.array(squared)
    whole = RadiusCounts(1)
    whole.add(np.zeros(len(d), np.int32), d)
    merged = RadiusCounts(1)
    for part in np.array_split(d, parts):
        other = RadiusCounts(1)
        other.add(np.zeros(len(part), np.int32), part)
        merged.merge(other)
    found = whole.quantiles()[0]
    assert found.tobytes() == merged.quantiles()[0].tobytes()
    assert (np.diff(found) >= 0).all()
    exact = np.quantile(np.sqrt(d), (0.5, 0.9, 0.95, 0.99, 1.0), method="inverted_cdf")
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-150)
