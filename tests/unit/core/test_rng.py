import numpy as np

from gpukm.core import rng
from gpukm.core.rng import Purpose


def test_elements_do_not_depend_on_where_a_read_starts():
    whole = rng.raw(5, Purpose.SAMPLE, 0, 100)
    for start in (0, 1, 3, 4, 37):
        np.testing.assert_array_equal(rng.raw(5, Purpose.SAMPLE, start, 10), whole[start : start + 10])


def test_seed_and_purpose_separate_streams():
    streams = {tuple(rng.raw(s, p, 0, 4)) for s in (0, 1) for p in (Purpose.SAMPLE, Purpose.RANDOM_ROWS)}
    assert len(streams) == 4


def test_the_stream_is_pinned():
    assert rng.raw(1, Purpose.KMEANS_PLUS_PLUS, 0, 2).tolist() == [5705853004827290377, 6584680345644299050]


def test_uniform_below_is_the_high_half_of_the_product():
    for bound in (1, 2, 1000, 2**40 + 17, 2**61):
        words = rng.raw(3, Purpose.SAMPLE, 7, 50)
        expected = [(int(w) * bound) >> 64 for w in words]
        assert rng.uniform_below(bound, 3, Purpose.SAMPLE, 7, 50).tolist() == expected


def test_uniform_is_in_range():
    u = rng.uniform(0, Purpose.SAMPLE, 0, 1000)
    assert u.min() >= 0
    assert u.max() < 1
