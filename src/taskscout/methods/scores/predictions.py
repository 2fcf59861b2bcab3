"""Scores of what a source predicts for the target's rows: its own classes, or clusters."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from taskscout.errors import DataError
from taskscout.methods.scores.inputs import checked, class_codes


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
    theta, y = checked(probabilities, labels)
    if theta.min() < 0 or np.abs(theta.sum(1) - 1).max() > 1e-3:
        raise DataError(
            "The rows of the probabilities are not distributions.",
            f"They sum to {theta.sum(1).min():.3g} and up, the least entry is {theta.min():.3g}.",
            "Give the softmax of the source's logits.",
        )
    codes = class_codes(y)
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
    codes = class_codes(labels)
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

    f, y = checked(features, labels)
    n_classes = int(class_codes(y).max()) + 1
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
