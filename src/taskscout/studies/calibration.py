"""Fit a forecast on a grid of real transfers, and hold it against targets it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import StudyError
from taskscout.methods.calibration import Calibration, features
from taskscout.methods.expression import parse_method
from taskscout.methods.forecast import Forecast, Trial
from taskscout.methods.gains import Gains, mean_of_known
from taskscout.methods.method import resolve
from taskscout.methods.mixed_model import FREE, MixedModel, fit_mixed, refit
from taskscout.methods.target_facts import evidence_of, fact_values, target_facts
from taskscout.models.encoder import Encoder
from taskscout.models.workbench import Workbench
from taskscout.studies.predictions import Materials, predict
from taskscout.tasks import TaskCard
from taskscout.tasks.kinds import SEQUENCE_KINDS

Array = NDArray[np.float64]

#: Share of results that intervals cover.
LEVEL = 0.8
#: Fewer targets do not say how far forecasts of new ones miss.
LEAST_TARGETS = 5


@dataclass(frozen=True, eq=False)
class Evidence:
    """What forecasts are fitted on.

    Attributes
    ----------
    gains
        A grid.
    scores
        By method, targets × sources of the grid, NaN where there is none.
    cards
        Of sources; those without one match nothing.
    facts
        By target (:func:`taskscout.methods.target_facts.target_facts`); may be missing.
    """

    gains: Gains
    scores: Mapping[str, Array] = field(default_factory=dict)
    cards: Mapping[str, TaskCard] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def without(self, targets: Collection[str]) -> Evidence:
        """Leave out all that is known of some targets."""
        stay = [i for i, t in enumerate(self.gains.targets) if t not in targets]
        names = [self.gains.targets[i] for i in stay]
        return replace(
            self,
            gains=self.gains.with_targets(names),
            scores={m: s[stay] for m, s in self.scores.items()},
            facts={t: f for t, f in self.facts.items() if t not in targets},
        )

    def candidates(self, target: str) -> list[int]:
        """Places of the sources that were run on a target."""
        j = self.gains.targets.index(target)
        return np.flatnonzero(~np.isnan(self.gains.points[:, j])).tolist()

    def forecast(
        self, calibration: Calibration, target: str, candidates: Sequence[int]
    ) -> Forecast:
        """What a calibration says of a target of this grid, its results unseen."""
        j = self.gains.targets.index(target)
        names = [self.gains.sources[i] for i in candidates]
        scores = {
            m: {n: float(self.scores[m][j, i]) for n, i in zip(names, candidates, strict=True)}
            for m in calibration.methods
        }
        cards = {n: self.cards.get(n) for n in names}
        return Forecast.of(calibration, scores, cards, self.facts.get(target, {}))


def gather(
    gains: Gains,
    methods: Sequence[str],
    materials: Materials,
    bench: Workbench,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Evidence, tuple[str, ...]]:
    """Ask methods about every pair of a grid, and look at its targets.

    Parameters
    ----------
    gains
        The grid.
    methods
        Whose scores forecasts are to read; none for sources' own gains and cards alone.
    materials
        Where data and descriptions are; targets are read at the size that training saw.
    bench
        With the grid's encoder.
    progress
        Called with (what, done, total).

    Returns
    -------
    The evidence, without the targets whose data are not at hand; and lines for the user.

    Raises
    ------
    StudyError
        If a method has no scores on this grid, or no target's data are at hand.
    """
    asked = predict(gains, methods, materials, bench, progress=progress) if methods else None
    scores = {} if asked is None else {p.method: p.scores for p in asked.predicted}
    none = {} if asked is None else {p.method: p.none for p in asked.predicted}
    lacking = [m for m in methods if resolve(m) not in scores]
    if lacking:
        raise StudyError(
            f"{lacking[0]} has no scores on this grid.",
            "A forecast that reads it cannot be fitted. "
            + " ".join(() if asked is None else asked.notes[:2]),
            "Name a method that serves these targets and sources with --method.",
        )
    facts: dict[str, dict[str, float]] = {}
    for j, name in enumerate(gains.targets):
        target = materials.target(name)
        if target is None or target.kind not in SEQUENCE_KINDS:
            continue
        facts[name] = target_facts(target, bench)
        for method in methods:
            values = np.append(scores[resolve(method)][j], none[resolve(method)][j])
            evidence = evidence_of(target, parse_method(method), values)
            if not math.isnan(evidence):
                facts[name]["evidence"] = evidence
        bench.forget(target)
    notes = [] if asked is None else list(asked.notes)
    left_out = [t for t in gains.targets if t not in facts]
    if left_out:
        notes.append(f"not fitted on, without data or of another kind: {', '.join(left_out)}")
    cards = {s: card for s in gains.sources if (card := materials.card(s)) is not None}
    return Evidence(gains, scores, cards, facts).without(left_out), tuple(notes)


def setting_of(
    table: Any, where: Mapping[str, str], evidence: Evidence, encoder: Encoder, size: int
) -> dict[str, Any]:
    """What a calibration belongs to, as far as the table of runs says.

    Parameters
    ----------
    table
        The Arrow table of runs.
    where
        Which of its runs were chosen.
    evidence
        What was made of them.
    encoder
        That everything starts from.
    size
        Examples of each target that training saw.
    """
    said = {
        name: str(table.column(name)[0].as_py())
        for name in ("tuning", "recipe")
        if name in table.column_names and len(table.column(name).unique()) == 1
    }
    regression = {bool(f["regression"]) for f in evidence.facts.values()}
    names = {True: "regression", False: "classification"}
    return {
        "encoder": encoder.fingerprint, "model": encoder.model_id, "tuning": "unknown", **said,
        **{k: v for k, v in where.items() if k in ("tuning", "recipe")}, "size": size,
        "kinds": sorted(names[r] for r in regression), "targets": len(evidence.gains.targets),
    }  # fmt: skip


def summary(results: OutOfSample) -> dict[str, Any]:
    """What forecasts of unseen targets were worth: coverage, widths, and what advice gained."""
    rows = results.table()

    def mean(key: str) -> float:
        return float(np.mean([r[key] for r in rows]))

    wide = [r["high"] - r["low"] for r in rows if math.isfinite(r["high"] - r["low"])]
    return {
        "targets": len(rows),
        "rows covered": mean("covered"), "row width": mean("width"),
        "picks covered": mean("pick_covered"),
        "pick width": float(np.mean(wide)) if wide else math.nan,
        "brier": mean("brier"), "brier of the base rate": mean("helped") * (1 - mean("helped")),
        "advice gains": mean("gain"), "mean source gains": mean("mean"),
        "honest oracle gains": float(np.nanmean(honest_oracle(results.evidence.gains)))
        if len(results.evidence.gains.seed_names) > 1 else None,
        "noise": float(np.sqrt(run_variance(results.evidence.gains)
                               / len(results.evidence.gains.seed_names))),
    }  # fmt: skip


def run_variance(gains: Gains) -> float:
    """Variance of one run's gain between seeds, pooled over cells; 0 with one seed."""
    runs = gains.scores - gains.alone
    known = ~np.isnan(runs)
    freedom = np.maximum(known.sum(2) - 1, 0)
    if not freedom.any():
        return 0.0
    errors = np.where(known, runs - mean_of_known(runs)[..., None], 0.0)
    return float((errors**2).sum() / freedom.sum())


