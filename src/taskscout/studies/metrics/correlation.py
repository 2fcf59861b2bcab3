"""Correlations of predicted and true scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskscout.studies.metrics.order import Array, Order, Truth


def spearman(order: Order, truth: Truth) -> Array:
    """Spearman's rank correlation with the true scores, mid-ranks for ties.

    0 where the prediction is constant; NaN where the truth is, or with fewer than two candidates.
    """
    return _correlation(order, -order.ranks, -truth.by_score.ranks, truth.candidates)


def pearson(order: Order, truth: Truth) -> Array:
    """Pearson's correlation of predicted and true scores, over the sources that are scored.

    0 where the prediction is constant; NaN where the truth is, or with fewer than two such
    sources. The one metric that is not about order alone.
    """
    known = order.scored & truth.candidates
    return _correlation(order, order.predicted, truth.scores, known)


def _correlation(order: Order, x: Array, y: Array, known: NDArray[np.bool_]) -> Array:
    """Correlate rows over the known columns."""
    n = np.maximum(known.sum(-1), 1)[..., None]

    def centred(values: Array) -> Array:
        values = np.where(known, values, 0.0)
        out = np.where(known, values - values.sum(-1, keepdims=True) / n, 0.0)
        # What is left of a constant after rounding is no variation.
        small = 1e-12 * np.abs(values).max(-1, initial=0.0, keepdims=True)
        return np.where(np.abs(out).max(-1, initial=0.0, keepdims=True) > small, out, 0.0)

    a, b = centred(x), centred(y)
    size = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    out = np.where(size > 0, (a * b).sum(-1) / np.where(size > 0, size, 1.0), 0.0)
    return np.where((b != 0).any(-1) & order.applies, out, np.nan)
