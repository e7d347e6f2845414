"""What a report says, without any markup; renderers turn it into text, and change nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: Version of the JSON form; a change that a reader could trip over raises it.
FORMAT = 1


@dataclass(frozen=True)
class Trait:
    """One feature in which a cluster differs from the whole.

    ``z`` is the centroid's difference from the overall mean in overall standard deviations; ``value`` and ``overall``
    are the centroid and the mean in original units (or as clustered, where there is no way back); ``words`` says
    the direction.
    """

    feature: str
    z: float
    value: float
    overall: float
    words: str


@dataclass(frozen=True)
class Cluster:
    """One cluster.

    Attributes
    ----------
    index : int
        Its label.
    count : int
    share : float
        Its part of all rows.
    weight : float
        Summed sample weight.
    inertia : float
    inertia_share : float
        Its part of the inertia.
    silhouette : float
        Simplified silhouette, mean over its rows.
    radii : tuple of float
        Quantiles of the distance to the centroid, at :attr:`Report.radius_levels`.
    neighbour : int or None
        The nearest other centroid.
    neighbour_distance : float or None
    traits : tuple of Trait
        What sets it apart, strongest first; empty when it is close to the average in everything.
    """

    index: int
    count: int
    share: float
    weight: float
    inertia: float
    inertia_share: float
    silhouette: float
    radii: tuple[float, ...]
    neighbour: int | None
    neighbour_distance: float | None
    traits: tuple[Trait, ...]


@dataclass(frozen=True)
class Feature:
    """One feature, over all rows.

    ``mean``, ``minimum`` and ``maximum`` are in original units where there is a way back, all else is as clustered,
    that is after preprocessing. ``explained`` is the part of its variance that lies between clusters (eta squared),
    ``variance_share`` its part of the variance of all features; ``edges`` (inner) and ``bins`` are its reference
    histogram, and ``span`` its range as clustered.
    """

    name: str
    mean: float
    deviation: float
    minimum: float
    maximum: float
    explained: float
    variance_share: float
    span: tuple[float, float]
    edges: tuple[float, ...]
    bins: tuple[int, ...]


@dataclass(frozen=True)
class HeatMap:
    """Centroids of some clusters (rows) in some features (columns).

    ``z`` are standardised differences from the overall mean; ``values`` the centroids in original units, or as
    clustered where a feature has no way back to them.
    """

    clusters: tuple[int, ...]
    features: tuple[str, ...]
    z: tuple[tuple[float, ...], ...]
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Iteration:
    """One iteration of the fit."""

    iteration: int
    inertia: float
    shift: float
    n_empty: int


@dataclass(frozen=True)
class Notice:
    """Something a reader should know; ``level`` is ``"warning"`` or ``"note"``."""

    level: str
    text: str


@dataclass(frozen=True)
class Report:
    """A report on one snapshot.

    Attributes
    ----------
    model : str
    number : int
    id : str
        Of the snapshot.
    metric : str
    n_clusters, n_features, n_rows, n_samples : int
        ``n_samples`` of ``n_rows`` were clustered; the others were dropped by the null policy.
    total_weight : float
    inertia : float
    explained : float
        Part of the total variance that lies between clusters, 0 to 1.
    silhouette : float
        Simplified silhouette, mean over rows.
    n_iter : int
    stop : str
        Why the fit stopped, as a sentence.
    n_init : int
    radius_levels : tuple of float
    sizes : tuple of int
        Rows of every cluster, largest first.
    clusters : tuple of Cluster
        The largest ones, largest first.
    features : tuple of Feature
        Those in which clusters differ most, in that order.
    heat_map : HeatMap
    history : tuple of Iteration
    original_units : bool
        Whether values could be taken back to the units of the input.
    notices : tuple of Notice
        Warnings first; among the notes, everything that was left out.
    settings, data, provenance : dict
        As in the snapshot.
    """

    model: str
    number: int
    id: str
    metric: str
    n_clusters: int
    n_features: int
    n_rows: int
    n_samples: int
    total_weight: float
    inertia: float
    explained: float
    silhouette: float
    n_iter: int
    stop: str
    n_init: int
    radius_levels: tuple[float, ...]
    sizes: tuple[int, ...]
    clusters: tuple[Cluster, ...]
    features: tuple[Feature, ...]
    heat_map: HeatMap
    history: tuple[Iteration, ...]
    original_units: bool
    notices: tuple[Notice, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_snapshot(cls, snapshot: Any) -> Report:
        """Build the report of a loaded snapshot, from nothing but the snapshot.

        Parameters
        ----------
        snapshot : Snapshot
            Read by attribute: ``centroids``, ``tensors`` (as :meth:`gpukm.core.summary.ClusterSummary.tensors` names
            them), ``settings``, ``data``, ``result``, ``provenance``, ``model``, ``number``, ``id`` and ``fitted``.
        """
        from gpukm.reports.build import build

        return build(snapshot)