def calibrate(
    evidence: Evidence,
    *,
    setting: Mapping[str, Any] | None = None,
    level: float = LEVEL,
    report: Mapping[str, Any] | None = None,
) -> Calibration:
    """Fit a calibration on all targets of a grid.

    Weights and variances are fitted on every cell; then each target is left out and forecast by
    weights fitted on the others, with the variances kept, and what these forecasts miss says how
    wide intervals are.

    Parameters
    ----------
    evidence
        The grid, with the scores of the methods to read.
    setting
        What the calibration belongs to.
    level
        Share of results that intervals are to cover.
    report
        What was measured out of sample, to travel with it.

    Raises
    ------
    StudyError
        If the grid has fewer than :data:`LEAST_TARGETS` targets.
    """
    gains = evidence.gains
    targets = [t for t in gains.targets if evidence.candidates(t)]
    if len(targets) < LEAST_TARGETS:
        raise StudyError(
            f"The grid has results for {len(targets)} targets.",
            f"Fewer than {LEAST_TARGETS} do not say how far a forecast of a new target misses.",
            "Run more targets: taskscout grid run STUDY",
        )
    told = np.array([fact_values(evidence.facts.get(t, {})) for t in targets])
    centres = np.nan_to_num(mean_of_known(told.T))
    scales = np.sqrt(np.nan_to_num(mean_of_known(((told - centres) ** 2).T)))
    scales = np.where(scales > 1e-9, scales, 1.0)
    parts, values, numbers = [], [], []
    for number, target in enumerate(targets):
        at = evidence.candidates(target)
        j = gains.targets.index(target)
        names = [gains.sources[i] for i in at]
        table = np.array([s[j, at] for s in evidence.scores.values()]).reshape(-1, len(at))
        cards = [evidence.cards.get(n) for n in names]
        facts = evidence.facts.get(target, {})
        parts.append(features(names, gains.sources, table, cards, facts, centres, scales))
        values.append(gains.points[at, j])
        numbers.append(np.full(len(at), number))
    columns, truth, of = np.vstack(parts), np.concatenate(values), np.concatenate(numbers)
    m, s, f = len(evidence.scores), len(gains.sources), told.shape[1]
    q = columns.shape[1]
    # Groups: each score, each match, all facts, a source's own, its own by pair; then what is
    # particular to targets, in all gains and in each score.
    groups = [FREE, *range(m), m, m + 1, *[m + 2] * f, *[m + 3] * s, *[m + 4] * s]
    particular = (of[:, None] == np.arange(len(targets))).astype(np.float64)
    design = np.column_stack(
        [columns, particular, *(particular * columns[:, [1 + i]] for i in range(m))]
    )
    groups += [m + 5 + i for i in range(m + 1) for _ in targets]
    model = fit_mixed(design, truth, groups)
    first = {g: model.prior[groups.index(g)] for g in set(groups)}
    spread = run_variance(gains)
    runs = max(round(float(gains.seeds[gains.seeds > 0].mean())), 1)

    def calibration_of(fitted: MixedModel) -> Calibration:
        return Calibration(
            setting=dict(setting or {}),
            methods=tuple(evidence.scores),
            sources=gains.sources,
            level=level,
            seeds=runs,
            centres=centres,
            scales=scales,
            mean=fitted.mean[:q],
            covariance=fitted.covariance[:q, :q],
            own_variances=np.array([first[m + 3], first[m + 4]]),
            target_variance=float(first[m + 5]),
            slope_variances=np.array([first[m + 6 + i] for i in range(m)]),
            residual=fitted.residual,
            run_variance=spread,
            report=dict(report or {}),
        )

    residuals, picks = [], []
    for number, target in enumerate(targets):
        rest = calibration_of(refit(model, design[of != number], truth[of != number]))
        forecast = evidence.forecast(rest, target, evidence.candidates(target))
        missed = (truth[of == number] - forecast.means) / np.sqrt(forecast.variances)
        residuals.append(missed)
        picks.append(missed[forecast.order[0]])
    return replace(
        calibration_of(model),
        residuals=np.concatenate(residuals),
        residual_targets=of.astype(np.int64),
        pick_residuals=np.array(picks),
    )


