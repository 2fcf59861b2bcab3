"""Strength or match? The variance of a grid of gains, split into where it comes from.

The gain of source s on target t under seed k is taken for a sum of independent random parts::

    gain(s, t, k) = mean + source(s) + target(t) + interaction(s, t) + seed(t, k) + run(s, t, k)

*source* is strength: what a source adds on every target. *interaction* is match: what it adds on
this target and not on others. *target* says that some targets gain more than others from any
source, *seed* that a seed moves all runs of a target together (its direct training among them),
*run* is what is left, the noise of a single run. :func:`variance_components` estimates the variance
of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import StudyError
from taskscout.methods.gains import Gains, mean_of_known
from taskscout.studies.reliability import mean_over_pairs, run_variance

Array = NDArray[np.float64]

#: What the variance is split into, and what follows from it.
COMPONENTS = ("source", "target", "interaction", "seed", "run")
FIGURES = (*COMPONENTS, "noise", "strength")


@dataclass(frozen=True)
class VarianceComponents:
    """Where the variance of a grid's gains comes from, in squared points.

    Estimates are unbiased, so one that is small may come out below 0.

    Attributes
    ----------
    source, target, interaction, seed, run
        Variance of each part of a single run's gain. ``seed`` and ``run`` are NaN where no pair
        was run twice and no target was trained directly twice; ``interaction`` then holds the
        noise too.
    noise
        What single runs leave in a cell's mean over its seeds: ``run`` over the number of seeds.
    intervals
        By name, 95% bootstrap interval over targets.
    sources, targets, seeds
        Sizes of the grid.
    """

    source: float
    target: float
    interaction: float
    seed: float
    run: float
    noise: float
    intervals: Mapping[str, tuple[float, float]]
    sources: int
    targets: int
    seeds: int

    @property
    def strength(self) -> float:
        """Share of the real variance between the sources of a target that is the source's own.

        source / (source + interaction), between 0 (all is match) and 1 (all is strength).
        """
        return _strength(self.source, self.interaction)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; NaN becomes null."""
        return {
            "sources": self.sources,
            "targets": self.targets,
            "seeds": self.seeds,
            **{
                name: {
                    "value": _or_null(getattr(self, name)),
                    "low": _or_null(self.intervals[name][0]),
                    "high": _or_null(self.intervals[name][1]),
                }
                for name in FIGURES
            },
        }


def variance_components(gains: Gains, *, draws: int = 2000, seed: int = 0) -> VarianceComponents:
    """Split the variance of a grid's gains into source, target, interaction, seed and run.

    Every estimate is a mean over pairs of cells (a U-statistic), so that it is unbiased with
    missing cells and equals the analysis of variance where no cell is missing:

    - *source*: covariance of two targets over the sources that both have, mean over pairs of
      targets;
    - *run* and *seed*: half the variance over seeds of the difference of two sources of a target
      (:func:`taskscout.studies.reliability.run_variance`), and the covariance of their gains over
      seeds;
    - *interaction*: variance between the sources of a target, less *source* and the noise;
    - *target*: half the mean squared difference of one source's gains on two targets, less
      *interaction*, *seed* and noise.

    Where sources have one run each and targets were trained directly several times, the variance
    of direct training over seeds stands for that of runs, and gains are taken over its mean.

    Intervals resample targets with replacement. A target that is drawn twice is never compared
    with itself, which would take its interaction for strength.

    Parameters
    ----------
    gains
        The grid; at least two targets and two sources.
    draws
        Bootstrap draws.
    seed
        Seed of the draws.

    Raises
    ------
    StudyError
        If no two targets share two sources, or no target was trained without a source.
    """
    moments = _Moments.of(gains)
    n = len(gains.targets)
    if moments is None:
        raise StudyError(
            f"The grid has {len(gains.sources)} sources and {n} targets, no two of which share two "
            "sources with a gain.",
            "Variance between sources and between targets needs two of each, and a gain needs a "
            "run without a source.",
            "Give a grid with more runs, or choose other rows with --where.",
        )
    estimate = moments.components(np.ones((1, n)))
    rng = np.random.default_rng(seed)
    drawn = moments.components(rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(float))
    intervals = {}
    for name in FIGURES:
        known = drawn[name][np.isfinite(drawn[name])]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (math.nan, math.nan)
        intervals[name] = float(low), float(high)
    return VarianceComponents(
        **{name: float(estimate[name][0]) for name in (*COMPONENTS, "noise")},
        intervals=intervals,
        sources=len(gains.sources),
        targets=n,
        seeds=len(gains.seed_names),
    )


