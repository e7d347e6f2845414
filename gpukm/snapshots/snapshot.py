"""What goes into a store and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gpukm.core.result import FitResult

if TYPE_CHECKING:
    from gpukm.preprocessing import Fitted

#: Labels rows with the nearest centroid: ``labeller(x, centroids) -> int32 (n,)``.
Labeller = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Golden:
    """Rows whose labels are known, to see on any machine that assigning gives what it gave.

    Attributes
    ----------
    x : ndarray of shape (n, n_features)
        Rows as they were clustered: prepared, for the cosine metric of unit length, in the dtype of the centroids.
    labels : ndarray of int32 of shape (n,)
    row_numbers : ndarray of int64 of shape (n,)
        Where the rows stood in the training data.
    """

    x: np.ndarray
    labels: np.ndarray
    row_numbers: np.ndarray


@dataclass(frozen=True, eq=False)
class SnapshotContent:
    """All that a snapshot's id covers: results, semantic settings, schema, preprocessing and the data's fingerprint.

    Nothing of a clock, host, backend, thread or path belongs here, so that the same fit has the same id anywhere;
    that is provenance, which goes beside it.

    Attributes
    ----------
    centroids : ndarray of shape (n_clusters, n_features)
        float32 or float64.
    golden : Golden
    tensors : dict of str to ndarray
        Statistics by name: counts, inertia, variances, quantiles, histograms.
    non_finite : frozenset of str
        Names in ``tensors`` that may hold NaN or infinity.
    schema, preprocessing, settings, data, result : dict
        JSON types only. ``settings["metric"]`` names the metric, euclidean where absent.
    preprocessing_tensors : dict of str to ndarray
    kind : str
        Which estimator made it.
    """

    centroids: np.ndarray
    golden: Golden
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    schema: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    preprocessing_tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    non_finite: frozenset[str] = frozenset()
    kind: str = "kmeans"

    @property
    def metric(self) -> str:
        """``"euclidean"`` or ``"cosine"``."""
        return str(self.settings.get("metric", "euclidean"))

    @cached_property
    def fitted(self) -> Fitted:
        """The preprocessing of the training data, rebuilt; what :func:`gpukm.pipeline.assign` must use."""
        from gpukm.preprocessing import Fitted

        return Fitted.from_parts(dict(self.preprocessing), dict(self.preprocessing_tensors))


@dataclass(frozen=True)
class SnapshotRef:
    """Where a snapshot was published."""

    id: str
    model: str
    number: int


@dataclass(frozen=True, eq=False)
class Snapshot(SnapshotContent):
    """A published snapshot, read back: digests, log record and golden rows have been checked.

    Arrays are read-only.

    Attributes
    ----------
    id : str
        SHA-256 of the manifest, 64 hexadecimal digits.
    model : str
    number : int
        Its number in the model's log.
    provenance : dict
        Of the log record: data URI, clock, host, backend, timings, versions.
    """

    id: str = ""
    model: str = ""
    number: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ref(self) -> SnapshotRef:
        """Its address."""
        return SnapshotRef(self.id, self.model, self.number)


def result_fields(result: FitResult) -> dict[str, Any]:
    """The part of a fit's result that the manifest keeps, as JSON; what depends on the machine is left out.

    So are rows moved in an iteration: a fit that streams, or was resumed, cannot count them.
    """
    return {
        "inertia": result.inertia,
        "n_iter": result.n_iter,
        "stop": result.stop.name.lower(),
        "n_init": result.n_init,
        "best_init": result.best_init,
        "n_samples": result.n_samples,
        "total_weight": result.total_weight,
        "warnings": list(result.warnings),
        "history": [
            {
                "iteration": record.iteration,
                "inertia": record.inertia,
                "shift": record.shift,
                "n_empty": record.n_empty,
            }
            for record in result.history
        ],
    }