# -- out of sample ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class OutOfSample:
    """Forecasts of targets whose whole group was left out of the fit.

    Attributes
    ----------
    evidence
        The grid.
    groups
        By target.
    forecasts
        By target, over the sources that were run on it.
    """

    evidence: Evidence
    groups: Mapping[str, str]
    forecasts: Mapping[str, Forecast]

    @property
    def expected(self) -> Array:
        """Expected gains, targets × sources, NaN where nothing was run."""
        gains = self.evidence.gains
        out = np.full((len(gains.targets), len(gains.sources)), np.nan)
        for j, target in enumerate(gains.targets):
            if target in self.forecasts:
                out[j, self.evidence.candidates(target)] = self.forecasts[target].means
        return out

    def table(self) -> list[dict[str, Any]]:
        """One row per target: what was covered, how wide, what was picked and what came of it."""
        out = []
        gains = self.evidence.gains
        for target, forecast in self.forecasts.items():
            truth = {gains.sources[i]: gains.points[i, gains.targets.index(target)]
                     for i in self.evidence.candidates(target)}  # fmt: skip
            rows, pick = forecast.rows, forecast.advice
            first = forecast.names[forecast.order[0]]
            gained = float(truth[first])
            results = np.array([truth[r.source] for r in rows])
            low, high = np.array([r.low for r in rows]), np.array([r.high for r in rows])
            chances = np.array([r.chance for r in rows])
            out.append({
                "target": target, "group": self.groups[target],
                "covered": float(((low <= results) & (results <= high)).mean()),
                "width": float((high - low).mean()),
                "first": first, "advised": pick.source, "expected": pick.expected,
                "low": pick.low, "high": pick.high, "chance": pick.chance,
                "first_gain": gained, "gain": gained if pick.source else 0.0,
                "pick_covered": bool(pick.low <= gained <= pick.high),
                "best": float(results.max()), "mean": float(results.mean()),
                "brier": float(((chances - (results > 0)) ** 2).mean()),
                "helped": float((results > 0).mean()),
            })  # fmt: skip
        return out


