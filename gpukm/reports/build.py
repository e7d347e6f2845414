"""From a snapshot's arrays to a report's data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gpukm.core.quantiles import LEVELS
from gpukm.core.result import StopReason
from gpukm.reports.data import Cluster, Feature, HeatMap, Iteration, Report, Trait
from gpukm.reports.notices import notices
from gpukm.reports.wording import NOTABLE, direction

MAX_CLUSTERS = 1000
MAX_FEATURES = 200
MAX_TRAITS = 5
HEAT_CLUSTERS = 40
HEAT_FEATURES = 24
#: Multiplications (clusters squared x features) beyond which distances between centroids are left out.
_SEPARATION_WORK = 10**11
_STOPS = {reason.name.lower(): reason.value for reason in StopReason}


def build(snapshot: Any) -> Report:
    """Build a report; see :meth:`gpukm.reports.data.Report.from_snapshot`."""
    tensors, result, data = snapshot.tensors, snapshot.result, snapshot.data
    k, d = snapshot.centroids.shape
    names, back = _units(snapshot, d)
    counts, weights = np.asarray(tensors["counts"]), np.asarray(tensors["weights"])
    mean, variance = np.asarray(tensors["mean"]), np.asarray(tensors["variance"])
    total = float(weights.sum()) or 1.0
    deviation = np.sqrt(variance)
    between = _between(snapshot.centroids, weights, mean) / total
    explained = np.clip(np.divide(between, variance, out=np.zeros(d), where=variance > 0), 0, 1)
    order = np.lexsort((np.arange(k), -counts))
    shown = order[:MAX_CLUSTERS]
    # All that is shown from here on is of these clusters, in this order.
    centroids = np.asarray(snapshot.centroids[shown], dtype=np.float64)
    z = np.divide(centroids - mean, deviation, out=np.zeros_like(centroids), where=deviation > 0)
    columns = centroids, mean, np.asarray(tensors["minimum"]), np.asarray(tensors["maximum"])
    values, (overall, minimum, maximum), restored = _restore(back, columns)
    notable = np.lexsort((np.arange(d), -explained))
    inertia = np.asarray(tensors["inertia"])
    nearest, distance = _nearest(snapshot.centroids, shown)
    rows = int(counts.sum()) or 1
    clusters = tuple(
        Cluster(
            index=int(j),
            count=int(counts[j]),
            share=float(counts[j] / rows),
            weight=float(weights[j]),
            inertia=float(inertia[j]),
            inertia_share=float(inertia[j] / (inertia.sum() or 1.0)),
            silhouette=float(tensors["silhouette"][j]),
            radii=tuple(np.asarray(tensors["radius_quantiles"][j]).tolist()),
            neighbour=None if nearest is None else int(nearest[i]),
            neighbour_distance=None if distance is None else float(distance[i]),
            traits=_traits(names, z[i], values[i], overall) if counts[j] else (),
        )
        for i, j in enumerate(shown.tolist())
    )
    heat_rows = np.argsort(shown) if k <= HEAT_CLUSTERS else np.arange(HEAT_CLUSTERS)
    heat_columns = np.arange(d) if d <= HEAT_FEATURES else notable[:HEAT_FEATURES]
    report = Report(
        model=str(snapshot.model),
        number=int(snapshot.number),
        id=str(snapshot.id),
        metric=str(snapshot.settings.get("metric", "euclidean")),
        n_clusters=k,
        n_features=d,
        n_rows=int(data.get("n_rows", rows)),
        n_samples=int(data.get("n_samples", rows)),
        total_weight=float(data.get("total_weight", total)),
        inertia=float(result.get("inertia", inertia.sum())),
        explained=float(np.clip(1 - inertia.sum() / (variance.sum() * total), 0, 1)) if variance.any() else 0.0,
        silhouette=float((np.asarray(tensors["silhouette"]) * weights).sum() / total),
        n_iter=int(result.get("n_iter", 0)),
        stop=_STOPS.get(str(result.get("stop", "")), str(result.get("stop", ""))),
        n_init=int(result.get("n_init", 1)),
        radius_levels=LEVELS,
        sizes=tuple(counts[order].tolist()),
        clusters=clusters,
        features=tuple(
            Feature(
                name=names[f],
                mean=float(overall[f]),
                deviation=float(deviation[f]),
                minimum=float(minimum[f]),
                maximum=float(maximum[f]),
                explained=float(explained[f]),
                variance_share=float(variance[f] / (variance.sum() or 1.0)),
                span=(float(tensors["minimum"][f]), float(tensors["maximum"][f])),
                edges=tuple(e for e in np.asarray(tensors["histogram_edges"][f]).tolist() if np.isfinite(e)),
                bins=tuple(np.asarray(tensors["histogram"][f]).tolist()),
            )
            for f in notable[:MAX_FEATURES].tolist()
        ),
        heat_map=HeatMap(
            clusters=tuple(shown[heat_rows].tolist()),
            features=tuple(names[f] for f in heat_columns.tolist()),
            z=_rows(z[np.ix_(heat_rows, heat_columns)]),
            values=_rows(values[np.ix_(heat_rows, heat_columns)]),
        ),
        history=tuple(_iteration(record) for record in result.get("history", ())),
        original_units=restored,
        settings=dict(snapshot.settings),
        data=dict(data),
        provenance=dict(snapshot.provenance),
    )
    said = [*result.get("warnings", ())], [*result.get("notes", ())]
    if nearest is None and k > 1:
        said[1].append(f"distances between centroids were left out: {k:,} clusters x {d:,} features are too many")
    return replace(report, notices=notices(report, counts, *said))


def _units(snapshot: Any, n_features: int) -> tuple[list[str], Callable[[np.ndarray], np.ndarray] | None]:
    """Feature names, and the way of points (n, n_features) back to original units where features are still columns."""
    names = [f"f{i}" for i in range(n_features)]
    if not snapshot.preprocessing:
        return names, None
    fitted = snapshot.fitted
    given = [str(name) for name in fitted.feature_names]
    if len(given) != n_features:
        return names, None
    # Principal components are mixtures: going back gives other columns, and they have no unit of their own.
    return given, fitted.inverse if given == [str(name) for name in fitted.input_names] else None


def _between(centroids: np.ndarray, weights: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Sum of squared differences between centroids and the overall mean, per feature."""
    total = np.zeros(len(mean))
    step = max(1, (1 << 22) // len(mean))
    for start in range(0, len(centroids), step):
        part = centroids[start : start + step].astype(np.float64) - mean
        total += (weights[start : start + step, None] * part**2).sum(axis=0)
    return total


def _restore(
    back: Callable[[np.ndarray], np.ndarray] | None, columns: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, tuple[np.ndarray, ...], bool]:
    """Centroids and points over features in original units, feature by feature where there is a way back."""
    centroids, *points = columns
    if back is None:
        return centroids, tuple(points), False
    clustered = np.concatenate([centroids, np.stack(points)])
    restored = np.asarray(back(clustered), dtype=np.float64)
    possible = np.isfinite(restored).all(axis=0)
    restored = np.where(possible, restored, clustered)
    return restored[: len(centroids)], tuple(restored[len(centroids) :]), bool(possible.any())


def _traits(names: list[str], z: np.ndarray, values: np.ndarray, overall: np.ndarray) -> tuple[Trait, ...]:
    """The strongest standardised differences."""
    strongest = np.argsort(-np.abs(z), kind="stable")[:MAX_TRAITS]
    return tuple(
        Trait(names[f], float(z[f]), float(values[f]), float(overall[f]), direction(float(z[f])))
        for f in strongest.tolist()
        if abs(z[f]) >= NOTABLE
    )


def _nearest(centroids: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Nearest other centroid of each shown one, and how far it is; by a matrix product, which is enough to look at."""
    k, d = centroids.shape
    if k < 2 or len(shown) * k * d > _SEPARATION_WORK:
        return None, None
    centroids = np.asarray(centroids, dtype=np.float64)
    centred = centroids - centroids.mean(axis=0)
    norms = np.einsum("kd,kd->k", centred, centred)
    nearest = np.empty(len(shown), np.int64)
    step = max(1, (1 << 22) // k)
    for start in range(0, len(shown), step):
        part = shown[start : start + step]
        scores = norms - 2 * centred[part] @ centred.T
        scores[np.arange(len(part)), part] = np.inf
        nearest[start : start + step] = scores.argmin(axis=1)
    return nearest, np.sqrt(((centroids[shown] - centroids[nearest]) ** 2).sum(axis=1))


def _rows(matrix: np.ndarray) -> tuple[tuple[Any, ...], ...]:
    """A matrix as tuples."""
    return tuple(map(tuple, matrix.tolist()))


def _iteration(record: Mapping[str, Any]) -> Iteration:
    """One line of the history."""
    return Iteration(
        int(record["iteration"]), float(record["inertia"]), float(record["shift"]), int(record.get("n_empty", 0))
    )
