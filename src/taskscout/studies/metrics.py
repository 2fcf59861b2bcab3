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
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import StudyError
from taskscout.methods.gains import Gains, mean_of_known

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Gain = Literal["percent", "rank", "none"]

#: Fewer targets get no bootstrap interval.
LEAST_TARGETS = 5
#: Elements of the largest intermediate arrays.
_BLOCK = 4_000_000


# -- orders and truths ------------------------------------------------------------------------


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
        return self._known(total / np.maximum(share.sum(-1), 1e-300))

    def best_of_top(self, values: Array, k: int) -> Array:
        """Expected largest value among the first k sources.

        Where a group of n ties holds the last m of the k places, the largest of m random ones
        is the group's j-th largest with probability C(n - j, m - 1) / C(n, m).
        """
        x = np.where(self.real, self.sort(values), -np.inf)
        most = np.minimum(k, self.n)[..., None]
        sure = (self.end <= most) & self.real
        known = np.where(sure, x, -np.inf).max(-1, initial=-np.inf)
        cut = (self.start < most) & (self.end > most) & self.real
        n = cut.sum(-1)
        m = np.where(n > 0, np.minimum(k, self.n) - np.where(cut, self.start, 0).max(-1), 1)
        drawn = -np.sort(-np.where(cut, x, -np.inf), axis=-1)
        place = np.arange(x.shape[-1])
        of = np.maximum(n, m)[..., None]  # n, but where there are no ties to draw from
        weight = np.exp(
            _log_choose(of - 1 - place, m[..., None] - 1) - _log_choose(of, m[..., None])
        )
        weight = np.where(place < n[..., None], weight, 0.0)
        weight = np.broadcast_to(weight, drawn.shape)
        either = np.maximum(drawn, known[..., None])
        expected = (weight * np.where(weight > 0, either, 0.0)).sum(-1)
        return self._known(np.where(n > 0, expected, known))

    def any_in_top(self, wanted: NDArray[np.bool_], k: int) -> Array:
        """Probability that at least one of the wanted sources is among the first k."""
        hit = np.take_along_axis(wanted, np.broadcast_to(self.index, wanted.shape), -1) & self.real
        most = np.minimum(k, self.n)[..., None]
        sure = (hit & (self.end <= most)).any(-1)
        cut = (self.start < most) & (self.end > most) & self.real
        n = cut.sum(-1)
        m = np.where(n > 0, np.minimum(k, self.n) - np.where(cut, self.start, 0).max(-1), 0)
        none = np.exp(_log_choose(n - (hit & cut).sum(-1), m) - _log_choose(n, m))
        return self._known(np.where(sure, 1.0, 1.0 - none))

    def first_place(self, wanted: NDArray[np.bool_]) -> Array:
        """Expected place, from 1, of the first of the wanted sources.

        b wanted ones among n ties that begin after s places stand first at s + (n + 1) / (b + 1).
        """
        hit = np.take_along_axis(wanted, np.broadcast_to(self.index, wanted.shape), -1) & self.real
        first = hit.argmax(-1)[..., None]
        start = np.take_along_axis(np.broadcast_to(self.start, hit.shape), first, -1)
        end = np.take_along_axis(np.broadcast_to(self.end, hit.shape), first, -1)
        place = np.arange(hit.shape[-1])
        b = (hit & (place >= start) & (place < end)).sum(-1)
        out = start[..., 0] + (end[..., 0] - start[..., 0] + 1) / (b + 1)
        return self._known(np.where(b > 0, out, np.nan))

    def _known(self, values: Array) -> Array:
        return np.where(self.applies, values, np.nan)


