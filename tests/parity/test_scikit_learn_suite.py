"""scikit-learn's own tests of KMeans, read from the installed package and run with the class exchanged."""

import subprocess
import sys
from pathlib import Path

import sklearn.cluster.tests

# What tests private functions of scikit-learn's module through the class.
EXCLUDED = {
    "test_sample_weight_init": "calls KMeans._init_centroids, a private method of scikit-learn's class",
    "test_sample_weight_zero": "calls KMeans._init_centroids, a private method of scikit-learn's class",
}


def test_with_the_class_exchanged(tmp_path):
    source = (Path(sklearn.cluster.tests.__file__).parent / "test_k_means.py").read_text()
    line = "from sklearn.cluster import KMeans, MiniBatchKMeans, k_means, kmeans_plusplus"
    assert line in source, "scikit-learn's test file changed; adapt this test"
    source = source.replace(line, line.replace("KMeans, ", "", 1) + "\nfrom gpukm import KMeans")
    (tmp_path / "test_exchanged.py").write_text(source)
    (tmp_path / "conftest.py").write_text((Path(sklearn.__file__).parent / "conftest.py").read_text())
    # Only tests that use the class: those of scikit-learn's functions and of its MiniBatchKMeans prove nothing here.
    chosen = "not MiniBatchKMeans and not minibatch and not " + " and not ".join(EXCLUDED)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", chosen, "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    summary = done.stdout.strip().splitlines()[-1]
    assert int(summary.split(" passed")[0].split()[-1]) > 100, summary
