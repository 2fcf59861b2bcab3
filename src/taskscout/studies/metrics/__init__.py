"""How well predicted scores of sources fit what transfer really gave.

A metric compares, target by target, an *order* of the sources (what a method predicted) with the
*truth* (what training gave). Higher predictions come first. One convention holds throughout:

Ties
    Sources with equal predictions are taken in random order: a metric is its expected value over
    all orders of the tied sources, in closed form. So a method that says the same of all sources
    scores exactly what a random order scores on average, and that is how the random floor is
    computed (:func:`random_floor`). The three correlations use mid-ranks or plain values instead,
    as is usual, and are 0 where the prediction is constant. Ties in the truth: tied sources share
    the mean of their gains; any of several best sources counts as the best.

Missing cells
    A source without a true score (NaN) for a target is no candidate there, whatever was predicted.
    A candidate that the method does not score (NaN) comes after all that it scores, tied with
    the others it does not score. A target none of whose candidates is scored, or that has no
    candidate, gives NaN: the method does not apply to it.

Units
    True scores are points (0 to 100). Shares, rates and regrets are percent; nDCG and the
    correlations are fractions.

One file per family: ``ndcg``, ``regret``, ``places``, ``correlation``, ``pairs`` and ``picks``;
``order`` holds what they share, ``names`` finds them by name.
"""

from taskscout.studies.metrics.names import (
    DEFAULT_METRICS,
    Metric,
    get_metric,
    measure,
    random_floor,
)
from taskscout.studies.metrics.order import Order, Truth

__all__ = [
    "DEFAULT_METRICS",
    "Metric",
    "Order",
    "Truth",
    "get_metric",
    "measure",
    "random_floor",
]