def _log_choose(n: Any, k: Any) -> Array:
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
    """

    def __init__(
        self, scores: Array, alone: Array | None = None, gold: Array | None = None
    ) -> None:
        self.scores = np.asarray(scores, np.float64)
        self.alone = (
            np.full(self.scores.shape[:-1], np.nan)
            if alone is None
            else np.broadcast_to(np.asarray(alone, np.float64), self.scores.shape[:-1])
        )
        self.gold = self.scores if gold is None else np.asarray(gold, np.float64)
        #: Which sources have a true score.
        self.candidates = ~np.isnan(self.scores)
        # A gold order has to place every candidate.
        lost = self.candidates & np.isnan(self.gold)
        if lost.any():
            raise StudyError(
                f"The gold order lacks {int(lost.sum())} of {int(self.candidates.sum())} cells.",
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

    def relevance(self, gain: Gain) -> Array:
        """Gains of the sources for nDCG, scaled by a constant per target; 0 for no candidate."""
        if gain == "rank":
            # (2^(N - place) - 1) / 2^N, so that no N overflows.
            order, n = self.order, self.scores.shape[-1]
            total = np.concatenate([[0.0], np.cumsum(0.5 ** np.arange(n))])
            mean = (total[order.end] - total[order.start]) / (order.end - order.start)
            out = np.empty(self.scores.shape)
            np.put_along_axis(out, order.index, mean - 0.5 ** order.n[..., None], -1)
        elif gain == "percent":
            best = np.nan_to_num(self.best)[..., None]
            out = 2.0 ** (np.where(self.candidates, self.scores, 0.0) - best) - 2.0**-best
        else:
            out = np.maximum(self.gain, 0.0)
        return np.where(self.candidates, out, 0.0)


# -- the metrics ------------------------------------------------------------------------------


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
    relevance = truth.relevance(gain)
    discount = 1.0 / np.log2(np.arange(relevance.shape[-1]) + 2.0)
    total = np.concatenate([[0.0], np.cumsum(discount)])
    shared = (total[order.end] - total[order.start]) / (order.end - order.start)
    dcg = (order.sort(relevance) * shared).sum(-1)
    ideal = (-np.sort(-relevance, axis=-1) * discount).sum(-1)
    unknown = np.isnan(relevance).any(-1) | ~(ideal > 0) | ~order.applies
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(unknown, np.nan, dcg / ideal)


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


def kendall(order: Order, truth: Truth) -> Array:
    """Kendall's tau-b with the true scores.

    0 where the prediction is constant; NaN where the truth is, or with fewer than two candidates.
    """
    shape = np.broadcast_shapes(order.predicted.shape, truth.scores.shape)
    n = shape[-1]
    x = np.broadcast_to(-order.ranks, shape).reshape(-1, n)
    y = np.broadcast_to(truth.scores, shape).reshape(-1, n)
    known = np.broadcast_to(truth.candidates, shape).reshape(-1, n)
    first, second = np.triu_indices(n, 1)
    out = np.empty(len(x))
    step = max(1, _BLOCK // max(len(first), 1))
    for i in range(0, len(x), step):
        rows = slice(i, i + step)
        both = known[rows][:, first] & known[rows][:, second]
        a = np.where(both, np.sign(x[rows][:, first] - x[rows][:, second]), 0.0)
        b = np.where(both, np.sign(y[rows][:, first] - y[rows][:, second]), 0.0)
        untied = (a != 0).sum(1), (b != 0).sum(1)
        size = np.sqrt(untied[0].astype(float) * untied[1])
        tau = np.where(size > 0, (a * b).sum(1) / np.maximum(size, 1e-300), 0.0)
        out[rows] = np.where(untied[1] > 0, tau, np.nan)
    return np.where(order.applies, out.reshape(shape[:-1]), np.nan)


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


# -- by name ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """A metric by name.

    Attributes
    ----------
    name
        Such as ``regret@3``.
    function
        Of an order and a truth; one value per target.
    better
        ``higher`` or ``lower``.
    low, high
        What values cannot go beyond.
    unit
        ``%``, ``points``, ``place``, or empty.
    about
        One line.
    """

    name: str
    function: Callable[[Order, Truth], Array]
    better: Literal["higher", "lower"]
    low: float
    high: float
    unit: str
    about: str


_INFINITE = float("inf")


def _make(name: str, k: int, none: bool) -> Metric | None:
    """Make the metric of a base name, or None."""
    aside = ", none in the reference" if none else ""
    full = f"{name.replace('@', f'@{k}')}{'+none' if none else ''}"
    if name.startswith("ndcg-") and name[5:] in ("rank", "percent", "none") and not none:
        which: Gain = name[5:]  # type: ignore[assignment]  # the names end in the gains
        about = {
            "rank": "nDCG, gain 2^(N - true place) - 1",
            "percent": "nDCG, gain 2^(score in percent) - 1",
            "none": "nDCG, gain in points over none",
        }[which]
        return Metric(full, lambda o, t: ndcg(o, t, gain=which), "higher", 0, 1, "", about)
    if name == "regret@":
        return Metric(
            full, lambda o, t: regret(o, t, k, with_none=none), "lower", 0, _INFINITE,
            "%", f"regret of the best of the first {k}{aside}",
        )  # fmt: skip
    if name == "mean-regret@":
        return Metric(
            full, lambda o, t: regret(o, t, k, how="mean", with_none=none), "lower", -_INFINITE,
            _INFINITE, "%", f"regret of the mean of the first {k}{aside}",
        )  # fmt: skip
    if name == "pick-gain":
        about = "gain over none of the first source" + (", or of none" if none else "")
        return Metric(
            full, lambda o, t: pick_gain(o, t, or_none=none), "higher", -_INFINITE, _INFINITE,
            "points", about,
        )  # fmt: skip
    if name == "negative-rate":
        about = "targets whose first source does harm" + (", unless none is chosen" if none else "")
        return Metric(
            full, lambda o, t: negative_rate(o, t, or_none=none), "lower", 0, 100, "%", about
        )
    if none:
        return None
    if name == "hit@":
        about = f"targets whose best source is among the first {k}"
        return Metric(full, lambda o, t: hit_rate(o, t, k), "higher", 0, 100, "%", about)
    if name == "top-mean@":
        about = f"mean true score of the first {k}"
        return Metric(
            full, lambda o, t: top_mean(o, t, k), "higher", -_INFINITE, _INFINITE, "points", about
        )
    plain: dict[str, tuple[Callable[[Order, Truth], Array], Any, float, float, str, str]] = {
        "rank-of-best": (
            rank_of_best, "lower", 1, _INFINITE, "place", "predicted place of the best source"
        ),
        "rank-of-pick": (
            rank_of_pick, "lower", 1, _INFINITE, "place", "true place of the first source"
        ),
        "spearman": (spearman, "higher", -1, 1, "", "Spearman's rank correlation"),
        "kendall": (kendall, "higher", -1, 1, "", "Kendall's tau-b"),
        "pearson": (pearson, "higher", -1, 1, "", "Pearson's correlation"),
        "win-rate": (win_rate, "higher", 0, 100, "%", "targets whose first source beats none"),
    }  # fmt: skip
    found = plain.get(name)
    return None if found is None else Metric(full, *found)


#: The metrics of a study, unless others are asked for.
DEFAULT_METRICS: tuple[str, ...] = (
    "ndcg-rank",
    "ndcg-percent",
    "ndcg-none",
    "regret@1",
    "regret@3",
    "regret@5",
    "regret@1+none",
    "mean-regret@5",
    "rank-of-best",
    "rank-of-pick",
    "hit@1",
    "hit@3",
    "hit@5",
    "spearman",
    "kendall",
    "pearson",
    "top-mean@3",
    "pick-gain",
    "pick-gain+none",
    "win-rate",
    "negative-rate",
    "negative-rate+none",
)


def get_metric(name: str) -> Metric:
    """The metric of that name.

    Parameters
    ----------
    name
        One of :data:`DEFAULT_METRICS`, or one of them with another k (``regret@10``,
        ``hit@2``) or with ``+none`` (``mean-regret@3+none``).

    Raises
    ------
    StudyError
        If there is no such metric.
    """
    parts = re.fullmatch(r"([a-z-]+@?)(\d*)(\+none)?", name)
    if parts is not None and parts[1].endswith("@") == bool(parts[2]) and parts[2] != "0":
        made = _make(parts[1], int(parts[2] or 0), bool(parts[3]))
        if made is not None:
            return made
    import difflib

    close = difflib.get_close_matches(name, DEFAULT_METRICS, 3)
    raise StudyError(
        f"There is no metric {name!r}.",
        f"Close names: {', '.join(close)}." if close else "No name is close to it.",
        f"Choose among {', '.join(DEFAULT_METRICS)}; k may be any number.",
    )


def measure(
    names: Iterable[str],
    predicted: Array,
    scores: Array,
    alone: Array | None = None,
    *,
    gold: Array | None = None,
    none: Array | None = None,
) -> dict[str, Array]:
    """Hold predictions against true scores, by several metrics.

    Parameters
    ----------
    names
        Of metrics (:func:`get_metric`).
    predicted
        Targets × sources, higher is better; NaN where the method has no score.
    scores
        True scores in points, of the same shape, or … × targets × sources for several truths.
    alone
        Target-only scores in points.
    gold
        What the true order is by; None for the scores.
    none
        Predicted score of "use no source" per target.

    Returns
    -------
    One array per metric, one value per target (and truth).
    """
    truth = Truth(scores, alone, gold)
    candidates = truth.candidates
    while candidates.ndim > np.ndim(predicted):
        if not (candidates == candidates[:1]).all():
            raise StudyError(
                "The truths have different missing cells.",
                "Each would have its own candidates.",
                "Measure them one by one.",
            )
        candidates = candidates[0]
    order = Order(np.asarray(predicted, np.float64), candidates, none)
    return {n: get_metric(n).function(order, truth) for n in names}


def random_floor(
    names: Iterable[str],
    scores: Array,
    alone: Array | None = None,
    *,
    gold: Array | None = None,
) -> dict[str, Array]:
    """Exact expected value of each metric for a random order, per target.

    It is what a constant prediction gets, by the convention for ties; 0 for the correlations.
    """
    return measure(names, np.zeros(np.shape(scores)[-2:]), scores, alone, gold=gold)


# -- seeds and targets ------------------------------------------------------------------------


def seed_draws(gains: Gains, draws: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Resample the seeds of each target with replacement: true scores and target-only scores.

    A target's seeds are drawn for all its sources and its target-only runs together, which keeps
    runs of one seed paired. A cell that loses all its runs keeps its mean over all seeds, so that
    every draw has the same candidates.

    Returns
    -------
    draws × targets × sources, and draws × targets, in points.
    """
    _, t, k = gains.scores.shape
    weight = rng.multinomial(k, np.full(k, 1.0 / k), size=(draws, t)).astype(np.float64)

    def means(values: Array, known: Array, fallback: Array, form: str) -> Array:
        total = np.einsum(form, weight, np.where(known, values, 0.0))
        n = np.einsum(form, weight, known.astype(np.float64))
        return np.where(n > 0, total / np.maximum(n, 1.0), fallback)

    return (
        means(gains.scores, ~np.isnan(gains.scores), gains.mean_scores.T, "rtk,stk->rts"),
        means(gains.alone, ~np.isnan(gains.alone), gains.mean_alone, "rtk,tk->rt"),
    )


