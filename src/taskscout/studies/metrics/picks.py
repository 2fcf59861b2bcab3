"""What comes of following the first advice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskscout.studies.metrics.order import Array, Order, Truth


def pick_gain(order: Order, truth: Truth, *, or_none: bool = False) -> Array:
    """Gain of the first source over training on the target alone, in points.

    Parameters
    ----------
    order, truth
        Predicted and true.
    or_none
        Where the method scores "use no source" above every source, its choice is none, whose
        gain is 0.
    """
    return _of_pick(order, truth, truth.gain, or_none=or_none)


def win_rate(order: Order, truth: Truth) -> Array:
    """100 where the first source beats training on the target alone, else 0."""
    return _of_pick(order, truth, _flag(truth.gain > 0, truth), or_none=False)


def negative_rate(order: Order, truth: Truth, *, or_none: bool = False) -> Array:
    """100 where the first source does worse than training on the target alone, else 0.

    ``or_none`` as for :func:`pick_gain`.
    """
    return _of_pick(order, truth, _flag(truth.gain < 0, truth), or_none=or_none)


def _flag(what: NDArray[np.bool_], truth: Truth) -> Array:
    return np.where(np.isnan(truth.gain), np.nan, 100.0 * what)


def _of_pick(order: Order, truth: Truth, values: Array, *, or_none: bool) -> Array:
    """Expected value of the first source; NaN where the target-only score is unknown."""
    out = order.mean_of_top(values, 1)
    if or_none:
        best = np.where(order.scored, order.predicted, -np.inf).max(-1, initial=-np.inf)
        # At a tie the random order takes none with the chance of any other.
        tied = (order.scored & (order.predicted == best[..., None])).sum(-1)
        share = np.where(order.none > best, 1.0, np.where(order.none == best, 1 / (tied + 1), 0.0))
        out = out * (1.0 - share)
    return np.where(np.isnan(truth.alone), np.nan, out)
