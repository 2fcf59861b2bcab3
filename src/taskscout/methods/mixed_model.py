"""A linear model whose weights come in groups, each shrunk as far as the data say.

    y = Φ w + e,    w_j ~ N(0, τ²_g(j)),    e_i ~ N(0, σ²)

The variances τ² (one per group of columns) and σ² are those under which the data are most likely
(empirical Bayes, "type II maximum likelihood"), found by expectation maximisation: given them, w
is Gaussian with precision A = diag(1/τ²) + ΦᵀΦ / σ² and mean m = A⁻¹ Φᵀy / σ²; given w,

    τ²_g = mean over j in g of (m_j² + (A⁻¹)_jj),
    σ²  = (|y - Φm|² + tr(A⁻¹ ΦᵀΦ)) / n

(Bishop 2006, *Pattern Recognition and Machine Learning*, section 9.3.4, with one precision per
group). A group with one column per source is each source's own effect: a mean of n runs is shrunk
by n / (n + σ²/τ²), as James and Stein's estimate is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Group of columns that are not shrunk: the intercept.
FREE = -1
#: Standard deviation that such a column's weight may have, in points: nothing holds it.
_FREE_DEVIATION = 100.0
#: No variance falls below this, so that a group which explains nothing can be inverted.
_LEAST = 1e-6


@dataclass(frozen=True, eq=False)
class MixedModel:
    """Weights as the data leave them.

    Attributes
    ----------
    mean, covariance
        Of the weights, q and q × q.
    prior
        Prior variance of each weight, q.
    residual
        Variance of what the model leaves.
    """

    mean: Array
    covariance: Array
    prior: Array
    residual: float


def _posterior(gram: Array, moment: Array, prior: Array, residual: float) -> tuple[Array, Array]:
    """Mean and covariance of the weights, given ΦᵀΦ, Φᵀy and the variances."""
    from scipy.linalg import cho_factor, cho_solve

    factor = cho_factor(gram / residual + np.diag(1.0 / prior), lower=True)
    covariance = cho_solve(factor, np.eye(len(prior)))
    return covariance @ moment / residual, covariance


def fit_mixed(
    design: Array,
    values: Array,
    groups: Sequence[int] | NDArray[np.int64],
    *,
    iterations: int = 300,
    tolerance: float = 1e-3,
) -> MixedModel:
    """Fit weights and the variances that shrink them.

    Parameters
    ----------
    design
        n rows × q columns.
    values
        What is explained, n.
    groups
        Group of each column, q; columns of one group share a variance, and those of :data:`FREE`
        are not shrunk.
    iterations, tolerance
        At most so many steps; fewer once no variance moves by more than this share.
    """
    of = np.asarray(groups, np.int64)
    shrunk = of != FREE
    names, index, sizes = np.unique(of[shrunk], return_inverse=True, return_counts=True)
    gram, moment, square = design.T @ design, design.T @ values, float(values @ values)
    residual = max(float(np.var(values)), _LEAST)
    variances = np.full(len(names), 0.1 * residual)
    prior = np.full(len(of), _FREE_DEVIATION**2)
    prior[shrunk] = variances[index]
    mean, covariance = _posterior(gram, moment, prior, residual)
    for _ in range(iterations):
        expected = mean**2 + np.diag(covariance)
        new = np.maximum(np.bincount(index, expected[shrunk], len(names)) / sizes, _LEAST)
        error = square - 2 * mean @ moment + mean @ gram @ mean + (covariance * gram).sum()
        new_residual = max(float(error) / len(values), _LEAST)
        moved = np.abs(np.log(np.append(new / variances, new_residual / residual))).max()
        variances, residual = new, new_residual
        prior[shrunk] = variances[index]
        mean, covariance = _posterior(gram, moment, prior, residual)
        if moved < tolerance:
            break
    return MixedModel(mean, covariance, prior, residual)


def refit(model: MixedModel, design: Array, values: Array) -> MixedModel:
    """Fit the weights to other rows, with the variances kept."""
    gram, moment = design.T @ design, design.T @ values
    return MixedModel(
        *_posterior(gram, moment, model.prior, model.residual), model.prior, model.residual
    )


def condition(
    mean: Array, variances: Array, columns: Array, at: Sequence[int], observed: Array, noise: Array
) -> tuple[Array, Array]:
    """Gaussian variables, once noisy values of some of them are known.

    With C the covariance's columns ``at`` and G = C (C_at + noise)⁻¹, the mean becomes
    m + G (observed - m_at) and the covariance loses G Cᵀ.

    Parameters
    ----------
    mean, variances
        Of n variables.
    columns
        Their covariances with the observed ones, n × k.
    at
        Places of the observed ones among the n.
    observed, noise
        Their values, k, and the covariance of their errors, k × k.

    Returns
    -------
    Means and variances afterwards.
    """
    from scipy.linalg import cho_factor, cho_solve

    places = list(at)
    gain = cho_solve(cho_factor(columns[places] + noise, lower=True), columns.T).T
    return mean + gain @ (observed - mean[places]), variances - (gain * columns).sum(1)
