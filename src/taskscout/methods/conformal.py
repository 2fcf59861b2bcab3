"""Conformal prediction for forecasts: intervals that hold for a target nobody has trained on.

Gains on one target are not independent of each other: a hard target is hard for every source. So
the exchangeable unit is the target, not the cell, and a calibration by pooled cells is too sure.
With K targets and the residuals of N_k sources on target k, a new target's residual is given the
distribution

    Σ_k Σ_i 1 / ((K + 1) N_k) δ(r_ki)  +  1 / (K + 1) δ(∞)

(hierarchical conformal prediction: Lee, Barber and Willett 2023, arXiv 2306.06342, section 3.1):
each target weighs the same however many sources it has, and the new target itself may be anything.
With one residual per target that is ordinary split conformal prediction, whose quantile is the
ceil((K + 1) level)-th smallest of K residuals (Vovk et al. 2005; Lei et al. 2018): that is how
the residuals of *picks* are used, one per target, chosen as the forecast chooses.

Residuals here are of forecasts that did not see their target ("leave one target out"), so what is
proven for a separate calibration set holds nearly, not exactly; ``benchmarks.forecast`` measures
what is covered.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def target_weights(targets: NDArray[np.int64]) -> Array:
    """Weigh residuals so that each target counts 1 / (K + 1); the rest of 1 is the new target's.

    Parameters
    ----------
    targets
        The target that each residual belongs to, as a number.
    """
    _, index, sizes = np.unique(targets, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / ((len(sizes) + 1) * sizes[index]))


def weighted_quantile(values: Array, weights: Array, level: float) -> float:
    """Find the smallest value below or at which the weights sum to the level; else infinity.

    Parameters
    ----------
    values, weights
        One of each per residual; what the weights lack of 1 lies at infinity.
    level
        Between 0 and 1.
    """
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    # Sums of a hundred weights miss the level by rounding.
    place = int(np.searchsorted(reached, level - 1e-9))
    return float(values[order[place]]) if place < len(values) else float("inf")


def half_width(residuals: Array, targets: NDArray[np.int64], level: float) -> float:
    """Distance from the forecast that covers a share of a new target's results.

    Parameters
    ----------
    residuals
        Result minus forecast, in whatever unit (points, or predicted standard deviations).
    targets
        The target that each belongs to.
    level
        Share to be covered, such as 0.8.

    Returns
    -------
    The distance; infinite where there are too few targets for the level, fewer than
    level / (1 - level).
    """
    return weighted_quantile(np.abs(residuals), target_weights(targets), level)


def chance_above(thresholds: Array, residuals: Array, targets: NDArray[np.int64]) -> Array:
    """Probability that a new residual exceeds each threshold.

    The conformal predictive distribution (Vovk et al. 2017, "Nonparametric predictive
    distributions"), each target weighing 1 / (K + 1); the new target's own share and ties count
    half.

    Parameters
    ----------
    thresholds
        Of any number; a gain is above 0 where the residual is above minus the forecast.
    residuals, targets
        As for :func:`half_width`.
    """
    weights = target_weights(targets)
    order = np.argsort(residuals, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(weights[order])])
    left = below[np.searchsorted(residuals[order], thresholds, side="left")]
    right = below[np.searchsorted(residuals[order], thresholds, side="right")]
    total = below[-1]
    return np.asarray(total - (left + right) / 2 + (1.0 - total) / 2)
