"""Normalised discounted cumulative gain, with three kinds of gain."""

from __future__ import annotations

from typing import Literal

import numpy as np

from taskscout.studies.metrics.order import Array, Order, Truth

Gain = Literal["percent", "rank", "none"]


def ndcg(order: Order, truth: Truth, *, gain: Gain = "rank") -> Array:
    """Normalised discounted cumulative gain of the whole order, at most 1.

    DCG = sum over places i from 1 of gain_i / log2(i + 1); nDCG = DCG / DCG of the true order.
    No cut-off.

    Parameters
    ----------
    order, truth
        Predicted and true, targets × sources.
    gain
        ``rank``: 2^(N - place) - 1, place from 0 in the true order of N sources (Kim et al.
        2023); each place halves it, so the first two or three sources decide, and a random order
        of 21 gets about 0.45. ``percent``: 2^score - 1, score in percent (Lin et al. 2024,
        Schulte et al. 2024). ``none``: the gain in points over training on the target alone, 0
        where there is none; NaN for a target that no source helps.
    """
    relevance = _relevance(truth, gain)
    discount = 1.0 / np.log2(np.arange(relevance.shape[-1]) + 2.0)
    total = np.concatenate([[0.0], np.cumsum(discount)])
    shared = (total[order.end] - total[order.start]) / (order.end - order.start)
    dcg = (order.sort(relevance) * shared).sum(-1)
    ideal = (-np.sort(-relevance, axis=-1) * discount).sum(-1)
    unknown = np.isnan(relevance).any(-1) | ~(ideal > 0) | ~order.applies
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(unknown, np.nan, dcg / ideal)


def _relevance(truth: Truth, gain: Gain) -> Array:
    """Gains of the sources for nDCG, scaled by a constant per target; 0 for no candidate."""
    if gain == "rank":
        # (2^(N - place) - 1) / 2^N, so that no N overflows.
        order, n = truth.order, truth.scores.shape[-1]
        total = np.concatenate([[0.0], np.cumsum(0.5 ** np.arange(n))])
        mean = (total[order.end] - total[order.start]) / (order.end - order.start)
        out = np.empty(truth.scores.shape)
        np.put_along_axis(out, order.index, mean - 0.5 ** order.n[..., None], -1)
    elif gain == "percent":
        best = np.nan_to_num(truth.best)[..., None]
        out = 2.0 ** (np.where(truth.candidates, truth.scores, 0.0) - best) - 2.0**-best
    else:
        out = np.maximum(truth.gain, 0.0)
    return np.where(truth.candidates, out, 0.0)
