r"""Transferability scores of frozen features and predictions: arrays in, numbers out.

Every function takes what some source makes of the target's n examples (features, n × d, or
probabilities of the source's own classes, n × Z) and the target's labels, and returns one number,
higher for a source that suits the target better. LogME has a module of its own,
:mod:`taskscout.methods.evidence`.

Labels are integers or booleans for classes (any distinct numbers; only classes that occur count)
and floats for regression. Nothing here reads or sets a global random state: where chance plays a
part there is a ``seed``, and a result then depends on the order of the rows, which callers fix.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskscout.errors import DataError
from taskscout.methods.evidence import label_columns

Array = NDArray[np.float64]

#: Eigenvalues below this share of the largest count as zero.
_RANK_TOLERANCE = 1e-12
#: No class is taken to vary less than this share of the mean variance of a feature.
_LEAST_VARIANCE = 1e-4


def _features(features: ArrayLike, labels: ArrayLike) -> tuple[Array, NDArray[Any]]:
    """Check that there are n rows of finite features for n labels."""
    f, y = np.asarray(features, np.float64), _numbers(labels)
    if f.ndim != 2 or y.ndim != 1 or len(f) != len(y) or not len(f):
        raise DataError(
            f"Features have shape {f.shape}, labels {y.shape}.",
            "A score needs n × d features and n labels.",
            "Give one row of features per label.",
        )
    if not np.isfinite(f).all():
        row = int(np.argwhere(~np.isfinite(f))[0, 0])
        raise DataError(
            f"Row {row} of the features is not finite.",
            "No score is defined for it.",
            "Drop the row or mend the features.",
        )
    return f, y


def _numbers(labels: ArrayLike) -> NDArray[Any]:
    """Labels as an array; false and true are the classes 0 and 1, no values."""
    y = np.asarray(labels)
    return y.astype(np.int64) if y.dtype == bool else y


def _classes(labels: ArrayLike) -> NDArray[np.int64]:
    """Number the classes that occur from 0; at least two, or an error."""
    y = _numbers(labels)
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(
            f"The labels are of type {y.dtype}.",
            "This score is defined for classes only, which are integers.",
            "Use a score that serves regression, such as LogME, kNN or a linear probe.",
        )
    label_columns(y)  # its errors are ours
    codes: NDArray[np.int64] = np.unique(y, return_inverse=True)[1].reshape(len(y))
    return codes


def _regression(labels: NDArray[Any]) -> bool:
    if np.issubdtype(labels.dtype, np.integer):
        return False
    label_columns(labels)
    return True


def _correlation(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Pearson correlation; NaN where one side is constant."""
    a, b = x - x.mean(), y - y.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0 else math.nan


def _mean_correlation(predicted: Array, labels: Array) -> float:
    """Mean of Pearson and Spearman correlation."""
    from scipy.stats import rankdata

    ranks = _correlation(rankdata(predicted), rankdata(labels))
    return (_correlation(predicted, labels) + ranks) / 2


# -- from predictions -------------------------------------------------------------------------


def softmax(logits: NDArray[np.floating[Any]]) -> Array:
    """Turn logits (n × Z) into probabilities, row by row."""
    z = np.asarray(logits, np.float64)
    e = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def leep(probabilities: ArrayLike, labels: ArrayLike) -> float:
    r"""LEEP: log expected empirical prediction.

    With theta_z(x) the probability that the source's head gives its own class z on x, and

        P(y, z) = (1/n) sum over rows with label y of theta_z(x_i),   P(y|z) = P(y, z) / P(z),

    the score is the mean log probability of the target's labels under the classifier that passes
    through the source's classes,

        (1/n) sum_i ln sum_z P(y_i|z) theta_z(x_i).

    Parameters
    ----------
    probabilities
        theta, n × Z; rows sum to 1.
    labels
        n class ids.

    Returns
    -------
    At most 0; minus the entropy of the labels where the predictions say nothing.

    References
    ----------
    Nguyen et al. 2020, "LEEP: A New Measure to Evaluate Transferability of Learned
    Representations", ICML.
    """
    theta, y = _features(probabilities, labels)
    if theta.min() < 0 or np.abs(theta.sum(1) - 1).max() > 1e-3:
        raise DataError(
            "The rows of the probabilities are not distributions.",
            f"They sum to {theta.sum(1).min():.3g} and up, the least entry is {theta.min():.3g}.",
            "Give the softmax of the source's logits.",
        )
    codes = _classes(y)
    joint = np.zeros((codes.max() + 1, theta.shape[1]))
    np.add.at(joint, codes, theta)
    total = joint.sum(0)
    conditional = joint / np.where(total > 0, total, 1.0)
    return float(np.log((conditional[codes] * theta).sum(1)).mean())


