"""The same target and seeds, with sources and without: more than noise, or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import TransferError
from taskscout.tasks import Task
from taskscout.transfer.origin import Origin
from taskscout.transfer.result import NONE, Strategy, Transfer
from taskscout.transfer.strategies import transfer

if TYPE_CHECKING:
    from taskscout.models.workbench import Workbench

Array = NDArray[np.float64]
#: Of the interval.
CONFIDENCE = 0.95
DRAWS = 2000

#: ``gain`` and ``loss`` where the interval leaves out 0.
Outcome = Literal["gain", "loss", "undecided", "one seed"]


def expansion(seeds: int, confidence: float = CONFIDENCE) -> float:
    """Factor by which the spread of a bootstrap of so few seeds has to be widened.

    A bootstrap of k values is narrower than the truth by sqrt((k - 1) / k), and takes the normal
    where Student's t belongs (Hesterberg 2015, "What Teachers Should Know About the Bootstrap",
    on its narrowness and on the t interval with bootstrap standard error). 9.2 for two seeds, 2.7
    for three, 1.6 for five, 1.2 for ten.
    """
    from scipy.stats import norm, t

    at = 0.5 + confidence / 2
    return float(math.sqrt(seeds / (seeds - 1)) * t.ppf(at, seeds - 1) / norm.ppf(at))


def paired_interval(
    differences: Array, *, confidence: float = CONFIDENCE, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Interval of a mean difference by the standard error of a bootstrap.

    Seeds are resampled, their deviations from the mean widened by :func:`expansion`; and so are
    the test rows, where the differences on resamples of them are given. The interval is the mean
    plus and minus the normal quantile times the standard deviation of the draws. Percentiles
    would not do: those of three values are the values themselves.

    Parameters
    ----------
    differences
        One per seed (k); or R × k: on the test rows themselves first, then on resamples of them.
    confidence
        Of the interval.
    draws, seed
        Of the bootstrap.

    Raises
    ------
    TransferError
        If there is one seed only.
    """
    from scipy.stats import norm

    values = np.atleast_2d(np.asarray(differences, np.float64))
    k = values.shape[1]
    if k < 2:
        raise TransferError(
            "There is one seed only.",
            "How far runs of one kind lie apart cannot be seen from one.",
            "Use --seeds 3 or more.",
        )
    rng = np.random.default_rng(seed)
    at = rng.integers(1, len(values), size=draws) if len(values) > 1 else np.zeros(draws, int)
    chosen = values[at]
    resampled = np.take_along_axis(chosen, rng.integers(k, size=(draws, k)), 1).mean(1)
    means = chosen.mean(1)
    drawn = means + expansion(k, confidence) * (resampled - means)
    half = float(norm.ppf(0.5 + confidence / 2) * drawn.std())
    middle = float(values[0].mean())
    return middle - half, middle + half


def score_on_rows(kind: str, labels: NDArray[Any], outputs: NDArray[Any], n_classes: int) -> Scorer:
    """Make what scores resampled rows, fast, by the default metric of a kind.

    Returns
    -------
    A function of weights (n) that gives what :func:`taskscout.models.heads.score_of` calls
    ``score``, on rows that are there as often as their weights say. For regression the ranks of
    Spearman's correlation are those among all rows.
    """
    if kind == "regression":
        from scipy.stats import rankdata

        x, y = outputs[:, 0].astype(np.float64), labels.astype(np.float64)
        series = [(x, y), (rankdata(x), rankdata(y))]

        def correlation(weights: Array) -> float:
            total = 0.0
            for a, b in series:
                a0, b0 = a - weights @ a / weights.sum(), b - weights @ b / weights.sum()
                scale = math.sqrt((weights @ a0**2) * (weights @ b0**2))
                total += float(weights @ (a0 * b0) / scale) if scale > 0 else 0.0
            return total / 2

        return correlation
    cells = labels * n_classes + outputs.argmax(1)

    def classes(weights: Array) -> float:
        table = np.bincount(cells, weights, n_classes**2).reshape(n_classes, n_classes)
        right, there, said = np.diag(table), table.sum(1), table.sum(0)
        used = there + said > 0
        f1 = 2 * right[used] / (there + said)[used]
        return float((right.sum() / weights.sum() + f1.mean()) / 2)

    return classes


Scorer = Callable[[Array], float]


def resampled_differences(
    target: Task, with_sources: Sequence[Transfer], alone: Sequence[Transfer], *, rows: int = 500
) -> Array | None:
    """Differences per seed on the test rows and on resamples of them, (1 + rows) × k.

    None where a run's outputs were not kept, or its score is of another metric.
    """
    runs = [*with_sources, *alone]
    if "test" not in target.tables or any(r.outputs is None for r in runs):
        return None
    if target.kind not in ("classification", "regression"):
        return None
    labels = target.labels("test")
    scorers = []
    for run in runs:
        assert run.outputs is not None
        if len(run.outputs) != len(labels):
            return None
        scorer = score_on_rows(target.kind, labels, run.outputs, max(target.n_classes, 1))
        if not math.isclose(scorer(np.ones(len(labels))), run.score, abs_tol=1e-4):
            return None
        scorers.append(scorer)
    rng = np.random.default_rng(0)
    n, k = len(labels), len(with_sources)
    out = np.empty((1 + rows, k))
    for i in range(1 + rows):
        weights = np.ones(n) if i == 0 else np.bincount(rng.integers(n, size=n), minlength=n)
        scores = [s(weights.astype(np.float64)) for s in scorers]
        out[i] = np.subtract(scores[:k], scores[k:])
    return out


