"""scikit-learn's KMeans, on gpukm's engine."""

from __future__ import annotations

import os
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import issparse
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from gpukm.backends import select
from gpukm.core.result import FitResult, StopReason
from gpukm.functional import assign, fit_iter
from gpukm.sources.array import ArraySource
from gpukm.sources.base import Source
from gpukm.sources.csr import CsrSource

_BLOCK_ROWS = 1 << 14


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """K-means clustering, a drop-in for :class:`sklearn.cluster.KMeans`.

    The first nine parameters mean what they mean in scikit-learn; ``algorithm`` is accepted and decides nothing,
    since every choice gives the same, exact labels.

    Parameters
    ----------
    n_clusters : int, default=8
    init : {"k-means++", "two-level", "random", "auto"}, callable or array of shape (n_clusters, n_features)
    n_init : int or "auto", default="auto"
        Starts; "auto" makes one, or ten when ``init`` is random or callable.
    max_iter : int, default=300
    tol : float, default=1e-4
        Tolerance on the summed squared shift of the centroids, relative to the mean variance of the features.
    verbose : int, default=0
    random_state : int, RandomState or None
    copy_x : bool, default=True
        Accepted for compatibility; the data is never changed.
    algorithm : {"lloyd", "elkan"}, default="lloyd"
    metric : {"euclidean", "cosine"}, default="euclidean"
    backend : {"auto", "cpu", "numpy"}, default="auto"
    device : str, default="auto"
    precision : {"exact"}, default="exact"
    quality : {"standard", "best"}, default="standard"
        "best" swaps centroids after the fit, for a lower inertia at several times the cost.
    executor : {"local"}, default="local"
    batch_size : int or None
        Rows read at a time from data that is not in memory.

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_clusters, n_features)
    labels_ : ndarray of int32 of shape (n_samples,)
    inertia_ : float
    n_iter_ : int
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only when ``X`` has string column names.
    fit_result_ : FitResult
        Everything the fit found out: history, stop reason, recheck counts, backend.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions({"k-means++", "two-level", "random", "auto"}), callable, "array-like"],
        "n_init": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
        "copy_x": ["boolean"],
        "algorithm": [StrOptions({"lloyd", "elkan"})],
        "metric": [StrOptions({"euclidean", "cosine"})],
        "backend": [str],
        "device": [str],
        "precision": [StrOptions({"exact"})],
        "quality": [StrOptions({"standard", "best"})],
        "executor": [StrOptions({"local"})],
        "batch_size": [None, Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: int | str = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int = 0,
        random_state: Any = None,
        copy_x: bool = True,
        algorithm: str = "lloyd",
        metric: str = "euclidean",
        backend: str = "auto",
        device: str = "auto",
        precision: str = "exact",
        quality: str = "standard",
        executor: str = "local",
        batch_size: int | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state
        self.copy_x = copy_x
        self.algorithm = algorithm
        self.metric = metric
        self.backend = backend
        self.device = device
        self.precision = precision
        self.quality = quality
        self.executor = executor
        self.batch_size = batch_size

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> KMeans:
        """Cluster the rows of X.

        Parameters
        ----------
        X : array, CSR matrix, data frame of shape (n_samples, n_features), path or Source
        y : ignored
        sample_weight : array of shape (n_samples,) or None

        Returns
        -------
        KMeans
            This estimator, fitted.
        """
        located = _is_located(X)
        if not located:
            X = self._validate(X, reset=True)
            if X.shape[0] < self.n_clusters:
                raise ValueError(f"n_samples={X.shape[0]} should be >= n_clusters={self.n_clusters}.")
        if sample_weight is not None and not located:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        starts = self._starts()
        init = self.init
        if _is_array_like(init):
            if starts != 1:
                warnings.warn(
                    f"Explicit initial center position passed: performing only one init in {type(self).__name__} "
                    f"instead of n_init={starts}.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            starts = 1
            init = check_array(init, dtype=[np.float64, np.float32], order="C", copy=True)
        self._n_init = starts
        if self.algorithm == "elkan" and self.n_clusters == 1:
            warnings.warn(
                "algorithm='elkan' doesn't make sense for a single cluster. Using 'lloyd' instead.",
                RuntimeWarning,
                stacklevel=2,
            )
        source = X if located else _source(X, sample_weight)
        result = self._run(source, init, starts, sample_weight if located else None)
        found = int((result.counts > 0).sum())
        if found < self.n_clusters:
            warnings.warn(
                f"Number of distinct clusters ({found}) found smaller than n_clusters ({self.n_clusters}). "
                "Possibly due to duplicate points in X.",
                ConvergenceWarning,
                stacklevel=2,
            )
        if located:
            self.n_features_in_ = result.centroids.shape[1]
        self.cluster_centers_ = result.centroids
        self._n_features_out = len(result.centroids)
        self.labels_ = result.labels
        self.inertia_ = result.inertia
        self.n_iter_ = result.n_iter
        self.fit_result_ = result
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Label each row with its nearest centroid, int32 of shape (n_samples,); ties go to the lowest index."""
        check_is_fitted(self)
        labels: np.ndarray = self._assign(X, None).labels
        return labels

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Fit and return ``labels_``."""
        labels: np.ndarray = self.fit(X, sample_weight=sample_weight).labels_
        return labels

    def transform(self, X: Any) -> np.ndarray:
        """Distance of each row to every centroid, of shape (n_samples, n_clusters)."""
        check_is_fitted(self)
        rows = self._rows(X)
        backend = select(self.backend, self.device).backend
        centers = np.ascontiguousarray(self.cluster_centers_, dtype=rows.dtype)
        distances = [np.sqrt(backend.cross_distances(b.x, centers)) for b in rows.batches(_BLOCK_ROWS)]
        return np.concatenate(distances).astype(rows.dtype, copy=False)

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Fit, then return the distances to the centroids."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Minus the inertia of X against the centroids."""
        check_is_fitted(self)
        return -float(self._assign(X, sample_weight).inertia)

    def _run(self, source: Any, init: Any, starts: int, sample_weight: Any) -> FitResult:
        """Drive the fit, and print what scikit-learn prints."""
        steps = fit_iter(
            source,
            self.n_clusters,
            init=init,
            n_init=starts,
            max_iter=self.max_iter,
            tol=self.tol,
            sample_weight=sample_weight,
            seed=self._seed(),
            metric=self.metric,
            backend=self.backend,
            device=self.device,
            precision=self.precision,
            quality=self.quality,
            executor=self.executor,
            batch_size=self.batch_size,
        )
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                result: FitResult = end.value
                return result
            if not self.verbose:
                continue
            record, stop = progress.state.record, progress.state.stop
            if record.iteration == 1:
                print("Initialization complete")
            print(f"Iteration {record.iteration}, inertia {record.inertia}.")
            if stop is StopReason.CONVERGED:
                print(f"Converged at iteration {record.iteration}: strict convergence.")
            elif stop is StopReason.TOLERANCE:
                print(
                    f"Converged at iteration {record.iteration}: center shift {record.shift} "
                    f"within tolerance {progress.state.tolerance}."
                )

    def _starts(self) -> int:
        """Resolve n_init as scikit-learn does."""
        if self.n_init != "auto":
            return int(self.n_init)
        return 10 if callable(self.init) or (isinstance(self.init, str) and self.init == "random") else 1

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
        if _is_located(X):
            from gpukm.functional import as_source

            return as_source(X, None, self.metric, select(self.backend, self.device))
        rows = _source(self._validate(X, reset=False), None)
        if self.metric == "cosine":
            from gpukm.sources.normalized import NormalizedSource

            return NormalizedSource(rows, select(self.backend, self.device).backend)
        return rows

    def _assign(self, X: Any, sample_weight: Any) -> Any:
        """Label X."""
        source = X
        if not _is_located(X):
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
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _is_located(X: Any) -> bool:
    """Whether X names data rather than being it."""
    return isinstance(X, str | os.PathLike | Source)


def _is_array_like(init: Any) -> bool:
    """Whether init is a given set of centres."""
    return not isinstance(init, str) and not callable(init)


def _source(X: Any, sample_weight: np.ndarray | None) -> Source:
    """Validated rows as a source."""
    return CsrSource(X, weight=sample_weight) if issparse(X) else ArraySource(X, weight=sample_weight)
