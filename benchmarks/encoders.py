"""Do rankings of sources carry over from one encoder to another?

    python -m benchmarks.encoders

Reads our grid and its block on a second encoder (``benchmarks/grids/second-encoder.yaml``), takes
the pairs and seeds that both have, and compares the gains of sources target by target.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.stats import spearmanr

from benchmarks._report import RESULTS, markdown, publish
from benchmarks.study import GRID, WHERE, whole_seeds
from taskscout.methods.gains import Gains
from taskscout.studies.published import read_runs

SECOND = RESULTS / "second_encoder.parquet"
NAME = "paraphrase-MiniLM-L3-v2"
BOOTSTRAPS = 2000


def agreement(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman correlation of two encoders' or seeds' gains for one target."""
    both = np.isfinite(x) & np.isfinite(y)
    return float(spearmanr(x[both], y[both])[0])


def between_seeds(gains: Gains, sources: list[str], targets: list[str]) -> float:
    """Mean Spearman correlation of the gains by one seed with those by another."""
    by_seed = [gains.with_seeds([i]) for i in range(len(gains.seed_names))]
    points = [g.select(g.points, sources, targets).T for g in by_seed]
    pairs = itertools.combinations(points, 2)
    found = [agreement(x, y) for a, b in pairs for x, y in zip(a, b, strict=True)]
    return float(np.mean(found))


def main() -> None:
    """Compare and publish."""
    second = whole_seeds(read_runs(SECOND, where={**WHERE, "encoder": NAME}, unit="fraction"))
    first = whole_seeds(read_runs(GRID, where=WHERE, unit="fraction"))
    seeds = [s for s in first.seed_names if s in second.seed_names]
    first = first.with_seeds([first.seed_names.index(s) for s in seeds])
    second = second.with_seeds([second.seed_names.index(s) for s in seeds])
    targets = [t for t in first.targets if t in second.targets]
    sources = [s for s in first.sources if s in second.sources]
    a, b = (g.select(g.points, sources, targets).T for g in (first, second))
    known = np.isfinite(a) & np.isfinite(b)
    a, b = (np.where(known, points, np.nan) for points in (a, b))
    rows, correlations, lost = [], [], []
    for i, target in enumerate(targets):
        both = np.flatnonzero(known[i])
        one, other = a[i, both], b[i, both]
        correlations.append(agreement(a[i], b[i]))
        pick = int(np.argmax(one))
        lost.append(float(other.max() - other[pick]))
        rows.append(
            (target, f"{correlations[-1]:.2f}", sources[both[pick]],
             sources[both[int(np.argmax(other))]], f"{one.max():+.1f}", f"{other.max():+.1f}",
             f"{other[pick]:+.1f}", f"{other.mean():+.1f}")
        )  # fmt: skip
    rng = np.random.default_rng(0)
    drawn = np.array(correlations)[rng.integers(0, len(targets), (BOOTSTRAPS, len(targets)))]
    low, high = np.quantile(drawn.mean(1), [0.025, 0.975])
    ceiling = ""
    if len(seeds) > 1:
        same = [between_seeds(g, sources, targets) for g in (first, second)]
        ceiling = (
            f" One seed against another, on one encoder, it is {same[0]:.2f} and {same[1]:.2f}: "
            "that is how much of a ranking is more than chance."
        )
    at_random = np.mean([np.nanmax(r) - np.nanmean(r) for r in b])
    text = (
        f"{len(sources)} sources on {len(targets)} targets of 200 examples by LoRA, seeds "
        f"{', '.join(map(str, seeds))}: the default encoder (six layers) and {NAME} (three), each "
        "with sources tuned for it. Spearman correlation of the sources' gains between the two: "
        f"{np.mean(correlations):.2f} on average over targets ({low:.2f} to {high:.2f}). To choose "
        f"for the second what is best for the first loses {np.mean(lost):.1f} points against its "
        f"own best, to choose at random {at_random:.1f}. With "
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)} both sides are noisy, so the correlation is a "
        f"lower bound.{ceiling}\n\n"
        + markdown(
            ("target", "Spearman", "best for the first", "best for the second", "its gain, first",
             "its gain, second", "first's best on the second", "mean on the second"),
            rows,
        )
    )  # fmt: skip
    data = {"targets": targets, "sources": sources, "first": a.tolist(), "second": b.tolist(),
            "spearman": correlations, "interval": [low, high]}  # fmt: skip
    publish("encoders", "Rankings on a second encoder", text, data)


if __name__ == "__main__":
    main()
