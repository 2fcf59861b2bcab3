"""How far a grid can be trusted, and what choosing could reach: the honest oracle.

All of it follows from the seeds: how well they agree, how much a score would move if it were run
again, and what the source that other seeds call the best gives under a seed that did not choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from taskscout.methods.gains import Gains
from taskscout.studies.metrics import get_metric, measure

Array = NDArray[np.float64]


def honest_oracle(names: Iterable[str], gains: Gains) -> dict[str, Array]:
    """Choose by all seeds but one, score on the one left out.

    The best of noisy scores is better than it will be again: a grid's own maximum is no measure
    of what choosing could bring (the winner's curse). Here the seeds that choose are never those
    that score. So this is what a method can be asked to reach that knew as much of this grid's
    transfers as its other seeds tell. A method that beats it knows more than these.

    Only for metrics that are weighted means of true scores (:attr:`Metric.linear
    <taskscout.studies.metrics.names.Metric>`, such as ``pick-gain``). The others move with the
    noise of the truth itself, which one left-out seed has more of than the mean that methods are
    held against; for correlations see :func:`reliability`.

    Parameters
    ----------
    names
        Names of metrics; those that are not linear are passed over.
    gains
        The grid.

    Returns
    -------
    By metric, seeds left out × targets; NaN where that seed has no run. Empty with one seed.
    """
    linear = [n for n in names if get_metric(n).linear]
    places = range(len(gains.seed_names))
    if len(places) < 2 or not linear:
        return {}
    by_seed: dict[str, list[Array]] = {n: [] for n in linear}
    for left_out in places:
        others = gains.with_seeds([k for k in places if k != left_out])
        truth = gains.with_seeds([left_out])
        predicted, scores = others.mean_scores.T, truth.mean_scores.T
        scores = np.where(np.isnan(predicted), np.nan, scores)
        values = measure(linear, predicted, scores, truth.mean_alone, none=others.mean_alone)
        for name in linear:
            by_seed[name].append(values[name])
    return {n: np.stack(values) for n, values in by_seed.items()}


@dataclass(frozen=True)
class Reliability:
    """How well the seeds of a grid agree on the order of sources.

    Attributes
    ----------
    between_seeds
        Spearman correlation of the sources' scores under two seeds, mean over targets and pairs
        of seeds; NaN with one seed.
    seeds
        How many the grid has.
    """

    between_seeds: float
    seeds: int

    @property
    def of_the_mean(self) -> float:
        """Expected correlation of the mean of all seeds with another such mean.

        K r / (1 + (K - 1) r) for K seeds (Spearman 1910, Brown 1910).
        """
        k, r = self.seeds, self.between_seeds
        return k * r / (1 + (k - 1) * r)

    @property
    def attainable(self) -> float:
        """Highest correlation with the mean of all seeds that any method can be expected to have.

        The root of the reliability: what the true gains themselves would have.
        """
        return math.sqrt(self.of_the_mean) if self.of_the_mean >= 0 else math.nan


def reliability(gains: Gains) -> Reliability:
    """Measure how well the seeds of a grid agree on the order of sources."""
    from scipy.stats import spearmanr

    agreements = []
    for j in range(len(gains.targets)):
        for a, b in combinations(gains.scores[:, j].T, 2):
            both = ~np.isnan(a) & ~np.isnan(b)
            if both.sum() > 2 and np.ptp(a[both]) > 0 and np.ptp(b[both]) > 0:
                agreements.append(float(spearmanr(a[both], b[both])[0]))
    mean = float(np.mean(agreements)) if agreements else math.nan
    return Reliability(mean, len(gains.seed_names))


def standard_errors(gains: Gains) -> Array | None:
    """Standard error of each mean score over seeds, in points, targets × sources.

    A target's runs share one variance, pooled over its sources after what a seed adds to all of
    them is taken off: only that tells two sources of a target apart.

    Returns
    -------
    None where no pair has two seeds.
    """
    variance = run_variance(gains.scores)
    if np.isnan(variance).all():
        return None
    runs = (~np.isnan(gains.scores)).sum(2)
    with np.errstate(divide="ignore"):
        return np.asarray(np.sqrt(np.where(runs > 0, variance / runs, np.nan)).T)


def run_variance(scores: Array) -> Array:
    """Variance of single runs about source and seed, per target, in squared points.

    Half the variance over seeds of the difference of two sources, averaged over the pairs of
    sources with the degrees of freedom as weights: unbiased, also with missing runs. In a whole
    table it is the residual mean square of sources × seeds.

    Parameters
    ----------
    scores
        Sources × targets × seeds; NaN where there is no run.

    Returns
    -------
    One per target; NaN where no two sources share two seeds.
    """
    return mean_over_pairs(scores, _half_variance_of_differences)


def mean_over_pairs(scores: Array, of_columns: Callable[[Array], tuple[Array, Array]]) -> Array:
    """Mean over the pairs of sources of a number from their seeds, per target.

    Parameters
    ----------
    scores
        Sources × targets × seeds; NaN where there is no run.
    of_columns
        Of seeds × sources: the number for each pair of columns, and how many rows both have. The
        pairs weigh by these rows less one.

    Returns
    -------
    One per target; NaN where no two sources share two seeds.
    """
    out = np.full(scores.shape[1], np.nan)
    for j in range(scores.shape[1]):
        values, n = of_columns(scores[:, j].T)
        pairs = ~np.eye(len(n), dtype=bool) & (n > 1)
        if pairs.any():
            out[j] = np.average(values[pairs], weights=n[pairs] - 1)
    return out


def _half_variance_of_differences(rows: Array) -> tuple[Array, Array]:
    """Half the variance of the difference of two columns over the rows both have; and how many."""
    known = ~np.isnan(rows)
    values, ones = np.where(known, rows, 0.0), known.astype(np.float64)
    n = ones.T @ ones
    squares, total = (values**2).T @ ones, values.T @ ones
    square, difference = squares + squares.T - 2 * values.T @ values, total - total.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return (square - difference**2 / n) / (n - 1) / 2, n
