"""Scores of how far the target's classes lie apart in a source's features: by their moments."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskscout.methods.scores.inputs import Array, checked, class_codes, has_values

#: Eigenvalues below this share of the largest count as zero.
_RANK_TOLERANCE = 1e-12
#: No class is taken to vary less than this share of the mean variance of a feature.
_LEAST_VARIANCE = 1e-4


def class_sums(f: Array, codes: NDArray[np.int64]) -> Array:
    """Class sums over the square root of class counts, d × C: M M' / n is their covariance."""
    counts = np.bincount(codes)
    sums = np.zeros((len(counts), f.shape[1]))
    np.add.at(sums, codes, f)
    return np.asarray((sums / np.sqrt(counts)[:, None]).T)


def h_score(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    shrinkage: Literal["ledoit-wolf"] | None = "ledoit-wolf",
) -> float:
    r"""H-score: how much of the features' variance lies between the classes, redundancy removed.

        tr( cov(f)^-1 cov(E[f|y]) )

    and, regularised, with a the shrinkage of Ledoit and Wolf and mu the mean variance of a
    feature,

        tr( ((1 - a) cov(f) + a mu I)^-1 (1 - a) cov(E[f|y]) ).

    cov(E[f|y]) weights classes by their counts and has the divisor n - 1; so has cov(f) in the
    first formula, and n in the second, both as released.

    Parameters
    ----------
    features
        n × d.
    labels
        n class ids.
    shrinkage
        None for the first formula, which with fewer rows than features is C - 1 for any
        features that tell all rows apart, whatever the labels.

    Returns
    -------
    From 0 to C - 1 (times n / (n - 1), regularised).

    References
    ----------
    Bao et al. 2019, "An Information-Theoretic Approach to Transferability in Task Transfer
    Learning", ICIP. Ibrahim, Ponomareva and Mazumder 2022, "Newer is not always better:
    Rethinking transferability metrics, their peculiarities, stability and performance", ECML
    PKDD.
    """
    f, y = checked(features, labels)
    codes = class_codes(y)
    f = f - f.mean(0)
    if shrinkage is None:
        covariance, a = f.T @ f / (len(f) - 1), 0.0
    else:
        from sklearn.covariance import ledoit_wolf

        covariance, a = ledoit_wolf(f, assume_centered=True)
    sums = class_sums(f, codes)
    if a > 0:
        weights = np.linalg.solve(covariance, sums)
    else:
        weights = np.linalg.pinv(covariance, rcond=_RANK_TOLERANCE, hermitian=True) @ sums
    return float((1 - a) * (sums * weights).sum() / (len(f) - 1))


def equal_bins(labels: ArrayLike, bins: int) -> NDArray[np.int64]:
    """Cut float labels into classes of equal counts; equal labels stay together."""
    y = np.asarray(labels, np.float64)
    edges = np.quantile(y, np.arange(1, bins) / bins)
    return np.searchsorted(edges, y, side="left")


def _coding_rate(f: Array, factor: float) -> float:
    """Half the log-determinant of I + factor F'F, by whichever side is smaller."""
    gram = f.T @ f if f.shape[0] > f.shape[1] else f @ f.T
    gram = factor * gram
    gram.flat[:: len(gram) + 1] += 1.0
    return float(np.log(np.diagonal(np.linalg.cholesky(gram))).sum())


def transrate(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    eps: float = 1e-4,
    unit_norm: bool = False,
    bins: int = 10,
) -> float:
    r"""TransRate: coding rate of all features less that within classes.

        R(F) - (1/C) sum_c R(F_c),    R(F) = 1/2 ln det(I + F'F / (n eps)),

    with the features centred once, over all rows; F_c are the n_c rows of class c, and n_c stands
    for n in their rate. It is an estimate of the mutual information of features and labels.

    Parameters
    ----------
    features
        n × d.
    labels
        n class ids; floats are cut into ``bins`` classes of equal counts.
    eps
        Distortion allowed in the code.
    unit_norm
        Scale the centred features to a root mean square norm of 1, without which the score
        follows the features' scale.
    bins
        Classes that regression labels are cut into.

    References
    ----------
    Huang et al. 2022, "Frustratingly Easy Transferability Estimation", ICML, with the listing's
    unweighted mean over classes.
    """
    f, y = checked(features, labels)
    codes = class_codes(equal_bins(y, bins) if has_values(y) else y)
    f = f - f.mean(0)
    if unit_norm:
        f = f / max(math.sqrt((f**2).sum() / len(f)), 1e-300)
    within = [_coding_rate(f[codes == c], 1 / ((codes == c).sum() * eps)) for c in np.unique(codes)]
    return _coding_rate(f, 1 / (len(f) * eps)) - sum(within) / len(within)


def gbc(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    covariance: Literal["spherical", "diagonal"] = "spherical",
    components: int | None = 64,
) -> float:
    r"""GBC: minus the overlap of the classes, each taken for a Gaussian.

        - sum over ordered pairs c != c' of exp(-D(c, c')),

        D = 1/8 (m_c - m_c')' S^-1 (m_c - m_c') + 1/2 ln( |S| / sqrt(|S_c| |S_c'|) ),

    D being the Bhattacharyya distance, S = (S_c + S_c') / 2, and S_c diagonal, or one variance
    times the identity.

    Parameters
    ----------
    features
        n × d.
    labels
        n class ids.
    covariance
        ``spherical``: one variance per class; ``diagonal``: one per class and feature. None is
        taken below 1e-4 of the mean variance of a feature.
    components
        Reduce the features to so many by PCA first; None leaves them.

    Returns
    -------
    At most 0.

    References
    ----------
    Pándy et al. 2022, "Transferability Estimation using Bhattacharyya Class Separability", CVPR.
    The released code counts the determinant of a spherical covariance as one variance instead of
    d; here it is the determinant.
    """
    f, y = checked(features, labels)
    codes = class_codes(y)
    f = f - f.mean(0)
    if components is not None and components < min(f.shape):
        _, vectors = np.linalg.eigh(f.T @ f)
        f = f @ vectors[:, ::-1][:, :components]
    d = f.shape[1]
    floor = _LEAST_VARIANCE * float((f**2).mean())
    if floor == 0:
        return math.nan
    n_classes = int(codes.max()) + 1
    mean = np.stack([f[codes == c].mean(0) for c in range(n_classes)])
    variance = np.maximum(np.stack([f[codes == c].var(0) for c in range(n_classes)]), floor)
    if covariance == "spherical":
        variance = np.repeat(variance.mean(1, keepdims=True), d, axis=1)
    logs = np.log(variance).sum(1)
    total = 0.0
    for c in range(n_classes - 1):
        both = (variance[c] + variance[c + 1 :]) / 2
        distance = ((mean[c] - mean[c + 1 :]) ** 2 / both).sum(1) / 8
        distance += (np.log(both).sum(1) - (logs[c] + logs[c + 1 :]) / 2) / 2
        total += 2 * float(np.exp(-distance).sum())
    return -total
