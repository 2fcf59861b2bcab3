"""Scores of distances between the target's rows in a source's features."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from taskscout.methods.scores.inputs import checked, class_codes, correlation, has_values


def parc(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    rows: int = 500,
    standardise: bool = True,
    seed: int = 0,
) -> float:
    r"""PARC: whether pairs of examples that differ in label differ in their features.

    Spearman correlation, over all pairs of examples, of 1 - Pearson(f_i, f_j) with the same of
    their one-hot labels, which is one number for pairs of one class and another for all others.

    Parameters
    ----------
    features
        n × d.
    labels
        n class ids.
    rows
        Draw at most so many examples; pairs grow with the square.
    standardise
        Bring every feature to mean 0 and variance 1 first, as released.
    seed
        Of the draw.

    Returns
    -------
    From -1 to 1; NaN where all pairs are alike in features or, in the draw, in labels.

    References
    ----------
    Bolya, Mittapalli and Hoffman 2021, "Scalable Diverse Model Selection for Accessible Transfer
    Learning", NeurIPS.
    """
    from scipy.stats import rankdata

    f, y = checked(features, labels)
    codes = class_codes(y)
    if len(f) > rows:
        chosen = np.sort(np.random.default_rng(seed).choice(len(f), rows, replace=False))
        f, codes = f[chosen], codes[chosen]
    if standardise:
        deviation = f.std(0)
        f = (f - f.mean(0)) / np.where(deviation > 0, deviation, 1.0)
    f = f - f.mean(1, keepdims=True)
    norm = np.linalg.norm(f, axis=1, keepdims=True)
    if not norm.all():
        return math.nan
    f = f / norm
    i, j = np.triu_indices(len(f), 1)
    return correlation(rankdata(1 - (f @ f.T)[i, j]), (codes[i] != codes[j]).astype(np.float64))


def knn(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    k: int = 3,
    metric: Literal["euclidean", "cosine"] = "euclidean",
) -> float:
    """Leave-one-out k nearest neighbours: how well an example's neighbours tell its label.

    Classes: micro-F1, which with one label per example is the accuracy of the majority of the k
    neighbours; among classes with equally many, that of the nearest. Regression: Pearson
    correlation of the label with the mean of its neighbours' labels.

    Parameters
    ----------
    features
        n × d.
    labels
        n class ids or floats.
    k
        Neighbours, at most n - 1.
    metric
        Distance between features.

    Returns
    -------
    From 0 to 1 for classes, from -1 to 1 for regression; NaN where all predictions are equal.

    References
    ----------
    Puigcerver et al. 2021, "Scalable Transfer Learning with Expert Models", ICLR; as
    the package transformer-ranker computes it.
    """
    from sklearn.neighbors import NearestNeighbors

    f, y = checked(features, labels)
    regression = has_values(y)
    if metric == "cosine":
        f = f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-300)
    else:
        f = f - f.mean(0)  # distances stay, cancellation shrinks
    k = min(k, len(f) - 1)
    # Of unit rows the nearest in space are the nearest in angle. No row is its own neighbour.
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(f)
    near = search.kneighbors(return_distance=False)
    if regression:
        return correlation(y[near].mean(1), y)
    codes = class_codes(y)
    votes = np.zeros((len(f), int(codes.max()) + 1))
    for j in range(k):
        # A nearer vote outweighs all farther ones among classes with equally many.
        votes[np.arange(len(f)), codes[near[:, j]]] += 1 + 0.5 ** (j + 1)
    return float((votes.argmax(1) == codes).mean())
