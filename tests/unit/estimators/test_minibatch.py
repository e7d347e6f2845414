"""MiniBatchKMeans beyond scikit-learn's own checks."""

import pickle

import numpy as np
import pytest

from gpukm import MiniBatchKMeans, minibatch_kmeans
from gpukm.errors import ConfigError, SnapshotCorruptError


def mixture(n=6000, k=6, seed=0):
    rng = np.random.default_rng(seed)
    return (6 * rng.normal(size=(k, 4))[rng.integers(0, k, n)] + rng.normal(size=(n, 4))).astype(np.float32)


def test_fit_is_the_functions_result():
    x = mixture()
    model, result = MiniBatchKMeans(6, random_state=3).fit(x), minibatch_kmeans(x, 6, seed=3)
    assert model.fit_result_.digest() == result.digest()
    np.testing.assert_array_equal(model.predict(x), model.labels_)
    assert model.inertia_ == result.inertia == -model.score(x)
    assert model.n_steps_ == result.n_iter and model.counts_.tolist() == result.counts.tolist()
    assert model.n_iter_ == -(-sum_of_batches(x) // len(x))


def sum_of_batches(x):
    from gpukm.minibatch import minibatch_iter

    return sum(state.n_scored for state in minibatch_iter(x, 6, seed=3))


def test_without_labels():
    model = MiniBatchKMeans(6, random_state=3, compute_labels=False).fit(mixture())
    assert not hasattr(model, "labels_")
    assert np.isfinite(model.inertia_)


def test_a_path_is_clustered(tmp_path):
    x = mixture()
    np.save(tmp_path / "x.npy", x)
    model = MiniBatchKMeans(6, random_state=3).fit(tmp_path / "x.npy")
    assert model.fit_result_.digest() == MiniBatchKMeans(6, random_state=3).fit(x).fit_result_.digest()
    followed = MiniBatchKMeans(6, random_state=3).partial_fit(str(tmp_path / "x.npy"))
    assert followed.counts_.sum() == len(x)


def test_partial_fit_reports_what_it_held_back_and_counts_exactly():
    x = mixture()
    model = MiniBatchKMeans(6, random_state=0, half_life=500, max_move=0.2)
    for part in np.array_split(x, 4):
        model.partial_fit(part)
    before = model.cluster_centers_
    model.partial_fit(x[:1500] + 3)
    assert model.held_back_ and all(h.wanted > h.allowed for h in model.held_back_)
    moved = np.linalg.norm(model.cluster_centers_ - before, axis=1)
    for h in model.held_back_:
        np.testing.assert_allclose(moved[h.cluster], h.allowed, rtol=1e-4)
    assert model.counts_.sum() == len(x) + 1500 and model.n_steps_ == 5
    assert model.stream_.n_held_back.sum() >= len(model.held_back_)
    np.testing.assert_array_equal(model.labels_, model.predict(x[:1500] + 3))


def test_partial_fit_goes_on_from_fit_and_fit_starts_over():
    x = mixture()
    model = MiniBatchKMeans(6, random_state=0).fit(x)
    fitted = model.cluster_centers_
    model.partial_fit(x[:100])
    assert np.linalg.norm(model.cluster_centers_ - fitted, axis=1).max() < 0.1
    assert model.counts_.sum() == len(x) + 100
    assert model.fit(x).cluster_centers_.tobytes() == fitted.tobytes() and model.counts_.sum() == len(x)


def test_a_stream_goes_on_in_another_estimator():
    parts = np.array_split(mixture(), 4)
    whole = MiniBatchKMeans(6, random_state=0, half_life=1000, max_move=0.5)
    for part in parts[:2]:
        whole.partial_fit(part)
    other = MiniBatchKMeans(6, half_life=1000, max_move=0.5).resume_stream(whole.stream_bytes())
    third = pickle.loads(pickle.dumps(whole))
    for model in (whole, other, third):
        for part in parts[2:]:
            model.partial_fit(part)
    assert whole.stream_bytes() == other.stream_bytes() == third.stream_bytes()
    assert whole.n_steps_ == other.n_steps_ == 4
    np.testing.assert_array_equal(whole.predict(parts[0]), other.predict(parts[0]))


def test_a_stream_of_something_else_is_refused():
    data = MiniBatchKMeans(6, random_state=0).partial_fit(mixture()).stream_bytes()
    with pytest.raises(ConfigError, match="6 clusters, expected n_clusters=5"):
        MiniBatchKMeans(5).resume_stream(data)
    with pytest.raises(SnapshotCorruptError):
        MiniBatchKMeans(6).resume_stream(data[:-3])


def test_verbose_prints_steps_and_the_reason_to_stop(capsys):
    MiniBatchKMeans(6, random_state=0, verbose=1).fit(mixture(40_000))
    out = capsys.readouterr().out
    assert "Step 1: batch of 1024 rows" in out and "Stopped: more rows or steps" in out


def test_a_small_init_size_is_raised_with_a_warning():
    with pytest.warns(RuntimeWarning, match=r"init_size=3 should be larger than n_clusters=6. Setting it to 18."):
        model = MiniBatchKMeans(6, init_size=3, random_state=0).fit(mixture())
    assert model.fit_result_.settings["init_size"] == 18
