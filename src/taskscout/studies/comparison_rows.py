"""Rows of a comparison: what each method's metrics are, and which differences are real."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from taskscout.methods.gains import Gains
from taskscout.studies.metrics import Metric, Order, Truth
from taskscout.studies.predictions import Predicted
from taskscout.studies.reliability import standard_errors
from taskscout.studies.significance import interval, seed_draws, sign_flip_test

Array = NDArray[np.float64]

#: Names of the controls that every comparison has.
RANDOM, PRIOR, ORACLE = "random order", "source-prior", "honest oracle"
CONTROLS = (RANDOM, PRIOR, ORACLE)
#: Below this adjusted p, a difference is called real.
REAL = 0.05
#: Resampled seeds per target.
SEED_DRAWS = 100


@dataclass(frozen=True)
class Row:
    """One metric of one method.

    Attributes
    ----------
    method, metric
        Names.
    value
        Mean over targets.
    low, high
        95% bootstrap interval over targets and seeds.
    over_targets
        Standard deviation over targets.
    over_seeds
        Standard deviation of the mean over targets when the truth rests on one seed at a time.
    targets
        How many the mean is over.
    """

    method: str
    metric: str
    value: float
    low: float
    high: float
    over_targets: float
    over_seeds: float
    targets: int


@dataclass(frozen=True)
class Difference:
    """Two methods, target by target, under one metric.

    Attributes
    ----------
    metric
        Its name.
    better, worse
        The methods; ``better`` has the better mean.
    difference
        Mean of better minus worse; negative for metrics where lower is better.
    low, high
        95% bootstrap interval over targets and seeds, both methods under the same draws.
    p, p_adjusted
        Sign-flip test, alone and adjusted for all comparisons of its family (max-T). The methods
        against a random order and against the prior are one family, the methods against one
        another are another.
    targets
        How many the mean is over.
    """

    metric: str
    better: str
    worse: str
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    targets: int

    @property
    def real(self) -> bool:
        """Whether the adjusted p is below 0.05."""
        return self.p_adjusted < REAL


@dataclass(frozen=True)
class Measured:
    """One method's values under the truth of all seeds, of resampled seeds, and of each seed.

    By metric: targets; draws × targets; seeds × targets.
    """

    all_seeds: dict[str, Array]
    resampled: dict[str, Array]
    each_seed: dict[str, Array]


def measurer(
    gains: Gains, metrics: Sequence[Metric], gold: Array | None, seed: int
) -> Callable[[Predicted], Measured]:
    """Make what measures a method under the truth of all seeds, of resampled and of single ones."""
    scores, alone, noise = gains.mean_scores.T, gains.mean_alone, standard_errors(gains)
    truth = Truth(scores, alone, gold, noise)
    if len(gains.seed_names) < 2:
        resampled = Truth(scores[None], alone[None], None if gold is None else gold[None], noise)
    else:
        some, nones = seed_draws(gains, SEED_DRAWS, np.random.default_rng(seed))
        # A gold order given from outside rests on all seeds: it stays.
        fixed = None if gold is None else np.broadcast_to(gold, some.shape)
        resampled = Truth(some, nones, fixed, noise)
    single_truths = []
    for k in range(len(gains.seed_names)):
        one = gains.with_seeds([k])
        cells = one.mean_scores.T
        runs = (~np.isnan(gains.scores)).sum(2).T
        single_truths.append(
            Truth(
                cells,
                one.mean_alone,
                None if gold is None else np.where(np.isnan(cells), np.nan, gold),
                None if noise is None else noise * np.sqrt(runs),
            )
        )

    def measure_one(method: Predicted) -> Measured:
        order = Order(method.scores, truth.candidates, method.none)
        orders = [Order(method.scores, t.candidates, method.none) for t in single_truths]
        return Measured(
            {m.name: m.function(order, truth) for m in metrics},
            {m.name: m.function(order, resampled) for m in metrics},
            {
                m.name: np.stack(
                    [m.function(o, t) for o, t in zip(orders, single_truths, strict=True)]
                )
                for m in metrics
            },
        )

    return measure_one


def rows_of(
    metrics: Sequence[Metric],
    values: Mapping[str, Mapping[str, Array]],
    resampled: Mapping[str, Mapping[str, Array]],
    by_seed: Mapping[str, Mapping[str, tuple[float, ...]]],
    seed: int,
) -> tuple[Row, ...]:
    """Average every metric of every method over targets, with an interval and spreads."""
    rows = []
    for method, of_metric in values.items():
        for metric in metrics:
            per_target = of_metric[metric.name]
            mean = mean_over_targets(per_target)
            low, high = interval(
                resampled[method][metric.name], mean, seed=seed, low=metric.low, high=metric.high
            )
            known = per_target[~np.isnan(per_target)]
            seeds = [v for v in by_seed[method][metric.name] if not math.isnan(v)]
            rows.append(
                Row(
                    method,
                    metric.name,
                    mean,
                    low,
                    high,
                    float(known.std(ddof=1)) if len(known) > 1 else math.nan,
                    float(np.std(seeds, ddof=1)) if len(seeds) > 1 else math.nan,
                    len(known),
                )
            )
    return tuple(rows)


def differences_of(
    metric: Metric,
    values: Mapping[str, Mapping[str, Array]],
    resampled: Mapping[str, Mapping[str, Array]],
    seed: int,
) -> tuple[Difference, ...]:
    """Hold each method against the controls, then the methods against one another."""
    names = [n for n in values if n != ORACLE]
    methods = [n for n in names if n not in (RANDOM, PRIOR)]
    against_controls = [(m, c) for c in (RANDOM, PRIOR) if c in names for m in names if m != c]
    # The prior against a random order stands once.
    against_controls = [pair for pair in against_controls if pair != (RANDOM, PRIOR)]
    out: list[Difference] = []
    for pairs in (against_controls, list(combinations(methods, 2))):
        if not pairs:
            continue
        apart = np.stack([values[a][metric.name] - values[b][metric.name] for a, b in pairs], 1)
        tests = sign_flip_test(apart, seed=seed)
        family = []
        for i, (a, b) in enumerate(pairs):
            mean = mean_over_targets(apart[:, i])
            draws = resampled[a][metric.name] - resampled[b][metric.name]
            low, high = interval(draws, mean, seed=seed)
            if (mean < 0) == (metric.better == "higher") and mean != 0:
                a, b, mean, low, high = b, a, -mean, -high, -low
            family.append(
                Difference(
                    metric.name,
                    a,
                    b,
                    mean,
                    low,
                    high,
                    float(tests.p[i]),
                    float(tests.p_adjusted[i]),
                    int((~np.isnan(apart[:, i])).sum()),
                )
            )
        out += sorted(family, key=lambda d: (math.isnan(d.p), d.p, -abs(d.difference)))
    return tuple(out)


def mean_over_targets(values: Array) -> float:
    """Average over the targets with a value; NaN where there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