def split_half_ceiling(
    names: Sequence[str],
    gains: Gains,
    *,
    most: int = 40,
    seed: int = 0,
) -> dict[str, Array] | None:
    """What a method reaches that knows half of the seeds' results, held against the other half.

    No method can be expected to predict better than a repetition of the experiment. Each split
    of the seeds into halves is used in both directions (the smaller half predicts where their
    number is odd), and metrics are averaged over splits. The truth here rests on half of the
    seeds, so it is noisier than the one methods are held against: the ceiling is a cautious one.

    Parameters
    ----------
    names
        Of metrics.
    gains
        The grid.
    most
        Splits; all of them where there are no more, else a random choice.
    seed
        Of that choice.

    Returns
    -------
    One value per target and metric; None where the grid has one seed.
    """
    k = len(gains.seed_names)
    if k < 2:
        return None
    halves = list(combinations(range(k), k // 2))
    if len(halves) > most:
        chosen = np.random.default_rng(seed).choice(len(halves), most, replace=False)
        halves = [halves[i] for i in sorted(chosen)]
    total: dict[str, list[Array]] = {n: [] for n in names}
    for half in halves:
        other = [i for i in range(k) if i not in half]
        one, two = gains.with_seeds(half), gains.with_seeds(other)
        scores = np.where(np.isnan(one.mean_scores.T), np.nan, two.mean_scores.T)
        found = measure(names, one.mean_scores.T, scores, two.mean_alone, none=one.mean_alone)
        for name, values in found.items():
            total[name].append(values)
    return {n: mean_of_known(np.stack(v, -1)) for n, v in total.items()}


def interval(
    values: Array,
    estimate: float,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    low: float = -_INFINITE,
    high: float = _INFINITE,
) -> tuple[float, float]:
    """Bootstrap interval of a mean over targets, for new targets and new seeds.

    Targets are resampled with replacement; each takes one of its seed draws at random. Drawing
    seeds again adds noise to a truth that is noisy already, which moves every draw the same way:
    the interval is the spread of the draws around their own mean, put around the estimate.

    Parameters
    ----------
    values
        Seed draws × targets (:func:`seed_draws`); one row where seeds are not resampled. Targets
        that are NaN do not count.
    estimate
        The mean over targets under the truth of all seeds.
    draws
        Bootstrap draws.
    level
        Share of the draws inside.
    seed
        Of the draws.
    low, high
        What the metric cannot go beyond.

    Returns
    -------
    Lower and upper end; NaN with fewer than five targets, whose spread says too little.
    """
    values = values[:, ~np.isnan(values).all(0)]
    n = values.shape[1]
    if n < LEAST_TARGETS or np.isnan(estimate):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    of_target = rng.integers(n, size=(draws, n))
    of_seeds = rng.integers(len(values), size=(draws, n))
    means = mean_of_known(values[of_seeds, of_target])
    means = means[~np.isnan(means)]
    tail = (1.0 - level) / 2
    ends = np.quantile(means - means.mean(), [tail, 1.0 - tail]) + estimate
    below, above = np.clip(ends, low, high)
    return float(below), float(above)


def permutation_test(differences: Array, *, draws: int = 99_999, seed: int = 0) -> Array:
    """Two-sided sign-flip test of mean differences over targets.

    Under the null hypothesis that two methods are exchangeable, each target's difference could
    as well have had the other sign. All 2^n signs are tried up to 14 targets, else ``draws``
    random ones, the observed signs counted among them.

    Parameters
    ----------
    differences
        Targets, or targets × comparisons; NaN does not count.
    draws
        Random signs; p cannot be smaller than 1 / (draws + 1).
    seed
        Of the signs.

    Returns
    -------
    p per comparison, between 0 and 1; NaN for one without targets.
    """
    d = np.atleast_1d(np.asarray(differences, np.float64))
    d = d.reshape(len(d), -1)
    unknown = np.isnan(d).all(0)
    # A target that does not count adds 0 under either sign.
    d = np.where(np.isnan(d), 0.0, d)
    n = len(d)
    # Sums that are equal but for rounding are equal.
    least = np.abs(d.sum(0)) * (1 - 1e-9) - 1e-12
    total, extra = (2**n, 0) if n <= 14 else (draws, 1)
    rng = np.random.default_rng(seed)
    reached = np.zeros(d.shape[1])
    step = max(1, min(total, _BLOCK // max(d.shape[1], 1)))
    for start in range(0, total, step):
        size = min(step, total - start)
        if extra:
            bits = rng.integers(2, size=(size, n))
        else:
            bits = np.arange(start, start + size)[:, None] >> np.arange(n) & 1
        reached += (np.abs((1.0 - 2.0 * bits) @ d) >= least).sum(0)
    p = np.where(unknown, np.nan, (reached + extra) / (total + extra))
    return np.asarray(p.reshape(np.shape(differences)[1:]))


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p values for being several (Holm 1979); NaN stays and does not count."""
    values = np.asarray(p, np.float64)
    known = np.flatnonzero(~np.isnan(values))
    out = np.full(len(values), np.nan)
    order = known[np.argsort(values[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    out[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return [float(v) for v in out]


# -- pruning ----------------------------------------------------------------------------------


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
