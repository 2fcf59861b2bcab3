"""What each source is expected to gain, how sure that is, and what to do about the target.

A :class:`Forecast` is a calibration (:mod:`taskscout.methods.calibration`) applied to one target.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.calibration import Calibration, features
from taskscout.methods.conformal import chance_above, half_width
from taskscout.methods.mixed_model import condition
from taskscout.tasks import TaskCard
from taskscout.tasks.names import NONE

Array = NDArray[np.float64]

#: Nats by which the best source has to explain the labels better than nothing does: a Bayes factor
#: of 20, "strong" on the scale of Kass and Raftery 1995 (Bayes factors, JASA 90, page 777). Of 48
#: real targets of 200 examples 42 have more, of their shuffled labels 7%.
LEAST_EVIDENCE = 3.0


@dataclass(frozen=True)
class SourceForecast:
    """What a source is expected to gain over training on the target alone.

    Attributes
    ----------
    source
        Its name.
    expected, low, high
        Points; the interval covers the calibration's level of results on new targets.
    chance
        Probability that it gains anything, 0 to 1.
    """

    source: str
    expected: float
    low: float
    high: float
    chance: float

    def to_dict(self) -> dict[str, float | None]:
        """The numbers as plain JSON types; None for what is unbounded or unknown."""
        return {k: _plain(getattr(self, k)) for k in ("expected", "low", "high", "chance")}


@dataclass(frozen=True, repr=False)
class Advice:
    """What to do about a target.

    Attributes
    ----------
    source
        The one to fine-tune on first; None to train directly.
    expected, low, high, chance
        Of the best source (:attr:`Forecast.first`), also where the decision is against it: they
        are the reason. NaN where the scores say nothing.
    sentence
        The decision in plain words.
    command
        What to type next; empty where nobody asked for it.
    """

    source: str | None
    expected: float
    low: float
    high: float
    chance: float
    sentence: str
    command: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; None for what is unbounded or unknown."""
        return {k: _plain(v) for k, v in asdict(self).items()}

    def __repr__(self) -> str:
        return f"Advice({self.source or NONE!r}: {self.sentence!r})"


@dataclass(frozen=True)
class Trial:
    """A real, short run of a source on the target.

    Attributes
    ----------
    source
        Its name.
    gain
        Points above ``none`` of the same seeds, mean over runs.
    runs
        Number of seeds.
    error
        Standard error of the mean gain from the choice of test rows, in points, beside what
        seeds do to it; 0 for runs on as many rows as the calibration's own.
    """

    source: str
    gain: float
    runs: int = 1
    error: float = 0.0


