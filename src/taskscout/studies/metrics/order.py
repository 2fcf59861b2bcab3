"""Orders of sources: what a method predicted, and what transfer gave.

:class:`Order` and :class:`Truth` hold all that the metrics of this package need, sorted once.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import StudyError

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


def _places(values: Array, level: Integers) -> tuple[Integers, Integers, Integers]:
    """Sort rows by level, then by value downwards: column, start and end of the ties per place."""
    index = np.lexsort((-values, level), axis=-1)
    value = np.take_along_axis(values, index, -1)
    of_level = np.take_along_axis(level, index, -1)
    n = values.shape[-1]
    place = np.arange(n)
    new = np.ones(values.shape, bool)
    new[..., 1:] = (value[..., 1:] != value[..., :-1]) | (of_level[..., 1:] != of_level[..., :-1])
    start = np.maximum.accumulate(np.where(new, place, 0), -1)
    last = np.ones(values.shape, bool)
    last[..., :-1] = new[..., 1:]
    end = np.minimum.accumulate(np.where(last, place + 1, n)[..., ::-1], -1)[..., ::-1]
    return index, start, end


class Order:
    """Predicted scores of sources, sorted once for all metrics.

    Parameters
    ----------
    predicted
        Targets × sources, higher is better, NaN where the method has no score.
    candidates
        Targets × sources: which sources have a true score.
    none
        Predicted score of "use no source" per target; NaN or None where the method has none.
    """

    def __init__(
        self, predicted: Array, candidates: NDArray[np.bool_], none: Array | None = None
    ) -> None:
        self.predicted = np.asarray(predicted, np.float64)
        self.candidates = np.broadcast_to(candidates, self.predicted.shape)
        scored = self.candidates & ~np.isnan(self.predicted)
        level = np.where(scored, 0, np.where(self.candidates, 1, 2))
        values = np.where(scored, self.predicted, 0.0)
        #: Columns of the sources, best first; candidates before all others.
        self.index, self.start, self.end = _places(values, level)
        #: Candidates per target, and targets the method applies to.
        self.n: Integers = self.candidates.sum(-1)
        self.applies = np.asarray(scored.any(-1))
        self.scored = scored
        #: Score of "use no source" per target.
        self.none = np.full(self.predicted.shape[:-1], np.nan) if none is None else none

    @cached_property
    def real(self) -> NDArray[np.bool_]:
        """Tell which places are taken by candidates."""
        return np.asarray(np.arange(self.index.shape[-1]) < self.n[..., None])

    @cached_property
    def ranks(self) -> Array:
        """Mid-rank of each source, 1 for the best; in the order of the columns."""
        out = np.empty(self.predicted.shape)
        np.put_along_axis(out, self.index, (self.start + self.end + 1) / 2, -1)
        return out

    def sort(self, values: Array) -> Array:
        """Put values of sources (… × targets × sources) into this order."""
        return np.take_along_axis(values, np.broadcast_to(self.index, values.shape), -1)

    def within(self, k: int) -> Array:
        """Probability that the source at each place is among the first k (all, if fewer)."""
        most = np.minimum(k, self.n)[..., None]
        share = np.clip((most - self.start) / (self.end - self.start), 0.0, 1.0)
        return np.where(self.real, share, 0.0)

    def mean_of_top(self, values: Array, k: int) -> Array:
        """Expected mean of some value over the first k sources."""
        share = self.within(k)
        total = (share * np.where(self.real, self.sort(values), 0.0)).sum(-1)
        return self._where_it_applies(total / np.maximum(share.sum(-1), 1e-300))

    def best_of_top(self, values: Array, k: int) -> Array:
        """Expected largest value among the first k sources.

        Where a group of n ties holds the last m of the k places, the largest of m random ones
        is the group's j-th largest with probability C(n - j, m - 1) / C(n, m).
        """
        x = np.where(self.real, self.sort(values), -np.inf)
        most = np.minimum(k, self.n)[..., None]
        sure = (self.end <= most) & self.real
        best_of_sure = np.where(sure, x, -np.inf).max(-1, initial=-np.inf)
        cut = (self.start < most) & (self.end > most) & self.real
        n = cut.sum(-1)
        m = np.where(n > 0, np.minimum(k, self.n) - np.where(cut, self.start, 0).max(-1), 1)
        drawn = -np.sort(-np.where(cut, x, -np.inf), axis=-1)
        place = np.arange(x.shape[-1])
        of = np.maximum(n, m)[..., None]  # n, but where there are no ties to draw from
        weight = np.exp(log_choose(of - 1 - place, m[..., None] - 1) - log_choose(of, m[..., None]))
        weight = np.where(place < n[..., None], weight, 0.0)
        weight = np.broadcast_to(weight, drawn.shape)
        either = np.maximum(drawn, best_of_sure[..., None])
        expected = (weight * np.where(weight > 0, either, 0.0)).sum(-1)
        return self._where_it_applies(np.where(n > 0, expected, best_of_sure))

    def any_in_top(self, sought: NDArray[np.bool_], k: int) -> Array:
        """Probability that at least one of these sources is among the first k."""
        hit = np.take_along_axis(sought, np.broadcast_to(self.index, sought.shape), -1) & self.real
        most = np.minimum(k, self.n)[..., None]
        sure = (hit & (self.end <= most)).any(-1)
        cut = (self.start < most) & (self.end > most) & self.real
        n = cut.sum(-1)
        m = np.where(n > 0, np.minimum(k, self.n) - np.where(cut, self.start, 0).max(-1), 0)
        none = np.exp(log_choose(n - (hit & cut).sum(-1), m) - log_choose(n, m))
        return self._where_it_applies(np.where(sure, 1.0, 1.0 - none))

    def first_place(self, sought: NDArray[np.bool_]) -> Array:
        """Expected place, from 1, of the first of these sources.

        b of them among n ties that begin after s places stand first at s + (n + 1) / (b + 1).
        """
        hit = np.take_along_axis(sought, np.broadcast_to(self.index, sought.shape), -1) & self.real
        first = hit.argmax(-1)[..., None]
        start = np.take_along_axis(np.broadcast_to(self.start, hit.shape), first, -1)
        end = np.take_along_axis(np.broadcast_to(self.end, hit.shape), first, -1)
        place = np.arange(hit.shape[-1])
        b = (hit & (place >= start) & (place < end)).sum(-1)
        out = start[..., 0] + (end[..., 0] - start[..., 0] + 1) / (b + 1)
        return self._where_it_applies(np.where(b > 0, out, np.nan))

    def _where_it_applies(self, values: Array) -> Array:
        return np.where(self.applies, values, np.nan)


def log_choose(n: Any, k: Any) -> Array:
    """Natural logarithm of the binomial coefficient; -inf outside Pascal's triangle."""
    n, k = np.broadcast_arrays(np.asarray(n, np.int64), np.asarray(k, np.int64))
    most = max(int(n.max(initial=0)), 1)
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
    inside = (k >= 0) & (n >= k)
    a, b = np.where(inside, n, 0), np.where(inside, k, 0)
    return np.where(inside, factorial[a] - factorial[b] - factorial[a - b], -np.inf)


