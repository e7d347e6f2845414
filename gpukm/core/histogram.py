"""Reference histograms: how each feature is distributed, overall and within each cluster."""

from __future__ import annotations

import numpy as np

BINS = 20


def quantile_edges(sample: np.ndarray, minimum: np.ndarray) -> np.ndarray:
    """Choose inner bin edges among sampled values, so that bins hold about equally many rows.

    Parameters
    ----------
    sample : ndarray of shape (n, n_features)
        In any order.
    minimum : ndarray of shape (n_features,)
        Smallest value of each feature over all rows.

    Returns
    -------
    ndarray of float64 of shape (n_features, 19)
        Strictly rising values that occur in the data, padded with +inf. Bin b of a feature is
        ``edges[b - 1] <= x < edges[b]``; a feature of few distinct values has a bin for each.
    """
    d = sample.shape[1]
    edges = np.full((d, BINS - 1), np.inf)
    if not len(sample):
        return edges
    at = (np.arange(1, BINS) * len(sample)) // BINS
    for feature in range(d):
        column = np.sort(sample[:, feature])
        distinct = column[np.flatnonzero(np.concatenate([[True], column[1:] != column[:-1]]))]
        chosen = distinct if len(distinct) <= BINS else np.unique(column[at])
        chosen = chosen[chosen > minimum[feature]][: BINS - 1]
        edges[feature, : len(chosen)] = chosen
    return edges


def bin_codes(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Bin of each value (n,) given one feature's edges: how many of them are not above it, uint8 of shape (n,)."""
    # A handful of comparisons in vector registers beats a binary search, whose branches cannot be predicted.
    codes = np.zeros(len(values), np.uint8)
    reached = np.empty(len(values), bool)
    for edge in edges[np.isfinite(edges)].astype(values.dtype):
        np.greater_equal(values, edge, out=reached)
        codes += reached.view(np.uint8)
    return codes