@dataclass(frozen=True, eq=False)
class Forecast:
    """Gains that a calibration expects of sources on one target.

    Attributes
    ----------
    calibration
        What it rests on.
    names
        Sources, as they were given.
    columns
        Their features, sources × q.
    means, variances
        Of their gains in points, as measured over as many seeds as the grid has.
    never
        Sources that are not recommended.
    doubt
        Why no source is recommended, whatever is expected of it; empty where nothing speaks
        against all of them.
    trials
        Real runs that it has taken in.
    """

    calibration: Calibration
    names: tuple[str, ...]
    columns: Array
    means: Array
    variances: Array
    never: frozenset[str] = frozenset()
    doubt: str = ""
    trials: tuple[Trial, ...] = ()

    @classmethod
    def of(
        cls,
        calibration: Calibration,
        scores: Mapping[str, Mapping[str, float]],
        cards: Mapping[str, TaskCard | None],
        facts: Mapping[str, float],
        *,
        never: Collection[str] = (),
    ) -> Forecast:
        """Forecast the gains of sources on one target.

        Parameters
        ----------
        calibration
            Turns scores into points.
        scores
            By method and source name; sources without a score, or NaN, are judged by the rest.
            Those of the grid's other sources say how scores are spread.
        cards
            The sources to forecast; None where there is no card.
        facts
            Of the target (:func:`taskscout.methods.target_facts.target_facts`), with ``evidence``
            (:func:`taskscout.methods.target_facts.evidence_of`) where it is known.
        never
            Sources that are forecast, but not recommended: those that hold the target's texts.

        Raises
        ------
        MethodError
            If a method that the calibration reads has no scores, or there is no source.
        """
        reads = calibration.methods
        for method in reads:
            if method not in scores:
                raise MethodError(
                    f"The calibration reads scores of {', '.join(reads)}; there are none of "
                    f"{method}.",
                    "Its weights belong to these methods.",
                    f"Rank with --method {','.join(reads)}, or use another calibration.",
                )
        names = tuple(cards)
        if not names:
            raise MethodError(
                "There is no source to forecast.", "A forecast is about sources.",
                "Give a pool with sources that apply to the target.",
            )  # fmt: skip
        # What a score's mean and spread are is said by all sources that the grid knows, also by
        # those that are not to be forecast: a filter changes no forecast.
        others = [
            n for n in calibration.sources if n not in cards and any(n in scores[m] for m in reads)
        ]
        every = (*names, *others)
        table = np.array([[float(scores[m].get(n, math.nan)) for n in every] for m in reads])
        columns = features(
            every, calibration.sources, table.reshape(len(reads), len(every)),
            [cards.get(n) for n in every], facts, calibration.centres, calibration.scales,
        )[: len(names)]  # fmt: skip
        means = columns @ calibration.mean
        doubt = ""
        if facts.get("evidence", math.inf) < LEAST_EVIDENCE:
            doubt = "under no source do the texts explain the labels better than chance would"
        forecast = cls(calibration, names, columns, means, np.zeros(0), frozenset(never), doubt)
        return replace(forecast, variances=forecast.prior_variances())

    @property
    def _latent(self) -> float:
        """Variance of what is particular to a source on a target, without the seeds' noise."""
        c = self.calibration
        return max(c.residual - c.run_variance / c.seeds, 0.1 * c.residual)

    def covariances(self, at: Sequence[int]) -> Array:
        """Covariances of all true gains with those of some sources, sources × k."""
        c, places = self.calibration, list(at)
        z = self.columns[:, 1 : 1 + len(c.methods)]
        known = self.columns[:, -2 * len(c.sources) : -len(c.sources)].any(1)
        own = self._latent + np.where(known, 0.0, c.own_variances.sum())
        out = self.columns @ c.covariance @ self.columns[places].T + c.target_variance
        out += (z * c.slope_variances) @ z[places].T
        out[places, range(len(places))] += own[places]
        return np.asarray(out)

    def prior_variances(self) -> Array:
        """Variances of measured gains before any trial."""
        c = self.calibration
        z = self.columns[:, 1 : 1 + len(c.methods)]
        known = self.columns[:, -2 * len(c.sources) : -len(c.sources)].any(1)
        explained = np.einsum("ij,jk,ik->i", self.columns, c.covariance, self.columns)
        own = np.where(known, 0.0, c.own_variances.sum())
        slopes = (z**2) @ c.slope_variances
        return np.asarray(explained + c.target_variance + slopes + own + c.residual)

    @property
    def order(self) -> list[int]:
        """Places of the sources, most promising first."""
        return sorted(range(len(self.names)), key=lambda i: (-self.means[i], self.names[i]))

    @property
    def rows(self) -> tuple[SourceForecast, ...]:
        """One forecast per source, most promising first."""
        c = self.calibration
        deviations = np.sqrt(self.variances)
        width = half_width(c.residuals, c.residual_targets, c.level) * deviations
        chances = chance_above(-self.means / deviations, c.residuals, c.residual_targets)
        return tuple(
            SourceForecast(
                self.names[i], float(self.means[i]), float(self.means[i] - width[i]),
                float(self.means[i] + width[i]), float(chances[i]),
            )
            for i in self.order
        )  # fmt: skip

    @property
    def first(self) -> SourceForecast | None:
        """The most promising source that may be recommended; None where there is none.

        Its interval is made from *picks* on left-out targets, because the largest of many
        forecasts is more often too large than any one of them.
        """
        best = next((i for i in self.order if self.names[i] not in self.never), None)
        if best is None:
            return None
        c = self.calibration
        expected, deviation = float(self.means[best]), math.sqrt(self.variances[best])
        of_picks = np.arange(len(c.pick_residuals))
        width = half_width(c.pick_residuals, of_picks, c.level) * deviation
        chance = chance_above(np.array([-expected / deviation]), c.pick_residuals, of_picks)
        return SourceForecast(
            self.names[best], expected, expected - width, expected + width, float(chance[0])
        )

    @property
    def advice(self) -> Advice:
        """What to do: the most promising source, or none where no gain is expected."""
        best, unknown = self.first, (math.nan,) * 4
        if best is None:
            return Advice(None, *unknown, "Train directly: every source holds texts of the target.")
        nothing = "Train directly: no source is expected to gain more than noise"
        if self.doubt:
            return Advice(None, *unknown, f"{nothing}: {self.doubt}.")
        numbers = best.expected, best.low, best.high, best.chance
        span = f"{self.calibration.level:.0%}: {best.low:+.1f} to {best.high:+.1f}"
        if best.expected <= 0 or best.chance < 0.5:
            why = f"the best, {best.source}: {best.expected:+.1f} points, {span}"
            return Advice(None, *numbers, f"{nothing} ({why}).")
        sentence = (
            f"Fine-tune on {best.source} first: {best.expected:+.1f} points expected ({span}), "
            f"helps in about {round(10 * best.chance)} of 10 such cases."
        )
        return Advice(best.source, *numbers, sentence)

    @property
    def expected(self) -> dict[str, float]:
        """Expected gain of every source, in points."""
        return dict(zip(self.names, map(float, self.means), strict=True))

    def _noise(self, trials: Sequence[Trial]) -> Array:
        """Covariance of the errors of trials: seeds and rows, half of each shared by ``none``."""
        runs = np.array([t.runs for t in trials], np.float64)
        rows = np.array([t.error for t in trials]) ** 2
        half = self.calibration.run_variance / 2
        shared = half / np.maximum(runs[:, None], runs[None])
        shared += np.minimum(rows[:, None], rows[None]) / 2
        return np.asarray(np.diag(half / runs + rows / 2) + shared)

    def ahead(self, one: str, other: str | None) -> float:
        """Probability that one source's true gain exceeds another's, or 0 where that is None.

        By the Gaussian distribution of true gains that the trials leave, without the noise of
        further seeds.
        """
        from scipy.special import ndtr

        places = [self.names.index(n) for n in (one, other) if n is not None]
        left = self.covariances(places)[places]
        if self.trials:
            at = [self.names.index(t.source) for t in self.trials]
            seen = self.covariances(at)
            solved = np.linalg.solve(seen[at] + self._noise(self.trials), seen[places].T)
            left = left - seen[places] @ solved
        signs = np.array([1.0, -1.0][: len(places)])
        deviation = math.sqrt(max(float(signs @ left @ signs), 1e-12))
        return float(ndtr(float(signs @ self.means[places]) / deviation))

    def short_list(
        self, n: int = 3, cards: Mapping[str, TaskCard] | None = None
    ) -> tuple[str, ...]:
        """Sources worth a trial: the n most promising of those that may be recommended.

        Two of one category and domain are near-twins, of which the first alone is tried while
        there are others. On the 40 × 15 grid that changes nothing (3.2 points after three trials
        with it and without); leaving out all but one of a category costs a little (3.1 after four
        for 3.2), and so did a shrunken covariance between sources.

        Parameters
        ----------
        n
            Length of the list.
        cards
            Of the sources; None lists them in plain order.
        """
        names = [self.names[i] for i in self.order if self.names[i] not in self.never]
        seen: set[tuple[str, str]] = set()
        twins = []
        for name in names:
            card = (cards or {}).get(name)
            about = (
                ("", name)
                if card is None or not card.category
                else (card.category, card.domain.casefold())
            )
            if about in seen:
                twins.append(name)
            seen.add(about)
        return tuple([x for x in names if x not in twins] + twins)[:n]

    def with_trials(self, trials: Sequence[Trial]) -> Forecast:
        """Take in real runs as evidence: the gains' distribution given what was seen.

        All runs are compared with the same runs of ``none``, so half of a gain's variance between
        seeds is shared by the trials. Runs add to those that the forecast has taken in before.

        Raises
        ------
        MethodError
            If a trial is of a source that was not forecast, or of no run.
        """
        every = (*self.trials, *trials)
        place = {name: i for i, name in enumerate(self.names)}
        for trial in every:
            if trial.source not in place or trial.runs < 1 or not math.isfinite(trial.gain):
                raise MethodError(
                    f"A trial of {trial.source!r} has {trial.runs} runs and a gain of "
                    f"{trial.gain}.",
                    "Trials are real runs of sources that were forecast.",
                    "Leave it out.",
                )
        if not every:
            return self
        c, at = self.calibration, [place[t.source] for t in every]
        means, variances = condition(
            self.columns @ c.mean, self.prior_variances(), self.covariances(at), at,
            np.array([t.gain for t in every]), self._noise(every),
        )  # fmt: skip
        least = c.residual - self._latent  # seeds of the result differ, whatever is known
        return replace(
            self, means=means, variances=np.maximum(variances, max(least, 1e-9)), trials=every
        )


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
