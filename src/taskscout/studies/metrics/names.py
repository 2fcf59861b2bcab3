"""Metrics by name, and predictions held against true scores by several of them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from taskscout.errors import StudyError
from taskscout.studies.metrics.correlation import pearson, spearman
from taskscout.studies.metrics.ndcg import ndcg
from taskscout.studies.metrics.order import Array, Order, Truth
from taskscout.studies.metrics.pairs import kendall, pair_accuracy
from taskscout.studies.metrics.picks import negative_rate, pick_gain, win_rate
from taskscout.studies.metrics.places import hit_rate, rank_of_best, rank_of_pick, top_mean
from taskscout.studies.metrics.regret import regret

Better = Literal["higher", "lower"]


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
    linear
        Whether the value for a given order is a weighted mean of true scores, so that noise in
        them averages out. Only then can a truth of one seed stand for that of several.
    """

    name: str
    function: Callable[[Order, Truth], Array]
    better: Better
    low: float
    high: float
    unit: str
    about: str
    linear: bool = False


@dataclass(frozen=True)
class _Base:
    """A metric without its k and its ``+none``.

    ``with_none`` is the option of the function that ``+none`` sets, and what it adds to the line
    that describes the metric; None where there is no such variant.
    """

    function: Callable[..., Array]
    better: Better
    low: float
    high: float
    unit: str
    about: str
    with_none: tuple[str, str] | None = None
    linear: bool = False


_BASES: dict[str, _Base] = {
    "ndcg-rank": _Base(
        partial(ndcg, gain="rank"), "higher", 0, 1, "", "nDCG, gain 2^(N - true place) - 1"
    ),
    "ndcg-percent": _Base(
        partial(ndcg, gain="percent"), "higher", 0, 1, "", "nDCG, gain 2^(score in percent) - 1"
    ),
    "ndcg-none": _Base(
        partial(ndcg, gain="none"), "higher", 0, 1, "", "nDCG, gain in points over none"
    ),
    "regret@": _Base(
        regret, "lower", 0, math.inf, "%", "regret of the best of the first {k}",
        ("with_none", ", none in the reference"),
    ),
    "mean-regret@": _Base(
        partial(regret, how="mean"), "lower", -math.inf, math.inf, "%",
        "regret of the mean of the first {k}", ("with_none", ", none in the reference"),
    ),
    "rank-of-best": _Base(
        rank_of_best, "lower", 1, math.inf, "place", "predicted place of the best source"
    ),
    "rank-of-pick": _Base(
        rank_of_pick, "lower", 1, math.inf, "place", "true place of the first source"
    ),
    "hit@": _Base(
        hit_rate, "higher", 0, 100, "%", "targets whose best source is among the first {k}"
    ),
    "spearman": _Base(spearman, "higher", -1, 1, "", "Spearman's rank correlation"),
    "kendall": _Base(kendall, "higher", -1, 1, "", "Kendall's tau-b"),
    "pearson": _Base(pearson, "higher", -1, 1, "", "Pearson's correlation"),
    "pair-accuracy": _Base(
        pair_accuracy, "higher", 0, 100, "%",
        "pairs of sources in the right order, ties within noise left out",
    ),
    "top-mean@": _Base(
        top_mean, "higher", -math.inf, math.inf, "points", "mean true score of the first {k}",
        linear=True,
    ),
    "pick-gain": _Base(
        pick_gain, "higher", -math.inf, math.inf, "points", "gain over none of the first source",
        ("or_none", ", or of none"), linear=True,
    ),
    "win-rate": _Base(win_rate, "higher", 0, 100, "%", "targets whose first source beats none"),
    "negative-rate": _Base(
        negative_rate, "lower", 0, 100, "%", "targets whose first source does harm",
        ("or_none", ", unless none is chosen"),
    ),
}  # fmt: skip

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
    "pair-accuracy",
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
    base = _BASES.get(parts[1]) if parts is not None else None
    if (
        parts is None
        or base is None
        or parts[1].endswith("@") != bool(parts[2])
        or parts[2] == "0"
        or (parts[3] and base.with_none is None)
    ):
        close = difflib.get_close_matches(name, DEFAULT_METRICS, 3)
        raise StudyError(
            f"There is no metric {name!r}.",
            f"Close names: {', '.join(close)}." if close else "No name is close to it.",
            f"Choose among {', '.join(DEFAULT_METRICS)}; k may be any number.",
        )
    options: dict[str, Any] = {"k": int(parts[2])} if parts[2] else {}
    about = base.about.format(k=parts[2])
    if parts[3] and base.with_none is not None:
        options[base.with_none[0]] = True
        about += base.with_none[1]
    return Metric(
        name, partial(base.function, **options), base.better, base.low, base.high, base.unit,
        about, base.linear,
    )  # fmt: skip


def measure(
    names: Iterable[str],
    predicted: Array,
    scores: Array,
    alone: Array | None = None,
    *,
    gold: Array | None = None,
    none: Array | None = None,
    noise: Array | None = None,
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
    noise
        Standard error of each true score in points, targets × sources; None where unknown.

    Returns
    -------
    One array per metric, one value per target (and truth).
    """
    truth = Truth(scores, alone, gold, noise)
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
    noise: Array | None = None,
) -> dict[str, Array]:
    """Exact expected value of each metric for a random order, per target.

    It is what a constant prediction gets, by the convention for ties; 0 for the correlations.
    """
    return measure(names, np.zeros(np.shape(scores)[-2:]), scores, alone, gold=gold, noise=noise)
