"""Regret: what is lost by training only the first few sources."""

from __future__ import annotations

from typing import Literal

import numpy as np

from taskscout.studies.metrics.order import Array, Order, Truth


def regret(
    order: Order,
    truth: Truth,
    k: int,
    *,
    how: Literal["best", "mean"] = "best",
    with_none: bool = False,
) -> Array:
    """What is lost by training only the first k sources, in percent of the reference.

    Regret = 100 (reference - reached) / reference; NaN where the reference is not above 0.

    Parameters
    ----------
    order, truth
        Predicted and true.
    k
        Sources that are trained.
    how
        ``best``: the best score of the k against the best of all (Poth et al. 2021, Lin et al.
        2024, Schulte et al. 2024). ``mean``: the mean score of the k against that of the true
        first k (Kim et al. 2023); slightly negative where the true order is not by score.
    with_none
        Training on the target alone counts for the reference, too: the reference is what could
        have been reached with or without a source.
    """
    if how == "best":
        reference, reached = truth.best, order.best_of_top(truth.scores, k)
    else:
        reference = truth.order.mean_of_top(truth.scores, k)
        reached = order.mean_of_top(truth.scores, k)
    if with_none:
        reference = np.maximum(reference, truth.alone)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = 100.0 * (reference - reached) / reference
    return np.where(reference > 0, out, np.nan)
