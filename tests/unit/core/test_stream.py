"""Streams: exact evidence, its decay, and the bound on moves."""

from dataclasses import replace

import numpy as np
import pytest

from gpukm.core.stream import Seen, StreamState, update
from gpukm.errors import ConfigError, DataError, SnapshotCorruptError
from gpukm.minibatch import stream_step
from gpukm.stream import from_bytes, to_bytes


def seen(sums, weights, squares=None, counts=None):
    sums, weights = np.asarray(sums, float), np.asarray(weights, float)
    squares = weights if squares is None else np.asarray(squares, float)
    return Seen(sums, weights, squares, weights.astype(np.int64) if counts is None else np.asarray(counts))


def blobs(n, at, seed=0, d=3):
    rng = np.random.default_rng(seed)
    return (np.asarray(at, float)[rng.integers(0, len(at), n)][:, None] + rng.normal(size=(n, d))).astype(np.float32)


def test_without_decay_a_centroid_is_the_mean_of_all_rows_it_was_given():
    x = blobs(3000, (0, 20, 40))
    state, labels = None, []
    for part in np.array_split(x, 7):
        if state is None:
            state, _ = stream_step(part, 3, seed=1)
            # The first call labels against the centres it makes; afterwards these are its means.
            start = state
        else:
            d = ((part[:, None].astype(float) - state.centroids[None].astype(float)) ** 2).sum(2)
            labels.append(d.argmin(1))
            state, held = stream_step(part, 3, state)
            assert held == ()
    later = x[len(np.array_split(x, 7)[0]) :].astype(float)
    labels = np.concatenate(labels)
    for j in range(3):
        total = start.means[j] * start.weights[j] + later[labels == j].sum(0)
        np.testing.assert_allclose(state.means[j], total / (start.weights[j] + (labels == j).sum()), rtol=1e-12)
    assert state.counts.sum() == len(x) and state.n_steps == 7
    np.testing.assert_array_equal(state.counts, state.weights)


def test_the_spread_of_the_evidence_is_what_its_rows_have_about_the_centroid():
    x = blobs(900, (0, 20, 40))
    state, _ = stream_step(x, 3, seed=1)
    d = ((x[:, None].astype(float) - state.means[None]) ** 2).sum(2)
    for j in range(3):
        np.testing.assert_allclose(state.squares[j], d[d.argmin(1) == j, j].sum(), rtol=1e-6)