class Truth:
    """What transfer gave: true scores of sources and of training on the target alone.

    Parameters
    ----------
    scores
        … × targets × sources in points, NaN where there is no run.
    alone
        … × targets, in points; None where unknown.
    gold
        What the true order is by, of the shape of ``scores``; None for the scores themselves.
        TaskWeb orders by a mixture of gain and share of seeds, and takes regret from scores.
    noise
        Standard error of each score in points, targets × sources
        (:func:`taskscout.studies.reliability.standard_errors`); None where unknown. Only the
        share of pairs in the right order reads it.
    """

    def __init__(
        self,
        scores: Array,
        alone: Array | None = None,
        gold: Array | None = None,
        noise: Array | None = None,
    ) -> None:
        self.scores = np.asarray(scores, np.float64)
        self.alone = (
            np.full(self.scores.shape[:-1], np.nan)
            if alone is None
            else np.broadcast_to(np.asarray(alone, np.float64), self.scores.shape[:-1])
        )
        self.gold = self.scores if gold is None else np.asarray(gold, np.float64)
        self.noise = None if noise is None else np.asarray(noise, np.float64)
        #: Which sources have a true score.
        self.candidates = ~np.isnan(self.scores)
        # A gold order has to place every candidate.
        unplaced = self.candidates & np.isnan(self.gold)
        if unplaced.any():
            raise StudyError(
                f"The gold order lacks {unplaced.sum()} of {self.candidates.sum()} cells.",
                "Every source with a true score needs a place in the true order.",
                "Give a value for each, or leave its score out too.",
            )

    @cached_property
    def order(self) -> Order:
        """The sources by their gold."""
        return self.by_score if self.gold is self.scores else Order(self.gold, self.candidates)

    @cached_property
    def by_score(self) -> Order:
        """The sources by their scores."""
        return Order(self.scores, self.candidates)

    @cached_property
    def best(self) -> Array:
        """Best true score; NaN without candidates."""
        best = np.where(self.candidates, self.scores, -np.inf).max(-1, initial=-np.inf)
        return np.where(np.isinf(best), np.nan, best)

    @cached_property
    def is_best(self) -> NDArray[np.bool_]:
        """Which sources have the best true score."""
        return np.asarray(self.candidates & (self.scores == self.best[..., None]))

    @cached_property
    def places(self) -> Array:
        """1 + number of sources with a strictly better true score."""
        out = np.empty(self.scores.shape)
        np.put_along_axis(out, self.by_score.index, self.by_score.start + 1.0, -1)
        return out

    @cached_property
    def gain(self) -> Array:
        """Score minus target-only score, in points."""
        return np.asarray(self.scores - self.alone[..., None])
