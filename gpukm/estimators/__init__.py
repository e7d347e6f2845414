"""scikit-learn's k-means estimators, on gpukm's engine."""

from gpukm.estimators.kmeans import KMeans
from gpukm.estimators.minibatch import MiniBatchKMeans

__all__ = ["KMeans", "MiniBatchKMeans"]
