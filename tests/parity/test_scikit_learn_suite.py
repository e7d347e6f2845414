"""scikit-learn's own tests of KMeans and MiniBatchKMeans, from the installed package, with ours in their place."""

import subprocess
import sys
from pathlib import Path

import sklearn.cluster.tests

_NO_STALL = "max_no_improvement is no parameter here: max_excess ends a fit"
# What tests private parts of scikit-learn's classes, or what gpukm does in another way.
EXCLUDED = {
    "test_sample_weight_init": "calls KMeans._init_centroids, a private method of scikit-learn's class",
    "test_sample_weight_zero": "calls KMeans._init_centroids, a private method of scikit-learn's class",
    "test_minibatch_kmeans_init_size": "reads _init_size, a private attribute of scikit-learn's class",
    "test_minibatch_declared_convergence": _NO_STALL,
    "test_minibatch_iter_steps": "batches double, so passes are not steps times batch_size over rows",
    "test_score_max_iter and MiniBatchKMeans": "one pass may already reach what ten reach, on a hundred rows",
}


def test_with_the_class_exchanged(tmp_path):
    source = (Path(sklearn.cluster.tests.__file__).parent / "test_k_means.py").read_text()
    line = "from sklearn.cluster import KMeans, MiniBatchKMeans, k_means, kmeans_plusplus"
    assert line in source, "scikit-learn's test file changed; adapt this test"
    ours = "from sklearn.cluster import k_means, kmeans_plusplus\nfrom gpukm import KMeans, MiniBatchKMeans"
    (tmp_path / "test_exchanged.py").write_text(source.replace(line, ours))
    (tmp_path / "conftest.py").write_text((Path(sklearn.__file__).parent / "conftest.py").read_text())
    chosen = " and ".join(f"not ({name})" for name in EXCLUDED)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", chosen, "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    summary = done.stdout.strip().splitlines()[-1]
    assert int(summary.split(" passed")[0].split()[-1]) > 150, summary
