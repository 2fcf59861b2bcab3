"""From scores to points: what each source is expected to gain, how sure that is, what to do.

A :class:`Calibration` is fitted on a grid of real transfers
(:func:`taskscout.studies.calibration.calibrate`) and belongs to one model, some kinds and one
size of target. Of a source on a target it expects

    gain = a + Σ_m b_m z_m + c match + d facts + e_source + f_source pair + t + Σ_m u_m z_m + noise

with z_m a method's score, standardised within the target over the sources that the calibration
knows; match: whether source and target both have a second text, and are of one kind; facts: of
the target, standardised over the grid's; e and f: a source's own gain, and how much more it gives
where targets have a second text, both shrunk; t and u_m: what is particular to one target, unknown
for a new one, so that they widen its intervals and are learnt from trials. How far each term is
shrunk is said by the grid (:mod:`taskscout.methods.mixed_model`); how wide intervals are, by what
the forecasts of left-out targets missed (:mod:`taskscout.methods.conformal`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import DataError, MethodError
from taskscout.files import write_atomically
from taskscout.methods.conformal import chance_above, half_width
from taskscout.methods.mixed_model import condition
from taskscout.methods.target_facts import fact_values
from taskscout.tasks import TaskCard

Array = NDArray[np.float64]

#: Fewer known sources with a score, and all sources say what a score's mean and spread are.
_LEAST_KNOWN = 5
#: Targets this many times smaller or larger than the grid's are named in a note.
_NEAR = 2.0
_FORMAT = "taskscout calibration 1"


def standardised(scores: Array, reference: NDArray[np.bool_]) -> Array:
    """Scores of one target in standard deviations from the mean, over the reference sources.

    0 where there is no score, and everywhere if they do not differ.
    """
    scored = ~np.isnan(scores)
    over = scored & reference
    if over.sum() < _LEAST_KNOWN:
        over = scored
    if not over.any():
        return np.zeros(len(scores))
    deviation = float(scores[over].std())
    if deviation <= 1e-12 * max(1.0, float(np.abs(scores[over]).max())):
        return np.zeros(len(scores))
    return np.where(scored, (scores - scores[over].mean()) / deviation, 0.0)


def match_columns(cards: Sequence[TaskCard | None], facts: Mapping[str, float]) -> Array:
    """Whether sources are like the target, sources × 2: a second text, and kind.

    1/2 where they are, -1/2 where not, 0 where a card or a fact does not say.
    """
    pair, regression = facts.get("pair", math.nan), facts.get("regression", math.nan)
    out = np.zeros((len(cards), 2))
    for i, card in enumerate(cards):
        if card is None:
            continue
        if card.pair is not None and not math.isnan(pair):
            out[i, 0] = 0.5 if card.pair == (pair > 0) else -0.5
        if not math.isnan(regression):
            out[i, 1] = 0.5 if (card.kind == "regression") == (regression > 0) else -0.5
    return out


def features(
    names: Sequence[str],
    known: Sequence[str],
    scores: Array,
    cards: Sequence[TaskCard | None],
    facts: Mapping[str, float],
    centres: Array,
    scales: Array,
) -> Array:
    """All columns of a forecast that a new target has, sources × q.

    Parameters
    ----------
    names, cards
        Of the sources.
    known
        Sources of the grid: each has two columns of its own.
    scores
        Methods × sources, NaN where there is none.
    facts
        Of the target; see :func:`target_facts`.
    centres, scales
        Mean and deviation of :func:`fact_values` over the grid's targets.
    """
    place = {name: j for j, name in enumerate(known)}
    reference = np.array([n in place for n in names], bool)
    z = np.array([standardised(row, reference) for row in scores]).reshape(len(scores), len(names))
    told = np.nan_to_num((fact_values(facts) - centres) / scales)
    own = np.zeros((len(names), len(known)))
    for i, name in enumerate(names):
        if name in place:
            own[i, place[name]] = 1.0
    pair = facts.get("pair", math.nan)
    side = 0.0 if math.isnan(pair) else (1.0 if pair > 0 else -1.0)
    return np.column_stack(
        [np.ones(len(names)), z.T, match_columns(cards, facts),
         np.tile(told, (len(names), 1)), own, side * own]
    )  # fmt: skip


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


@dataclass(frozen=True)
class Pick:
    """What to do about a target.

    Attributes
    ----------
    source
        The one to fine-tune on first; None to train directly.
    expected, low, high, chance
        Of the best source, also where the decision is against it: they are the reason. The
        interval is made from *picks* on left-out targets, because the largest of many forecasts
        is more often too large than any one of them.
    sentence
        The decision in plain words.
    """

    source: str | None
    expected: float
    low: float
    high: float
    chance: float
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; None for what is unbounded or unknown."""
        return {k: _plain(v) for k, v in asdict(self).items()}


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
    """

    source: str
    gain: float
    runs: int = 1


@dataclass(frozen=True, eq=False)
class Calibration:
    """What turns scores into points, fitted on a grid.

    Attributes
    ----------
    setting
        What it belongs to: ``encoder``, ``tuning``, ``recipe``, ``size``, ``kinds``, and whatever
        else identifies the grid.
    methods
        Whose scores it reads.
    sources
        Of the grid.
    level
        Share of results that intervals cover.
    seeds
        Runs behind each of the grid's gains.
    centres, scales
        Of the targets' facts.
    mean, covariance
        Weights of the columns of :func:`features`.
    own_variances
        Prior variances of a source's two effects, for sources that the grid does not have.
    target_variance, slope_variances
        Of what is particular to one target: in all gains, and per method in how much its score
        says.
    residual, run_variance
        Variance of what is left; of one run's gain between seeds.
    residuals, residual_targets
        Results minus forecasts of left-out targets in predicted standard deviations, one per
        cell; and the number of each one's target.
    pick_residuals
        The same of the first picks, one per target.
    report
        What was measured out of sample, as the study stored it.
    """

    setting: Mapping[str, Any]
    methods: tuple[str, ...]
    sources: tuple[str, ...]
    level: float
    seeds: int
    centres: Array
    scales: Array
    mean: Array
    covariance: Array
    own_variances: Array
    target_variance: float
    slope_variances: Array
    residual: float
    run_variance: float
    residuals: Array = field(default_factory=lambda: np.zeros(0))
    residual_targets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    pick_residuals: Array = field(default_factory=lambda: np.zeros(0))
    report: Mapping[str, Any] = field(default_factory=dict)

    # -- use ----------------------------------------------------------------------------------

    def differs(self, **setting: Any) -> tuple[str, ...]:
        """Say in sentences how a use differs from what was measured; none where it does not.

        Parameters
        ----------
        setting
            ``encoder``, ``tuning``, ``kind`` and ``rows`` of the target, whichever are known.
        """
        notes = []
        for name in ("encoder", "tuning"):
            if name in setting and str(setting[name]) != str(self.setting.get(name)):
                notes.append(
                    f"This forecast was measured with {name} {self.setting.get(name)}, "
                    f"not {setting[name]}."
                )
        kinds = self.setting.get("kinds", ())
        if "kind" in setting and kinds and setting["kind"] not in kinds:
            notes.append(f"No target of kind {setting['kind']} was measured.")
        rows, size = setting.get("rows"), float(self.setting.get("size", math.nan))
        if rows and size > 0 and not 1 / _NEAR <= rows / size <= _NEAR:
            notes.append(
                f"This forecast was measured on targets of {size:.0f} examples, not {rows}."
            )
        return tuple(notes)

    def forecast(
        self,
        scores: Mapping[str, Mapping[str, float]],
        cards: Mapping[str, TaskCard | None],
        facts: Mapping[str, float],
        *,
        never: Collection[str] = (),
    ) -> Forecast:
        """Forecast the gains of sources on one target.

        Parameters
        ----------
        scores
            By method and source name; sources without a score, or NaN, are judged by the rest.
        cards
            The sources to forecast; None where there is no card.
        facts
            Of the target; see :func:`target_facts`.
        never
            Sources that are forecast, but not recommended: those that hold the target's texts.

        Raises
        ------
        MethodError
            If a method that the calibration reads has no scores, or there is no source.
        """
        for method in self.methods:
            if method not in scores:
                raise MethodError(
                    f"The calibration reads scores of {', '.join(self.methods)}; there are none "
                    f"of {method}.",
                    "Its weights belong to these methods.",
                    f"Rank with --method {','.join(self.methods)}, or use another calibration.",
                )
        names = tuple(cards)
        if not names:
            raise MethodError(
                "There is no source to forecast.", "A forecast is about sources.",
                "Give a pool with sources that apply to the target.",
            )  # fmt: skip
        table = np.array(
            [[float(scores[m].get(n, math.nan)) for n in names] for m in self.methods]
        ).reshape(len(self.methods), len(names))
        columns = features(
            names, self.sources, table, [cards[n] for n in names], facts, self.centres, self.scales
        )
        means = columns @ self.mean
        forecast = Forecast(self, names, columns, means, np.zeros(0), frozenset(never))
        return replace(forecast, variances=forecast.prior_variances())

    # -- at rest ------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all."""
        from safetensors.numpy import save

        arrays = {k: np.ascontiguousarray(v) for k, v in vars(self).items()
                  if isinstance(v, np.ndarray)}  # fmt: skip
        header = {k: v for k, v in vars(self).items() if k not in arrays}
        text = json.dumps({"format": _FORMAT, **header}, sort_keys=True, default=dict)
        write_atomically(Path(path), save(arrays, metadata={"calibration": text}))

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what :meth:`save` wrote.

        Raises
        ------
        DataError
            If the file is missing, damaged or something else.
        """
        from safetensors import SafetensorError, safe_open

        advice = "Make it: taskscout study calibrate GRID --out FILE"
        try:
            with safe_open(str(path), framework="numpy") as opened:
                header = json.loads((opened.metadata() or {})["calibration"])
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            if header.pop("format") != _FORMAT:
                raise KeyError("format")
            for name in ("methods", "sources"):
                header[name] = tuple(header[name])
            return cls(**header, **arrays)
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error}).", "A calibration is a file.", advice
            ) from error
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path} is no calibration that this version reads.",
                "It is damaged, or holds something else.",
                advice,
            ) from error


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
    trials
        Real runs that it has taken in.
    """

    calibration: Calibration
    names: tuple[str, ...]
    columns: Array
    means: Array
    variances: Array
    never: frozenset[str] = frozenset()
    trials: tuple[Trial, ...] = ()

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
    def advice(self) -> Pick:
        """What to do: the most promising source, or none where no gain is expected."""
        c = self.calibration
        allowed = [i for i in self.order if self.names[i] not in self.never]
        if not allowed:
            return Pick(None, math.nan, math.nan, math.nan, math.nan,
                        "Train directly: every source holds texts of the target.")  # fmt: skip
        best = allowed[0]
        expected, deviation = float(self.means[best]), math.sqrt(self.variances[best])
        of_picks = np.arange(len(c.pick_residuals))
        width = half_width(c.pick_residuals, of_picks, c.level) * deviation
        ratio = np.array([-expected / deviation])
        chance = float(chance_above(ratio, c.pick_residuals, of_picks)[0])
        low, high = expected - width, expected + width
        name = self.names[best]
        span = f"{c.level:.0%}: {low:+.1f} to {high:+.1f}"
        if expected <= 0 or chance < 0.5:
            sentence = (
                "Train directly: no source is expected to gain more than noise "
                f"(the best, {name}: {expected:+.1f} points, {span})."
            )
            return Pick(None, expected, low, high, chance, sentence)
        sentence = (
            f"Fine-tune on {name} first: {expected:+.1f} points expected ({span}), helps in "
            f"about {round(10 * chance)} of 10 such cases."
        )
        return Pick(name, expected, low, high, chance, sentence)

    def short_list(self, n: int = 3) -> tuple[str, ...]:
        """Sources worth a trial: the n most promising of those that may be recommended.

        Plain order, not diversity: a shrunken covariance between sources, which would leave out
        near-twins, chose no better on the 40 × 15 grid (2.7 points after three trials for 2.9).
        """
        return tuple(self.names[i] for i in self.order if self.names[i] not in self.never)[:n]

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
        c = self.calibration
        if not every:
            return self
        at = [place[t.source] for t in every]
        runs = np.array([t.runs for t in every], np.float64)
        half = c.run_variance / 2
        noise = half * (np.diag(1 / runs) + 1 / np.maximum(runs[:, None], runs[None]))
        means, variances = condition(
            self.columns @ c.mean, self.prior_variances(), self.covariances(at), at,
            np.array([t.gain for t in every]), noise,
        )  # fmt: skip
        least = c.residual - self._latent  # seeds of the result differ, whatever is known
        return replace(
            self, means=means, variances=np.maximum(variances, max(least, 1e-9)), trials=every
        )


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
