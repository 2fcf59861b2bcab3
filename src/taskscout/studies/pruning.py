"""Pruning: what is kept and saved when the worst predicted sources are never trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskscout.studies.metrics import Order, Truth

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PruningCurve:
    """What is kept and saved when each target's worst predicted sources are not trained.

    Attributes
    ----------
    dropped
        Share of each target's pairs that is dropped, in percent.
    kept
        Best score among the pairs that are left, in percent of the best of all; mean over targets.
    same_best
        Targets whose best pair is still there, in percent.
    saved
        Share of the pairs' training time that is saved, in percent, the method's own time
        taken off; the share of pairs where times are unknown.
    """

    dropped: Array
    kept: Array
    same_best: Array
    saved: Array

    def saving(self, tolerance: float = 0.0) -> float:
        """Most time saved while the kept best stays within ``tolerance`` percent of the best."""
        good = self.kept >= 100.0 - tolerance - 1e-9
        return float(self.saved[good].max()) if good.any() else 0.0

    def to_dict(self) -> Mapping[str, list[float]]:
        """Plain lists."""
        return {
            name: [float(v) for v in getattr(self, name)]
            for name in ("dropped", "kept", "same_best", "saved")
        }


def pruning_curve(
    predicted: Array,
    scores: Array,
    *,
    seconds: Array | None = None,
    cost: float = 0.0,
    steps: int = 20,
) -> PruningCurve:
    """Drop the worst predicted share of each target's pairs before any training.

    At a share x, a target with N sources trains the first N - floor(x N), at least one. Ties
    count with their expected value.

    Parameters
    ----------
    predicted, scores
        Targets × sources; NaN as everywhere. Targets the method does not apply to do not count.
    seconds
        Training time of each pair; None, or NaN anywhere, counts pairs instead.
    cost
        Seconds the method itself took for all targets.
    steps
        Shares, evenly from 0 to below 1.
    """
    truth = Truth(scores)
    order = Order(np.asarray(predicted, np.float64), truth.candidates)
    rows = np.flatnonzero(order.applies & (truth.best > 0))
    truth = Truth(truth.scores[rows])
    order = Order(order.predicted[rows], truth.candidates)
    timed = seconds is not None and not np.isnan(seconds[rows][truth.candidates]).any()
    times = np.where(truth.candidates, seconds[rows] if timed and seconds is not None else 1.0, 0.0)
    own = cost if timed else 0.0
    shares = np.arange(steps) / steps
    kept, same, saved = [], [], []
    for share in shares:
        left = np.maximum(order.n - np.floor(share * order.n + 1e-9).astype(np.int64), 1)
        best, still, spent = np.empty(len(rows)), np.empty(len(rows)), 0.0
        for k in np.unique(left):
            at = np.flatnonzero(left == k)
            part = Order(order.predicted[at], truth.candidates[at])
            best[at] = part.best_of_top(truth.scores[at], int(k))
            still[at] = part.any_in_top(truth.is_best[at], int(k))
            spent += float((part.within(int(k)) * part.sort(times[at])).sum())
        kept.append(100.0 * float(np.mean(best / truth.best)))
        same.append(100.0 * float(np.mean(still)))
        saved.append(100.0 * (1.0 - (spent + own) / float(times.sum())))
    return PruningCurve(100.0 * shares, np.array(kept), np.array(same), np.array(saved))