@dataclass
class Comparison:
    """Runs through sources beside runs without, seed by seed.

    Attributes
    ----------
    transfers, alone
        Runs through sources, and of the strategy ``none``, in the same order of seeds.
    interval
        Of the mean difference, as fractions; None with one seed.
    rows_resampled
        Whether the interval takes the choice of test rows into account too.
    """

    transfers: list[Transfer]
    alone: list[Transfer]
    interval: tuple[float, float] | None = None
    rows_resampled: bool = False
    notes: tuple[str, ...] = field(default=())

    @property
    def scores(self) -> Array:
        """Scores through sources, per seed, as fractions."""
        return np.array([t.score for t in self.transfers])

    @property
    def scores_alone(self) -> Array:
        """Scores without sources, per seed, as fractions."""
        return np.array([t.score for t in self.alone])

    @property
    def differences(self) -> Array:
        """Score through sources minus score without, per seed, as fractions."""
        return np.asarray(self.scores - self.scores_alone)

    @property
    def difference(self) -> float:
        """The mean of the differences, as a fraction."""
        return float(self.differences.mean())

    @property
    def outcome(self) -> Outcome:
        """Whether the difference stands out from noise."""
        if self.interval is None:
            return "one seed"
        low, high = self.interval
        return "gain" if low > 0 else "loss" if high < 0 else "undecided"

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        through = " and ".join(self.transfers[0].sources) or "the labels' names"
        points = f"{100 * self.difference:+.1f} points"
        if self.interval is None:
            return (
                f"One seed: {points} with {through}. One run with and one without cannot tell a "
                "gain from noise; use --seeds 3 or more."
            )
        low, high = (f"{100 * x:+.1f}" for x in self.interval)
        between = f"{points} on average over {len(self.alone)} seeds, between {low} and {high}"
        if self.outcome == "gain":
            return f"{through} helps: {between}."
        if self.outcome == "loss":
            return f"{through} hurts: {between}. Train without it."
        return (
            f"No difference that stands out from noise: {between}. Neither a gain nor a loss is "
            "shown; more seeds or more test rows would narrow it."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; scores as fractions."""

        def summary(values: Array) -> dict[str, Any]:
            spread = float(values.std(ddof=1)) if len(values) > 1 else None
            return {"scores": values.tolist(), "mean": float(values.mean()), "sd": spread}

        return {
            "seeds": [t.seed for t in self.transfers],
            "with": summary(self.scores),
            "none": summary(self.scores_alone),
            "difference": self.difference,
            "differences": self.differences.tolist(),
            "interval": None if self.interval is None else list(self.interval),
            "confidence": None if self.interval is None else CONFIDENCE,
            "rows_resampled": self.rows_resampled,
            "outcome": self.outcome,
            "verdict": self.verdict,
            "notes": list(self.notes),
        }


def held_against(
    target: Task, transfers: Sequence[Transfer], alone: Sequence[Transfer]
) -> Comparison:
    """Compare runs that are there, paired by their order.

    Raises
    ------
    TransferError
        If the two were not run with the same seeds.
    """
    if [t.seed for t in transfers] != [t.seed for t in alone] or not transfers:
        raise TransferError(
            f"Runs through sources have seeds {[t.seed for t in transfers]}, those without "
            f"{[t.seed for t in alone]}.",
            "Differences are taken seed by seed.",
            "Run both with the same seeds.",
        )
    out = Comparison(list(transfers), list(alone))
    out.notes = tuple(dict.fromkeys(n for t in (*transfers, *alone) for n in t.notes))
    if len(transfers) > 1:
        resampled = resampled_differences(target, transfers, alone)
        out.rows_resampled = resampled is not None
        out.interval = paired_interval(out.differences if resampled is None else resampled)
    return out


def compare_over_seeds(
    target: Task,
    sources: Sequence[Origin | Task],
    bench: Workbench,
    *,
    strategy: Strategy = "sequential",
    seeds: Sequence[int] = (0, 1, 2),
    known: Callable[[Strategy, int], Transfer | None] | None = None,
    keep: Callable[[Transfer], object] | None = None,
    folder: Path | None = None,
    **options: Any,
) -> Comparison:
    """Train a target with and without sources, over the same seeds.

    Parameters
    ----------
    target, sources, bench, strategy, **options
        As for :func:`taskscout.transfer.strategies.transfer`. The runs without have the same
        recipe and the same budget.
    seeds
        Of the target's tuning; with one, no interval is given.
    known
        Gives a run that was made before, so that a comparison that was stopped goes on.
    keep
        Called with each new run, model and all, before the model is let go.
    folder
        Checkpoints of the run under way are kept there.

    Raises
    ------
    TransferError
        As :func:`taskscout.transfer.strategies.transfer`.
    """
    if len(set(seeds)) != len(seeds) or not seeds:
        raise TransferError(
            f"The seeds are {list(seeds)}.",
            "Each seed stands for one pair of runs.",
            "Give at least one seed, each once.",
        )
    runs: dict[Strategy, list[Transfer]] = {NONE: [], strategy: []}
    alone: Mapping[str, Any] = {k: options[k] for k in ("recipe", "budget") if k in options}
    for seed in seeds:
        for each in dict.fromkeys((strategy, NONE)):
            run = None if known is None else known(each, seed)
            if run is None:
                given, more = ([], alone) if each == NONE else (sources, options)
                where = None if folder is None else folder / f"{each}-{seed}"
                if folder is not None and each != NONE:
                    more = {**more, "source_folder": folder / "sources"}
                run = transfer(target, given, bench, strategy=each, seed=seed, folder=where, **more)
                if keep is not None:
                    keep(run)
                run.tuned = None
            runs[each].append(run)
    return held_against(target, runs[strategy], runs[NONE])
