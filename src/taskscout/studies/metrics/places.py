"""Places: where the best source was predicted, and how good the first ones are."""

from __future__ import annotations

from taskscout.studies.metrics.order import Array, Order, Truth


def rank_of_best(order: Order, truth: Truth) -> Array:
    """Place at which the truly best source was predicted; 1 is best."""
    return order.first_place(truth.is_best)


def rank_of_pick(order: Order, truth: Truth) -> Array:
    """Tell the true place of the first source: 1 + number of sources that did better."""
    return order.mean_of_top(truth.places, 1)


def hit_rate(order: Order, truth: Truth, k: int) -> Array:
    """100 where the truly best source is among the first k, else 0."""
    return 100.0 * order.any_in_top(truth.is_best, k)


def top_mean(order: Order, truth: Truth, k: int) -> Array:
    """Mean true score of the first k sources, in points."""
    return order.mean_of_top(truth.scores, k)
