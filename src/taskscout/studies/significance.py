"""What is more than chance: resampled seeds, intervals, sign-flip tests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskscout.methods.gains import Gains, mean_of_known

Array = NDArray[np.float64]

#: Fewer targets get no bootstrap interval.
LEAST_TARGETS = 5
#: Up to so many targets, all sign flips are tried.
_ALL_FLIPS = 17
#: Elements of the largest intermediate arrays.
_BLOCK = 4_000_000


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


def interval(
    values: Array,
    estimate: float,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    low: float = -math.inf,
    high: float = math.inf,
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


@dataclass(frozen=True)
class SignFlips:
    """Two-sided sign-flip tests of several mean differences over the same targets.

    Attributes
    ----------
    p
        One per comparison, as if it were the only one; NaN for one without a difference.
    p_adjusted
        Adjusted for all of them together (Westfall and Young's step-down max-T): the chance that
        any true null hypothesis among them has an adjusted p below a level is at most that level.
    """

    p: Array
    p_adjusted: Array


def sign_flip_test(differences: Array, *, draws: int = 99_999, seed: int = 0) -> SignFlips:
    """Test mean differences of methods over targets by flipping the signs of targets.

    Under the null hypothesis that two methods are exchangeable, each target's difference could
    as well have had the other sign. A target's sign is flipped for all comparisons together,
    which keeps their dependence: that is what makes the adjustment for many comparisons cheap.
    The statistic of a comparison is ``|sum of differences| / root of their sum of squares``,
    which orders sign flips as t does. Up to 17 targets all flips are tried (half of them: flipping
    every target changes nothing), else ``draws`` random ones, the observed among them.

    Reference: Westfall and Young 1993, Resampling-based multiple testing, algorithm 4.1 (for
    maxima of statistics in place of minima of p).

    Parameters
    ----------
    differences
        Targets × comparisons; a target that is NaN counts for nothing in that comparison.
    draws
        Random flips.
    seed
        Seed of the random flips.
    """
    d = np.asarray(differences, np.float64)
    p, adjusted = np.full(d.shape[1], np.nan), np.full(d.shape[1], np.nan)
    tested = np.flatnonzero(~np.isnan(d).all(0))
    d = np.nan_to_num(d[:, tested])
    size = np.sqrt((d**2).sum(0))
    d = d / np.where(size > 0, size, 1.0)
    # Sums that are equal but for rounding are equal.
    observed = np.abs(d.sum(0)) * (1 - 1e-9) - 1e-12
    strongest_first = np.argsort(-observed, kind="stable")
    d, observed = d[:, strongest_first], observed[strongest_first]
    reached, exceeded, total = np.zeros(len(tested)), np.zeros(len(tested)), 0
    for signs in _sign_flips(len(d), draws, seed, block=_BLOCK // max(len(tested), 1)):
        flipped = np.abs(signs @ d)
        reached += (flipped >= observed).sum(0)
        # The largest statistic among this comparison and all weaker ones.
        largest = np.maximum.accumulate(flipped[:, ::-1], axis=1)[:, ::-1]
        exceeded += (largest >= observed).sum(0)
        total += len(signs)
    p[tested[strongest_first]] = reached / total
    adjusted[tested[strongest_first]] = np.maximum.accumulate(exceeded / total)
    return SignFlips(p, adjusted)


def smallest_p(n_targets: int, *, draws: int = 99_999) -> float:
    """Say the smallest p that a sign-flip test over so many targets can give, adjusted or not.

    2 / 2^n: the observed signs and their opposites are two of the 2^n flips; with more targets
    than all flips are tried for, at least 1 / (draws + 1).
    """
    if n_targets < 1:
        return math.nan
    return 2.0 ** (1 - n_targets) if n_targets <= _ALL_FLIPS else 1.0 / (draws + 1)


def _sign_flips(n_targets: int, draws: int, seed: int, block: int) -> Iterator[Array]:
    """Signs, flips × targets, in blocks; the observed signs are among them, once."""
    block = max(block, 1)
    if n_targets <= _ALL_FLIPS:
        # The first target keeps its sign: its flips mirror these.
        every = np.arange(2 ** max(n_targets - 1, 0))
        places = np.maximum(np.arange(n_targets) - 1, 0)
        for start in range(0, len(every), block):
            bits = every[start : start + block, None] >> places & 1
            bits[:, :1] = 0
            yield (1 - 2 * bits).astype(np.float64)
        return
    yield np.ones((1, n_targets))
    rng = np.random.default_rng(seed)
    for start in range(0, draws, block):
        bits = rng.integers(2, size=(min(block, draws - start), n_targets))
        yield (1 - 2 * bits).astype(np.float64)
