"""Whether one grid's order of sources carries over to another: same pairs, another setting."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from taskscout.methods.gains import Gains

BOOTSTRAPS = 2000


def agreement(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman correlation of the gains of one target's sources, in two settings or seeds."""
    both = np.isfinite(x) & np.isfinite(y)
    return float(spearmanr(x[both], y[both])[0])


def between_seeds(gains: Gains, sources: list[str], targets: list[str]) -> float:
    """Mean Spearman correlation of the gains by one seed with those by another."""
    by_seed = [gains.with_seeds([i]) for i in range(len(gains.seed_names))]
    points = [g.select(g.points, sources, targets).T for g in by_seed]
    pairs = itertools.combinations(points, 2)
    found = [agreement(x, y) for a, b in pairs for x, y in zip(a, b, strict=True)]
    return float(np.mean(found))


@dataclass(frozen=True)
class Carried:
    """Gains of the same pairs and seeds in two settings, compared target by target.

    Attributes
    ----------
    sources, targets, seeds
        What both settings have.
    first, second
        Gains in points, targets × sources, NaN where one of the two has none.
    same
        Spearman correlation between two seeds of each setting; None with one seed.
    """

    sources: list[str]
    targets: list[str]
    seeds: list[Any]
    first: np.ndarray
    second: np.ndarray
    same: tuple[float, float] | None
    spearman: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    picks: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def of(cls, first: Gains, second: Gains) -> Carried:
        """Compare what two settings have in common."""
        seeds = [s for s in first.seed_names if s in second.seed_names]
        first, second = (
            g.with_seeds([g.seed_names.index(s) for s in seeds]) for g in (first, second)
        )
        targets = [t for t in first.targets if t in second.targets]
        sources = [s for s in first.sources if s in second.sources]
        a, b = (g.select(g.points, sources, targets).T for g in (first, second))
        known = np.isfinite(a) & np.isfinite(b)
        a, b = (np.where(known, points, np.nan) for points in (a, b))
        same = None
        if len(seeds) > 1:
            one, other = (between_seeds(g, sources, targets) for g in (first, second))
            same = one, other
        made = cls(sources, targets, seeds, a, b, same)
        for x, y in zip(a, b, strict=True):
            pick, best = int(np.nanargmax(x)), int(np.nanargmax(y))
            made.spearman.append(agreement(x, y))
            made.lost.append(float(y[best] - y[pick]))
            made.picks.append((pick, best))
        return made

    @property
    def interval(self) -> tuple[float, float]:
        """95% bootstrap interval of the mean correlation, over targets."""
        n = len(self.targets)
        drawn = np.random.default_rng(0).integers(0, n, (BOOTSTRAPS, n))
        low, high = np.quantile(np.array(self.spearman)[drawn].mean(1), [0.025, 0.975])
        return float(low), float(high)

    def sentences(self) -> str:
        """The figures in words."""
        low, high = self.interval
        at_random = np.mean([np.nanmax(y) - np.nanmean(y) for y in self.second])
        told = (
            "Spearman correlation of the sources' gains between the two: "
            f"{np.mean(self.spearman):.2f} on average over targets ({low:.2f} to {high:.2f}). To "
            f"choose for the second what is best for the first loses {np.mean(self.lost):.1f} "
            f"points against its own best, to choose at random {at_random:.1f}. "
        )
        if self.same is None:
            return told + "With one seed both sides are noisy: the correlation is a lower bound."
        return told + (
            f"One seed against another, in one setting, it is {self.same[0]:.2f} and "
            f"{self.same[1]:.2f}: that is how much of a ranking is more than chance."
        )

    def rows(self) -> list[tuple[str, ...]]:
        """One row per target: correlation, best sources, and what they gain."""
        out = []
        for i, (pick, best) in enumerate(self.picks):
            x, y = self.first[i], self.second[i]
            out.append(
                (self.targets[i], f"{self.spearman[i]:.2f}", self.sources[pick],
                 self.sources[best], f"{x[pick]:+.1f}", f"{y[best]:+.1f}", f"{y[pick]:+.1f}",
                 f"{np.nanmean(y):+.1f}")
            )  # fmt: skip
        return out

    def to_dict(self) -> dict[str, Any]:
        """What is stored."""
        return {"targets": self.targets, "sources": self.sources, "seeds": self.seeds,
                "first": self.first.tolist(), "second": self.second.tolist(),
                "spearman": self.spearman, "interval": self.interval}  # fmt: skip


#: Heads of :meth:`Carried.rows`.
HEADS = ("target", "Spearman", "best for the first", "best for the second", "its gain, first",
         "its gain, second", "first's best on the second", "mean on the second")  # fmt: skip
