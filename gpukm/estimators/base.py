"""What the estimators share: checks at the door, labels, distances, score."""

from __future__ import annotations

import os
import warnings
from numbers import Integral
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from gpukm.backends import select
from gpukm.backends.select import gpu_array, select_for
from gpukm.core.result import FitResult, on_host
from gpukm.functional import as_source, assign
from gpukm.sources.array import ArraySource
from gpukm.sources.base import Source
from gpukm.sources.blocks import is_collection
from gpukm.sources.csr import CsrSource
from gpukm.sources.normalized import NormalizedSource

_BLOCK_ROWS = 1 << 14


class CentroidEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """An estimator with ``cluster_centers_``; a subclass has ``fit`` and these parameters."""

    n_clusters: int
    init: Any
    random_state: Any
    metric: str
    backend: str
    device: str

    def predict(self, X: Any) -> np.ndarray:
        """Label each row with its nearest centroid, int32 of shape (n_samples,); ties go to the lowest index.

        Labels of an array on a GPU are an array of the same library there.
        """
        check_is_fitted(self)
        labels: np.ndarray = self._assign(X, None).labels
        return labels

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Fit and return ``labels_``."""
        labels: np.ndarray = self.fit(X, sample_weight=sample_weight).labels_
        return labels

    def transform(self, X: Any) -> Any:
        """Distance of each row to every centroid, of shape (n_samples, n_clusters); on a GPU where X is there."""
        check_is_fitted(self)
        rows = self._rows(X)
        if rows.placed() is not None:
            from gpukm.backends.gpu import GpuBackend

            shared = select_for(X, self.backend, self.device).backend
            assert isinstance(shared, GpuBackend)
            return shared.placed_lengths(rows.placed(), np.ascontiguousarray(self.cluster_centers_, dtype=rows.dtype))
        backend = select(self.backend, self.device).backend
        centers = np.ascontiguousarray(self.cluster_centers_, dtype=rows.dtype)
        distances = [np.sqrt(backend.cross_distances(b.x, centers)) for b in rows.batches(_BLOCK_ROWS)]
        return np.concatenate(distances).astype(rows.dtype, copy=False)

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, then return the distances to the centroids."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Minus the inertia of X against the centroids."""
        check_is_fitted(self)
        return -float(self._assign(X, sample_weight).inertia)

    def _checked(self, X: Any, sample_weight: Any, *, reset: bool = True) -> tuple[Any, Any]:
        """Rows to learn from and weights that are not in them yet: a path or a Source stays what it is."""
        if is_located(X):
            return X, sample_weight
        X = self._validate(X, reset=reset)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return _source(X, sample_weight), None

    def _checked_init(self, starts: int) -> tuple[Any, int]:
        """Given centres checked and copied, and one start for them; a method and its starts as they are."""
        if isinstance(self.init, str) or callable(self.init):
            return self.init, starts
        if starts != 1:
            warnings.warn(
                f"Explicit initial center position passed: performing only one init in {type(self).__name__} "
                f"instead of n_init={starts}.",
                RuntimeWarning,
                stacklevel=3,
            )
        return check_array(on_host(self.init), dtype=[np.float64, np.float32], order="C", copy=True), 1

    def _take_over(self, result: FitResult) -> None:
        """Set the attributes that every fit sets, and say where clusters stayed empty."""
        found = int((result.counts > 0).sum())
        if found < self.n_clusters:
            warnings.warn(
                f"Number of distinct clusters ({found}) found smaller than n_clusters ({self.n_clusters}). "
                "Possibly due to duplicate points in X.",
                ConvergenceWarning,
                stacklevel=3,
            )
        self.n_features_in_ = result.centroids.shape[1]
        self.cluster_centers_ = result.centroids
        self._n_features_out = len(result.centroids)
        self.inertia_ = result.inertia
        self.fit_result_ = result

    def _seed(self) -> int:
        """An integer seed from whatever random_state is."""
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    def _validate(self, X: Any, reset: bool) -> Any:
        """Check an array or CSR matrix as scikit-learn does."""
        return validate_data(
            self,
            X,
            accept_sparse="csr",
            reset=reset,
            dtype=[np.float64, np.float32],
            order="C",
            accept_large_sparse=False,
        )

    def _rows(self, X: Any) -> Source:
        """X as rows to label."""
        if is_located(X):
            return as_source(X, None, self.metric, select_for(X, self.backend, self.device))
        rows = _source(self._validate(X, reset=False), None)
        if self.metric == "cosine":
            return NormalizedSource(rows, select(self.backend, self.device).backend)
        return rows

    def _assign(self, X: Any, sample_weight: Any) -> Any:
        """Label X."""
        source = X
        if not is_located(X):
            X = self._validate(X, reset=False)
            if sample_weight is not None:
                sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
            source, sample_weight = _source(X, sample_weight), None
        return assign(
            source,
            self.cluster_centers_,
            sample_weight=sample_weight,
            metric=self.metric,
            backend=self.backend,
            device=self.device,
            executor=getattr(self, "executor", "local"),
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def is_located(X: Any) -> bool:
    """Whether X names data rather than being it, or lies on a GPU or a cluster, where no check of scikit-learn goes."""
    return isinstance(X, str | os.PathLike | Source) or gpu_array(X) is not None or is_collection(X)


def _source(X: Any, sample_weight: np.ndarray | None) -> Source:
    """Validated rows as a source."""
    return CsrSource(X, weight=sample_weight) if issparse(X) else ArraySource(X, weight=sample_weight)