@dataclass(frozen=True)
class _Moments:
    """Per target and pair of targets, what the components follow from.

    Attributes
    ----------
    covariance, common
        Covariance of two targets over common sources, and how many those are; T × T.
    squared, squared_noise
        Half the mean squared difference of a source's gains on two targets, and how much of it
        single runs and seeds make; T × T.
    between, between_noise, degrees
        Variance between a target's sources, how much of it single runs and seeds make, and its
        degrees of freedom; T.
    run, seed, mean_noise
        Variance of single runs and of seeds, and the former's part in a mean over seeds; T.
    """

    covariance: Array
    common: Array
    squared: Array
    squared_noise: Array
    between: Array
    between_noise: Array
    degrees: Array
    run: Array
    seed: Array
    mean_noise: Array

    @classmethod
    def of(cls, gains: Gains) -> _Moments | None:
        """Take them from a grid; None where no two targets share two sources."""
        single = (~np.isnan(gains.scores)).sum(2).max(initial=0) < 2
        if single:
            per_run = (gains.scores - gains.mean_alone[:, None]).copy()
            run = np.array([_variance(row) for row in gains.alone])
            seed = np.full(len(run), np.nan)
        else:
            per_run = gains.scores - gains.alone
            run, seed = run_variance(per_run), mean_over_pairs(per_run, _covariances)
        cells = mean_of_known(per_run)
        covariance, common = _covariances(cells)
        if not (common[~np.eye(len(common), dtype=bool)] > 1).any():
            return None
        weight = ~np.isnan(per_run) / np.maximum((~np.isnan(per_run)).sum(2, keepdims=True), 1)
        # What single runs and the seeds of its target add to a cell: S × T.
        per_cell = (weight**2).sum(2)
        cell_noise = per_cell * (np.nan_to_num(run) + np.nan_to_num(seed))
        n = (~np.isnan(cells)).sum(0)
        mean_weight = np.where(n > 0, per_cell.sum(0) / np.maximum(n, 1), np.nan)
        # Seeds that two sources of a target share move both, and so do not part them.
        shared = np.einsum("stk,rtk->t", weight, weight) - per_cell.sum(0)
        apart = mean_weight - shared / np.maximum(n * (n - 1), 1)
        known = (~np.isnan(cells)).astype(float)
        values = np.nan_to_num(cells)
        squares = (values**2).T @ known
        total = np.where(known > 0, cell_noise, 0.0).T @ known
        with np.errstate(divide="ignore", invalid="ignore"):
            return cls(
                covariance=covariance,
                common=common,
                squared=(squares + squares.T - 2 * values.T @ values) / common / 2,
                squared_noise=(total + total.T) / common / 2,
                between=np.array([_variance(row) for row in cells.T]),
                between_noise=mean_weight * np.nan_to_num(run) + apart * np.nan_to_num(seed),
                degrees=np.maximum(n - 1.0, 0.0),
                run=run,
                seed=seed,
                mean_noise=mean_weight * run,
            )

    def components(self, weights: Array) -> dict[str, Array]:
        """Estimate the components with each target counted so many times; weights are D × T."""
        pairs = np.where(np.eye(len(self.common), dtype=bool), 0.0, self.common)
        source = _pair_mean(self.covariance, np.where(pairs > 1, pairs - 1, 0.0), weights)
        each = weights * self.degrees
        between = _mean(self.between - self.between_noise, each)
        interaction = between - source
        squared = _pair_mean(self.squared - self.squared_noise, pairs, weights)
        return {
            "source": source,
            "target": squared - interaction,
            "interaction": interaction,
            "seed": _mean(self.seed, each),
            "run": _mean(self.run, each),
            "noise": _mean(self.mean_noise, each),
            "strength": np.array(
                [_strength(a, b) for a, b in zip(source, interaction, strict=True)]
            ),
        }


def _mean(values: Array, weights: Array) -> Array:
    """Weighted mean over targets per draw, over the targets with a value."""
    known = ~np.isnan(values)
    weights = weights[:, known]
    total = weights.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, weights @ values[known] / total, np.nan)


def _pair_mean(values: Array, pairs: Array, weights: Array) -> Array:
    """Weighted mean over pairs of targets per draw; ``pairs`` is the weight of each pair."""
    pairs = np.where(np.isnan(values), 0.0, pairs)
    total = np.einsum("dt,tu,du->d", weights, pairs, weights)
    summed = np.einsum("dt,tu,du->d", weights, pairs * np.nan_to_num(values), weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, summed / total, np.nan)


def _covariances(rows: Array) -> tuple[Array, Array]:
    """Unbiased covariance of two columns over the rows that both have, and how many those are."""
    known = ~np.isnan(rows)
    values, ones = np.where(known, rows, 0.0), known.astype(np.float64)
    n = ones.T @ ones
    total = values.T @ ones
    with np.errstate(divide="ignore", invalid="ignore"):
        covariance = (values.T @ values - total * total.T / n) / (n - 1)
    return np.where(n > 1, covariance, np.nan), n


def _variance(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(known.var(ddof=1)) if len(known) > 1 else math.nan


def _strength(source: float, interaction: float) -> float:
    """Share of strength, kept between 0 and 1; NaN where neither is above 0."""
    source, interaction = max(source, 0.0), max(interaction, 0.0)
    return source / (source + interaction) if source + interaction > 0 else math.nan


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value