def nce(predictions: ArrayLike, labels: ArrayLike) -> float:
    r"""NCE: negative conditional entropy of the labels given the source's predicted classes.

        -H(Y|Z) = (1/n) sum_yz n_yz ln(n_yz / n_z)

    Parameters
    ----------
    predictions
        The class Z that the source's head predicts for each row, n integers.
    labels
        n class ids.

    Returns
    -------
    At most 0, which is reached where the predictions tell the labels.

    References
    ----------
    Tran, Nguyen and Hassner 2019, "Transferability and Hardness of Supervised Classification
    Tasks", ICCV.
    """
    z = np.unique(np.asarray(predictions), return_inverse=True)[1]
    codes = _classes(labels)
    if z.shape != codes.shape:
        raise DataError(
            f"Predictions have shape {z.shape}, labels {codes.shape}.",
            "NCE needs one predicted class per label.",
            "Give the class ids that the source's head predicts.",
        )
    counts = np.zeros((codes.max() + 1, z.max() + 1))
    np.add.at(counts, (codes, z), 1.0)
    share = counts / counts.sum(0)
    return float((counts * np.log(np.where(counts > 0, share, 1.0))).sum() / len(codes))


def nleep(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    components: int = 5,
    energy: float = 0.8,
    covariance: Literal["full", "tied", "diag", "spherical"] = "full",
    seed: int = 0,
) -> float:
    """NLEEP: LEEP with the source's classes replaced by the components of a Gaussian mixture.

    The features are reduced by PCA to the dimensions that hold ``energy`` of their variance and
    scaled to a mean variance of 1; a Gaussian mixture is fitted to them without labels; its
    posteriors are the probabilities that :func:`leep` reads.

    Parameters
    ----------
    features
        n × d.
    labels
        n class ids.
    components
        Components of the mixture per class. No more than one per 10 rows are taken, but one
        per class at least.
    energy
        Share of the variance kept, in (0, 1).
    covariance
        Of a component, as :class:`sklearn.mixture.GaussianMixture` names it.
    seed
        Of the mixture's start.

    Returns
    -------
    At most 0.

    References
    ----------
    Li et al. 2021, "Ranking Neural Checkpoints", CVPR.
    """
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    f, y = _features(features, labels)
    n_classes = int(_classes(y).max()) + 1
    if not np.ptp(f, axis=0).any():
        return math.nan
    reduced = PCA(energy, svd_solver="full").fit_transform(f)
    reduced = reduced / math.sqrt(float(reduced.var(0).mean()))
    count = min(max(n_classes, min(components * n_classes, len(f) // 10)), len(f))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture = GaussianMixture(count, covariance_type=covariance, random_state=seed)
        posteriors = mixture.fit(reduced).predict_proba(reduced)
    return leep(posteriors, y)


# -- from moments -----------------------------------------------------------------------------


def _class_sums(f: Array, codes: NDArray[np.int64]) -> Array:
    """Class sums over the square root of class counts, d × C: M M' / n is their covariance."""
    counts = np.bincount(codes)
    sums = np.zeros((len(counts), f.shape[1]))
    np.add.at(sums, codes, f)
    return np.asarray((sums / np.sqrt(counts)[:, None]).T)


def _ledoit_wolf(n: int, d: int, trace: Array, square: Array, quartic: Array) -> Array:
    """Shrinkage of Ledoit and Wolf 2004 from tr X'X, |X'X|² and the sum of |x|⁴, X centred."""
    mean = trace / (n * d)
    dispersion = square / n**2
    beta = (quartic / n - dispersion) / (d * n)
    delta = (dispersion - d * mean**2) / d
    beta = np.clip(beta, 0.0, delta)
    return np.asarray(np.where(beta > 0, beta / np.where(delta > 0, delta, 1.0), 0.0))


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
    from scipy.linalg import cho_factor, cho_solve

    f, y = _features(features, labels)
    codes = _classes(y)
    n, d = f.shape
    f = f - f.mean(0)
    k, m = f.T @ f, _class_sums(f, codes)
    a = 0.0
    if shrinkage is not None:
        quartic = ((f**2).sum(1) ** 2).sum()
        a = float(_ledoit_wolf(n, d, np.trace(k), (k**2).sum(), quartic))
    if a == 0.0:
        inverse = np.linalg.pinv(k, rcond=_RANK_TOLERANCE, hermitian=True)
        unregularised = float(np.einsum("ic,ij,jc->", m, inverse, m))
        return unregularised if shrinkage is None else unregularised * n / (n - 1)
    shrunk = (1 - a) * k / n + a * float(np.trace(k)) / (n * d) * np.eye(d)
    return float((1 - a) * (m * cho_solve(cho_factor(shrunk), m)).sum() / (n - 1))


class _LowRankGram:
    """K = W F'F W' for maps W = s I + V U', as s² G + Z S Z' in the eigenvectors of G = F'F.

    Z = [V, G U] (d × 2r) and S = [[U'G U, s I], [s I, 0]]; ``base`` is s² times the eigenvalues
    of G, ``c`` is W ``cross``, ``trace`` tr K.
    """

    def __init__(self, f: Array, cross: Array, scale: Array, inner: Array, outer: Array) -> None:
        g, q = np.linalg.eigh(f.T @ f)
        g = np.maximum(g, 0.0)
        u, v = q.T @ inner, q.T @ outer
        r = inner.shape[2]
        gu = g[:, None] * u
        self.z = np.concatenate([v, gu], axis=2)
        self.s = np.zeros((len(scale), 2 * r, 2 * r))
        self.s[:, :r, :r] = u.transpose(0, 2, 1) @ gu
        identity = scale[:, None, None] * np.eye(r)
        self.s[:, :r, r:] = identity
        self.s[:, r:, :r] = identity
        self.base = scale[:, None] ** 2 * g
        self.c = scale[:, None, None] * (q.T @ cross) + v @ (inner.transpose(0, 2, 1) @ cross)
        inside = np.matmul(self.z.transpose(0, 2, 1), self.z)
        self.trace = self.base.sum(1) + np.einsum("bij,bji->b", self.s, inside)


def h_scores_of_maps(
    features: ArrayLike,
    labels: ArrayLike,
    scale: Array,
    inner: NDArray[Any],
    outer: NDArray[Any],
) -> Array:
    """Regularised H-scores of B linear maps f -> s f + V U'f + b of a target's features.

    All that Ledoit and Wolf's shrinkage asks of the mapped features X is tr X'X, |X'X|² and the
    sum of |x|⁴; the rest is a resolvent of X'X, a low-rank update of the features' own. No n × d
    or d × d matrix is formed per source.

    Parameters
    ----------
    features, labels
        As in :func:`h_score`.
    scale
        s, B.
    inner, outer
        U and V, B × d × r each. Offsets have no effect.

    Returns
    -------
    B scores, each equal to :func:`h_score` on the mapped features.
    """
    f, y = _features(features, labels)
    codes = _classes(y)
    n, d = f.shape
    f = f - f.mean(0)
    u, v = np.asarray(inner, np.float64), np.asarray(outer, np.float64)
    scale = np.asarray(scale, np.float64)
    low = _LowRankGram(f, _class_sums(f, codes), scale, u, v)
    fu, fv = f @ u, f @ v
    norms = scale[:, None] ** 2 * (f**2).sum(1)
    norms = norms + 2 * scale[:, None] * (fu * fv).sum(2)
    norms = norms + (fu @ (v.transpose(0, 2, 1) @ v) * fu).sum(2)
    zt = low.z.transpose(0, 2, 1)
    szz = low.s @ (zt @ low.z)
    square = (low.base**2).sum(1) + np.einsum("bij,bji->b", szz, szz)
    square += 2 * np.einsum("bij,bji->b", low.s, zt @ (low.base[:, :, None] * low.z))
    a = _ledoit_wolf(n, d, low.trace, square, (norms**2).sum(1))
    out = np.empty(len(scale))
    for i in np.flatnonzero(a == 0.0):
        out[i] = h_score(scale[i] * f + (f @ u[i]) @ v[i].T, y)
    out[a == 1.0] = 0.0
    rows = np.flatnonzero((a > 0.0) & (a < 1.0))
    if len(rows):
        t = (a * low.trace / (d * (1 - a)))[rows, None, None]
        c = low.c[rows]
        dz = low.z[rows] / (low.base[rows][:, :, None] + t)
        dc = c / (low.base[rows][:, :, None] + t)
        m = zt[rows] @ dz
        zc = zt[rows] @ dc
        h = np.linalg.solve(np.eye(m.shape[-1]) + low.s[rows] @ m, low.s[rows] @ zc)
        out[rows] = ((c * dc).sum((1, 2)) - (zc * h).sum((1, 2))) * n / (n - 1)
    return out


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
    f, y = _features(features, labels)
    codes = _classes(equal_bins(y, bins) if _regression(y) else y)
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
    f, y = _features(features, labels)
    codes = _classes(y)
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


# -- from neighbours --------------------------------------------------------------------------


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

    f, y = _features(features, labels)
    codes = _classes(y)
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
    return _correlation(rankdata(1 - (f @ f.T)[i, j]), (codes[i] != codes[j]).astype(np.float64))


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
    f, y = _features(features, labels)
    regression = _regression(y)
    if metric == "cosine":
        f = f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-300)
    else:
        f = f - f.mean(0)  # distances stay, cancellation shrinks
    square = (f**2).sum(1)
    distance = square[:, None] + square - 2 * (f @ f.T)
    np.fill_diagonal(distance, np.inf)
    k = min(k, len(f) - 1)
    near = np.argpartition(distance, k - 1, axis=1)[:, :k]
    near.sort(axis=1)
    order = np.argsort(np.take_along_axis(distance, near, 1), axis=1, kind="stable")
    near = np.take_along_axis(near, order, 1)
    if regression:
        return _correlation(y[near].mean(1), y)
    codes = _classes(y)
    votes = np.zeros((len(f), int(codes.max()) + 1))
    for j in range(k):
        # A nearer vote outweighs all farther ones among classes with equally many.
        votes[np.arange(len(f)), codes[near[:, j]]] += 1 + 0.5 ** (j + 1)
    return float((votes.argmax(1) == codes).mean())


# -- from a trained head ----------------------------------------------------------------------


def linear_probe(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    folds: int = 5,
    strength: float = 1.0,
    seed: int = 0,
) -> float:
    """Cross-validated score of a linear head on frozen features.

    Features are standardised within each training fold. Classes: logistic regression, the
    accuracy of its out-of-fold predictions over all rows. Regression: ridge, its strength chosen
    within the training fold, the mean of Pearson and Spearman correlation of out-of-fold
    predictions and labels.

    Parameters
    ----------
    features
        n × d.
    labels
        n class ids or floats.
    folds
        Of the cross-validation, stratified by class; no more than the largest class has rows.
    strength
        L2 penalty of the logistic regression (1 / C).
    seed
        Of the shuffle before rows are dealt to folds.

    Returns
    -------
    From 0 to 1, or from -1 to 1; NaN where a training fold could hold a single class, or where
    all predictions are equal.

    References
    ----------
    A standard probe; as a selector in Poth et al. 2021 and, trained by gradient, in Schulte et
    al. 2024 (:func:`frozen_transfer`).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    f, y = _features(features, labels)
    regression = _regression(y)
    folds = min(folds, len(f))
    if folds < 2:
        return math.nan
    if regression:
        head: Any = RidgeCV(np.logspace(0, 6, 13))
        split: Any = KFold(folds, shuffle=True, random_state=seed)
    else:
        y = _classes(y)
        counts = np.bincount(y)
        if (counts > 1).sum() < 2:
            return math.nan
        folds = min(folds, int(counts.max()))
        head = LogisticRegression(C=1 / strength, max_iter=200)
        split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The least populated class")
        predicted = cross_val_predict(make_pipeline(StandardScaler(), head), f, y, cv=split)
    return _mean_correlation(predicted, y) if regression else float((predicted == y).mean())


def frozen_transfer(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    epochs: int = 3,
    batch_size: int = 32,
    learning_rate: float = 2e-5,
    weight_decay: float = 0.01,
    dropout: float = 0.1,
    held_out: float = 0.2,
    seed: int = 0,
) -> float:
    """Validation score of a fresh head trained for a few epochs on the frozen encoder.

    The released recipe: a linear head drawn from N(0, 0.02²), dropout before it, AdamW with a
    linear decay to 0 and no warm-up, gradients clipped at norm 1. At its learning rate of 2e-5 a
    head hardly leaves where it began, so the score is more that of a random projection than of
    the features; 1e-2 trains one.

    Parameters
    ----------
    features
        n × d, of the frozen encoder.
    labels
        n class ids or floats, which are standardised.
    epochs, batch_size, learning_rate, weight_decay, dropout
        Of the training.
    held_out
        Share of the rows the head is scored on, spread over classes or values.
    seed
        Of the held-out rows, the head, the order of rows and the dropout: the same for every
        source.

    Returns
    -------
    Accuracy, or the mean of Pearson and Spearman correlation.

    References
    ----------
    Schulte et al. 2024 (arXiv 2410.15148), "frozen transfer".
    """
    import torch

    f, y = _features(features, labels)
    regression = _regression(y)
    if not regression:
        y = _classes(y)
    train, validation = _hold_out(y, held_out, regression=regression, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(f.astype(np.float32))
    if regression:
        scale = max(float(y[train].std()), 1e-12)
        wanted = torch.from_numpy(((y - y[train].mean()) / scale).astype(np.float32))
    else:
        wanted = torch.from_numpy(y)
    outputs = 1 if regression else int(y.max()) + 1
    weight = torch.empty(outputs, x.shape[1]).normal_(0.0, 0.02, generator=generator)
    weight, bias = weight.requires_grad_(), torch.zeros(outputs, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=learning_rate, weight_decay=weight_decay)
    steps = epochs * -(-len(train) // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    rows = torch.from_numpy(train)
    for _ in range(epochs):
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(batch_size):
            kept = torch.rand(len(batch), x.shape[1], generator=generator) >= dropout
            logits = (x[batch] * kept / (1 - dropout)) @ weight.T + bias
            if regression:
                loss = torch.nn.functional.mse_loss(logits[:, 0], wanted[batch])
            else:
                loss = torch.nn.functional.cross_entropy(logits, wanted[batch])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([weight, bias], 1.0)
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        out = (x[torch.from_numpy(validation)] @ weight.T + bias).numpy().astype(np.float64)
    if regression:
        return _mean_correlation(out[:, 0], y[validation])
    return float((out.argmax(1) == y[validation]).mean())


def _hold_out(
    labels: NDArray[Any], share: float, *, regression: bool, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split row numbers into training and held-out ones, every k-th of the rows by label."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    key = labels[shuffled]
    if not regression:
        # Classes in the order in which they come up, so that their numbers play no part.
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        key = first[inverse]
    ordered = shuffled[np.argsort(key, kind="stable")]
    every = max(2, round(1 / share))
    held = np.zeros(len(labels), bool)
    held[every // 2 :: every] = True
    if not held.any():
        held[-1] = True
    return np.sort(ordered[~held]), np.sort(ordered[held])
