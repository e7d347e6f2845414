"""scikit-learn's MiniBatchKMeans, on gpukm's engine."""

from __future__ import annotations

import math
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from gpukm import stream
from gpukm.core.result import FitResult
from gpukm.core.stream import HeldBack, StreamState
from gpukm.errors import ConfigError
from gpukm.estimators.base import CentroidEstimator
from gpukm.minibatch import minibatch_iter, stream_step


class MiniBatchKMeans(CentroidEstimator):
    """Mini-batch k-means, in the place of :class:`sklearn.cluster.MiniBatchKMeans`.

    ``fit`` works on nested batches that double until more rows would change little; ``partial_fit`` follows a stream.
    Parameters shared with scikit-learn mean what they mean there, where nothing else is said. Two are not
    there, since nothing here corresponds to them: ``max_no_improvement`` (``max_excess`` ends the fit) and
    ``reassignment_ratio`` (empty clusters get the farthest rows of the batch; breathing repairs a bad start).

    Parameters
    ----------
    n_clusters : int, default=8
    init : {"auto", "breathing", "k-means++", "pooled", "random"}, callable or array (n_clusters, n_features)
        "auto" is "breathing": random rows, improved by breathing k-means on the first batch.
    max_iter : int, default=100
        Limit on the work: ``fit`` labels at most about ``max_iter`` times as many rows as there are.
    batch_size : int or None
        Rows of the first batch, at least ``n_clusters``; None takes 64 a cluster, but at least 1024.
    verbose : int, default=0
    compute_labels : bool, default=True
        End with a pass over all rows, for ``labels_`` and the exact ``inertia_``.
    random_state : int, RandomState or None
    tol : float, default=0.0
        Tolerance on the summed squared shift of the centroids, relative to the mean variance of the features, on
        batches of all rows; zero sets none.
    max_excess : float, default=1e-3
        ``fit`` stops once the inertia is estimated to be no more than this share above the one that all rows and all
        further steps would reach; zero goes on to all rows, until no centroid moves.
    init_size : int or None
        Rows that ``init`` sees; None takes those of the first batch. Below ``n_clusters`` it is three times that, with
        a warning.
    n_init : int or "auto", default="auto"
        Starts to try; "auto" tries one, or three when ``init`` is random or callable.
    half_life : float or None
        Weight of new rows (their number, without weights) after which old evidence counts half in ``partial_fit``;
        None keeps it whole.
    max_move : float or None
        How far ``partial_fit`` may move a centroid in one call, in root mean squared distances of the cluster's rows
        so far; None sets no bound.
    metric : {"euclidean", "cosine"}, default="euclidean"
    backend : {"auto", "cpu", "numpy"}, default="auto"
    device : str, default="auto"

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_clusters, n_features)
    labels_ : ndarray of int32 of shape (n_samples,)
        Of the rows of ``fit``, or of the last ``partial_fit``; only with ``compute_labels``.
    inertia_ : float
        Of the same rows; without ``compute_labels`` that of the last batch of ``fit``, scaled to all rows.
    counts_ : ndarray of int64 of shape (n_clusters,)
        Rows of each cluster: all rows of ``fit`` (of its last batch without ``compute_labels``), and all rows that
        ``partial_fit`` ever gave to it. Nothing decays here.
    n_iter_ : int
        Passes that ``fit`` made: rows labelled by its steps over rows there are, rounded up.
    n_steps_ : int
        Steps of ``fit`` and calls of ``partial_fit``.
    held_back_ : tuple of HeldBack
        Centroids that ``max_move`` held back in the last ``partial_fit``: (cluster, wanted, allowed), as distances.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only when ``X`` has string column names.
    fit_result_ : FitResult
        Everything ``fit`` found out.
    stream_ : StreamState
        What ``partial_fit`` goes on from.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions({"auto", "breathing", "k-means++", "pooled", "random"}), callable, "array-like"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [None, Interval(Integral, 1, None, closed="left")],
        "verbose": ["verbose"],
        "compute_labels": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "max_excess": [Interval(Real, 0, None, closed="left")],
        "init_size": [None, Interval(Integral, 1, None, closed="left")],
        "n_init": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "half_life": [None, Interval(Real, 0, None, closed="neither")],
        "max_move": [None, Interval(Real, 0, None, closed="left")],
        "metric": [StrOptions({"euclidean", "cosine"})],
        "backend": [str],
        "device": [str],
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "auto",
        max_iter: int = 100,
        batch_size: int | None = None,
        verbose: int = 0,
        compute_labels: bool = True,
        random_state: Any = None,
        tol: float = 0.0,
        max_excess: float = 1e-3,
        init_size: int | None = None,
        n_init: int | str = "auto",
        half_life: float | None = None,
        max_move: float | None = None,
        metric: str = "euclidean",
        backend: str = "auto",
        device: str = "auto",
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.verbose = verbose
        self.compute_labels = compute_labels
        self.random_state = random_state
        self.tol = tol
        self.max_excess = max_excess
        self.init_size = init_size
        self.n_init = n_init
        self.half_life = half_life
        self.max_move = max_move
        self.metric = metric
        self.backend = backend
        self.device = device

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> MiniBatchKMeans:
        """Cluster the rows of X.

        Parameters
        ----------
        X : array, CSR matrix, data frame of shape (n_samples, n_features), path or Source
        y : ignored
        sample_weight : array of shape (n_samples,) or None

        Returns
        -------
        MiniBatchKMeans
            This estimator, fitted.
        """
        source, weight = self._checked(X, sample_weight)
        init, starts = self._checked_init(1 if self.n_init == "auto" else int(self.n_init))
        result = self._run(source, weight, init, "auto" if self.n_init == "auto" else starts)
        self._n_init = result.n_init
        self._take_over(result)
        if self.compute_labels:
            self.labels_ = result.labels
        self.counts_ = result.counts
        passes = result.n_scored - (result.n_samples if self.compute_labels else 0)
        self.n_iter_ = math.ceil(passes / result.n_samples)
        self.n_steps_ = result.n_iter
        self.held_back_: tuple[HeldBack, ...] = ()
        self.stream_ = StreamState.of(result.centroids, result.weights, result.counts, result.inertia)
        return self

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> MiniBatchKMeans:
        """Take in more rows: label them, and move the centroids to the mean of all evidence.

        The first call, unless ``fit`` came before, makes the centroids from its rows, by ``init``. A centroid whose
        cluster gets no rows stays where it is.

        Parameters
        ----------
        X : array, CSR matrix, data frame of shape (n_samples, n_features), path or Source
        y : ignored
        sample_weight : array of shape (n_samples,) or None

        Returns
        -------
        MiniBatchKMeans
        """
        state: StreamState | None = getattr(self, "stream_", None)
        source, weight = self._checked(X, sample_weight, reset=state is None)
        init, _ = self._checked_init(1)
        state, held = stream_step(
            source,
            self.n_clusters,
            state,
            init=init,
            n_init=self.n_init,
            half_life=self.half_life,
            max_move=self.max_move,
            sample_weight=weight,
            seed=self._seed() if state is None else 0,
            metric=self.metric,
            backend=self.backend,
            device=self.device,
        )
        self._follow(state)
        self.held_back_ = held
        self.n_steps_ = getattr(self, "n_steps_", 0) + 1
        if self.verbose:
            print(f"Step {self.n_steps_}: {len(held)} centroids held back")
        if self.compute_labels:
            found = self._assign(X, sample_weight)
            self.labels_, self.inertia_ = found.labels, found.inertia
        return self

    def stream_bytes(self) -> bytes:
        """What :meth:`resume_stream` needs; equal states give equal bytes, and reading them executes nothing."""
        check_is_fitted(self)
        return stream.to_bytes(self.stream_)

    def resume_stream(self, data: bytes) -> MiniBatchKMeans:
        """Go on from what :meth:`stream_bytes` gave, in another process perhaps.

        Raises
        ------
        SnapshotCorruptError
            The bytes are not those that were saved.
        ConfigError
            They hold another number of clusters.
        """
        state = stream.from_bytes(data)
        if len(state.centroids) != self.n_clusters:
            raise ConfigError(
                f"the saved stream has {len(state.centroids)} clusters, expected n_clusters={self.n_clusters}; "
                "make the estimator with the number it was saved with"
            )
        self.n_features_in_ = state.centroids.shape[1]
        self.n_steps_, self.held_back_ = state.n_steps, ()
        self._follow(state)
        return self

    def _follow(self, state: StreamState) -> None:
        """Take over the state of the stream."""
        self.stream_ = state
        self.cluster_centers_, self.counts_ = state.centroids, state.counts
        self.n_features_in_ = state.centroids.shape[1]
        self._n_features_out = len(state.centroids)

    def _checked_init_size(self) -> int | None:
        """Enough rows to make the centroids from; the words are scikit-learn's."""
        if self.init_size is None or self.init_size >= self.n_clusters:
            return self.init_size
        warnings.warn(
            f"init_size={self.init_size} should be larger than n_clusters={self.n_clusters}. "
            f"Setting it to {3 * self.n_clusters}.",
            RuntimeWarning,
            stacklevel=4,
        )
        return 3 * self.n_clusters

    def _run(self, source: Any, sample_weight: Any, init: Any, n_init: int | str) -> FitResult:
        """Drive the fit, and print its steps."""
        steps = minibatch_iter(
            source,
            self.n_clusters,
            init=init,
            n_init=n_init,
            batch_size=self.batch_size,
            init_size=self._checked_init_size(),
            max_iter=self.max_iter,
            tol=self.tol,
            max_excess=self.max_excess,
            sample_weight=sample_weight,
            seed=self._seed(),
            metric=self.metric,
            backend=self.backend,
            device=self.device,
            compute_labels=self.compute_labels,
        )
        while True:
            try:
                state = next(steps)
            except StopIteration as end:
                result: FitResult = end.value
                return result
            if self.verbose:
                print(
                    f"Step {state.record.iteration}: batch of {state.batch_rows} rows, inertia {state.record.inertia}, "
                    f"estimated excess {state.excess:.3g}"
                )
            if self.verbose and state.stop is not None:
                print(f"Stopped: {state.stop.value}.")