@pytest.mark.parametrize("max_move", [None, 0.1])
def test_the_spread_follows_the_centroid_wherever_it_moves(max_move):
    """With one cluster all rows are its own, so their squared distances to where it is now are known."""
    parts = [np.random.default_rng(i).normal(loc=4.0 * i, size=(200, 2)) for i in range(4)]
    state = None
    for part in parts:
        state, _ = stream_step(part, 1, state, max_move=max_move)
    moves = max_move is None
    assert state.n_held_back.tolist() == [0 if moves else 3]
    if moves:
        rows = np.concatenate(parts)
        np.testing.assert_allclose(state.means[0], rows.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(state.squares[0], ((rows - state.means[0]) ** 2).sum(), rtol=1e-6)
    # Held back, the old evidence stands for itself at the old place, and only the new rows are where they are.
    before, _ = stream_step(parts[0], 1)
    after, _ = stream_step(parts[1], 1, before, max_move=max_move)
    old = before.squares[0] + 200 * ((after.means[0] - before.means[0]) ** 2).sum()
    new = ((parts[1] - after.means[0]) ** 2).sum()
    np.testing.assert_allclose(after.squares[0], old + new, rtol=1e-6)


def test_the_half_life_is_the_new_weight_after_which_evidence_counts_half():
    state = StreamState.start(np.zeros((2, 1)))
    state, _ = update(state, seen([[0], [80]], [8, 8]), half_life=None, max_move=None)
    after, _ = update(state, seen([[4], [0]], [4, 0]), half_life=4, max_move=None)
    np.testing.assert_array_equal(after.weights, [8 / 2 + 4, 8 / 2])
    np.testing.assert_array_equal(after.means, [[4 / 8], [10]])  # without rows a centroid stays
    np.testing.assert_array_equal(after.counts, [12, 8])  # and counts do not decay


def test_the_bound_holds_a_centroid_back_along_its_way_and_says_so():
    state = StreamState.start(np.zeros((2, 2)))
    state, held = update(state, seen([[0, 0], [0, 0]], [99, 99], [99 * 4, 99 * 4]), half_life=None, max_move=0.5)
    assert held == ()
    np.testing.assert_allclose(state.radii, [2, 2])
    after, held = update(state, seen([[2970, 3960], [10, 0]], [99, 99]), half_life=None, max_move=0.5)
    [only] = held
    assert only.cluster == 0
    np.testing.assert_allclose((only.wanted, only.allowed), (25, 1))
    np.testing.assert_allclose(after.means[0], (0.6, 0.8))
    np.testing.assert_allclose(after.means[1], (10 / 198, 0))
    assert after.n_held_back.tolist() == [1, 0]


def test_a_centroid_without_evidence_is_free():
    state = StreamState.start(np.zeros((1, 1)))
    after, held = update(state, seen([[1000]], [1]), half_life=None, max_move=0.0)
    assert held == () and after.means[0, 0] == 1000


def test_forgetting_is_bounded_over_a_stream():
    """One odd batch under a short half-life: unbounded it carries a centroid away, bounded it does not."""
    odd = np.full((400, 3), 35.0, np.float32)
    state, _ = stream_step(blobs(2000, (0, 20)), 2, seed=0)
    far = int(state.means[:, 0].argmax())
    free, _ = stream_step(odd, 2, state, half_life=50)
    bound, held = stream_step(odd, 2, state, half_life=50, max_move=0.5)
    assert free.means[far, 0] > 34
    assert np.linalg.norm(bound.means[far] - state.means[far]) <= 0.5 * state.radii[far] * (1 + 1e-12)
    assert [h.cluster for h in held] == [far] and held[0].wanted > held[0].allowed


def test_cosine_keeps_unit_length_bound_or_not():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 4)).astype(np.float32)
    state = None
    for max_move in (None, 0.01):
        state, _ = stream_step(x, 3, state, metric="cosine", max_move=max_move, half_life=10)
        np.testing.assert_allclose(np.linalg.norm(state.means, axis=1), 1, rtol=1e-12)
        x = x + 1


def test_equal_calls_give_equal_bytes_and_bytes_give_the_state_back():
    def run(threads):
        state = None
        for part in np.array_split(blobs(2000, (0, 9, 30)), 5):
            state, _ = stream_step(part, 5, state, half_life=700, max_move=0.3, seed=4, threads=threads)
        return state

    data = to_bytes(run(1))
    assert data == to_bytes(run(2)) == to_bytes(from_bytes(data))
    again = from_bytes(data)
    more = blobs(50, (3,), seed=9)
    after = [to_bytes(stream_step(more, 5, s, half_life=700, max_move=0.3)[0]) for s in (run(1), again)]
    assert after[0] == after[1]


def test_bytes_that_are_not_those_written_are_refused():
    data = to_bytes(StreamState.start(np.ones((2, 3), np.float32)))
    for bad in (b"", data[:-1], data[:60] + bytes([data[60] ^ 1]) + data[61:], b"x" + data, data + b"0"):
        with pytest.raises(SnapshotCorruptError, match="not a stream's state"):
            from_bytes(bad)


def test_what_cannot_be_is_refused():
    x = blobs(50, (0, 9))
    state, _ = stream_step(x, 2)
    for more, message in (
        ({"half_life": 0}, "half_life"),
        ({"max_move": -1}, "max_move"),
        ({"max_move": np.nan}, "max"),
    ):
        with pytest.raises(ConfigError, match=message):
            stream_step(x, 2, state, **more)
    with pytest.raises(ConfigError, match="shape"):
        stream_step(x, 3, state)
    with pytest.raises(ConfigError, match="shape"):
        stream_step(x[:, :2], 2, state)
    with pytest.raises(DataError, match="NaN"):
        stream_step(np.full((4, 3), np.nan), 2, state)
    with pytest.raises(DataError, match="n_samples=1"):
        stream_step(x[:1], 2)


def test_a_state_goes_on_from_a_fit():
    state = StreamState.of(np.zeros((2, 1)), np.array([3.0, 1.0]), np.array([3, 1]), 8.0)
    np.testing.assert_array_equal(state.squares, [6, 2])
    empty = replace(state, weights=np.zeros(2), squares=np.zeros(2))
    np.testing.assert_array_equal(empty.radii, [0, 0])
