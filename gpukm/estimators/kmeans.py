"""scikit-learn's KMeans, on gpukm's engine."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

from sklearn.base import _fit_context
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from gpukm.core.result import FitResult, StopReason
from gpukm.estimators.base import CentroidEstimator
from gpukm.functional import fit_iter


class KMeans(CentroidEstimator):
    """K-means clustering, a drop-in for :class:`sklearn.cluster.KMeans`.

    The first nine parameters mean what they mean in scikit-learn; ``algorithm`` is accepted and decides nothing,
    since every choice gives the same, exact labels.

    Parameters
    ----------
    n_clusters : int, default=8
    init : {"auto", "pooled", "k-means++", "random"}, callable or array, default="auto"
        As in :func:`gpukm.kmeans`; the default of scikit-learn is "k-means++". An array has the shape
        (n_clusters, n_features).
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
    backend : {"auto", "torch", "cupy", "cpu", "numpy"}, default="auto"
    device : str, default="auto"
    precision : {"exact", "fast", "tf32", "ieee"}, default="exact"
        As in :func:`gpukm.kmeans`: all but "exact" are for GPUs, where iterations then do not certify labels.
        ``labels_`` and ``predict`` are exact.
    quality : {"standard", "best"}, default="standard"
        "best" swaps centroids after the fit, for a lower inertia at several times the cost.
    executor : {"local"} or distributed.Client, default="local"
        A client has the workers of its cluster fit and predict, as in :func:`gpukm.kmeans`; X may then be a Dask array
        or data frame, too.
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
        "init": [StrOptions({"k-means++", "pooled", "random", "auto"}), callable, "array-like"],
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
        "precision": [StrOptions({"exact", "fast", "tf32", "ieee"})],
        "quality": [StrOptions({"standard", "best"})],
        "executor": [StrOptions({"local"}), HasMethods(["submit", "gather"])],
        "batch_size": [None, Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "auto",
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
        executor: Any = "local",
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
        source, weight = self._checked(X, sample_weight)
        init, starts = self._checked_init(self._starts())
        self._n_init = starts
        if self.algorithm == "elkan" and self.n_clusters == 1:
            warnings.warn(
                "algorithm='elkan' doesn't make sense for a single cluster. Using 'lloyd' instead.",
                RuntimeWarning,
                stacklevel=2,
            )
        result = self._run(source, init, starts, weight)
        self._take_over(result)
        self.labels_ = result.labels
        self.n_iter_ = result.n_iter
        return self

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
            watched=bool(self.verbose),
        )
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                result: FitResult = end.value
                return result
            if not self.verbose:
                continue
            stop = progress.state.stop
            for record in progress.state.records:
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