def out_of_sample(
    evidence: Evidence, groups: Mapping[str, str] | None = None, *, level: float = LEVEL
) -> OutOfSample:
    """Forecast every target by a calibration that saw none of its group.

    Parameters
    ----------
    evidence
        The grid.
    groups
        Group of each target, such as its family; None leaves out one target at a time.
    level
        As for :func:`calibrate`.
    """
    targets = [t for t in evidence.gains.targets if evidence.candidates(t)]
    of = {t: (groups[t] if groups is not None else t) for t in targets}
    forecasts: dict[str, Forecast] = {}
    for group in dict.fromkeys(of.values()):
        left_out = [t for t in targets if of[t] == group]
        calibration = calibrate(evidence.without(left_out), level=level)
        for target in left_out:
            forecasts[target] = evidence.forecast(calibration, target, evidence.candidates(target))
    return OutOfSample(evidence, of, {t: forecasts[t] for t in targets})


def honest_oracle(gains: Gains) -> Array:
    """Gain of the source chosen by all seeds but one, on the seed left out; mean, per target.

    NaN with one seed: choosing and judging by one run is the winner's curse.
    """
    runs = (gains.scores - gains.alone).transpose(1, 0, 2)
    out = np.full((len(gains.targets), runs.shape[2]), np.nan)
    for k in range(runs.shape[2]):
        others = mean_of_known(np.delete(runs, k, axis=2)) if runs.shape[2] > 1 else runs[..., 0]
        for j in range(len(gains.targets)):
            usable = ~np.isnan(others[j]) & ~np.isnan(runs[j, :, k])
            if usable.any() and runs.shape[2] > 1:
                out[j, k] = runs[j, np.where(usable, others[j], -np.inf).argmax(), k]
    return mean_of_known(out)


def pairwise_accuracy(gains: Gains, predicted: Array, *, errors: float = 1.0) -> Array:
    """Share of pairs of sources that are put in the right order, per target.

    Pairs whose gains differ by less than so many standard errors of the difference between two
    sources (the runs of ``none`` cancel) are ties within noise and left out; equal predictions
    count half.

    Parameters
    ----------
    gains
        The grid.
    predicted
        Targets × sources, higher is better; pairs with a NaN are left out.
    errors
        Standard errors within which two sources are tied.
    """
    runs = run_variance(gains)
    seeds = max(float(gains.seeds[gains.seeds > 0].mean()), 1.0)
    least = errors * math.sqrt(runs / seeds)
    out = np.full(len(gains.targets), np.nan)
    for j in range(len(gains.targets)):
        truth = gains.points[:, j][:, None] - gains.points[:, j][None]
        guess = predicted[j][:, None] - predicted[j][None]
        counted = (truth > least) & ~np.isnan(guess)
        if counted.any():
            out[j] = float((np.sign(guess[counted]) + 1).mean() / 2)
    return out


def race(results: OutOfSample, n: int, *, known_first: Mapping[str, Sequence[str]] | None = None,
         fold: bool = True) -> Array:  # fmt: skip
    """Gain after n trials, each a real run of one seed, judged on the other seeds; per target.

    The run stands for a trial at its best: a real trial trains on a part of the target's rows.

    Parameters
    ----------
    results
        Forecasts that did not see their targets.
    n
        Sources tried; 0 for the forecast alone.
    known_first
        The order in which sources are tried, by target; None for the forecast's.
    fold
        Choose by the forecast with the trials as evidence, and train directly where nothing is
        expected to gain; else by the trials alone.
    """
    gains = results.evidence.gains
    runs = gains.scores - gains.alone
    out = np.full((len(gains.targets), runs.shape[2]), np.nan)
    place = {name: i for i, name in enumerate(gains.sources)}
    for target, forecast in results.forecasts.items():
        j = gains.targets.index(target)
        order = forecast.short_list(len(forecast.names))
        if known_first is not None:
            order = tuple(s for s in known_first[target] if s in forecast.names)
        for k in range(runs.shape[2]):
            trials = [Trial(s, float(runs[place[s], j, k])) for s in order
                      if not np.isnan(runs[place[s], j, k])][:n]  # fmt: skip
            if fold:
                chosen = forecast.with_trials(trials).advice.source
            elif trials:
                best = max(trials, key=lambda t: t.gain)
                chosen = best.source if best.gain > 0 else None
            else:
                chosen = order[0]
            if chosen is None:
                out[j, k] = 0.0
            else:
                out[j, k] = mean_of_known(np.delete(runs[place[chosen], j], k)[None])[0]
    return mean_of_known(out)
