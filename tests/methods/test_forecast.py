"""Conformal quantiles, shrinkage and forecasts, against closed forms and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, multivariate_normal

from taskscout.errors import DataError, MethodError
from taskscout.methods.calibration import Calibration, standardised
from taskscout.methods.conformal import chance_above, half_width, target_weights
from taskscout.methods.forecast import Forecast, Trial
from taskscout.methods.gains import Gains
from taskscout.methods.mixed_model import FREE, condition, fit_mixed, refit
from taskscout.studies.calibration import (
    Evidence,
    calibrate,
    honest_oracle,
    out_of_sample,
    pairwise_accuracy,
    race,
    run_variance,
)
from taskscout.tasks import TaskCard

# -- conformal --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 9, 15, 44])
def test_one_residual_per_target_is_split_conformal(n):
    residuals = np.random.default_rng(n).normal(size=n)
    place = math.ceil((n + 1) * 0.8)
    expected = np.sort(np.abs(residuals))[place - 1] if place <= n else math.inf
    assert half_width(residuals, np.arange(n), 0.8) == expected


def test_too_few_targets_give_no_bound():
    assert half_width(np.array([1.0, 2.0, 3.0]), np.arange(3), 0.8) == math.inf


def test_each_target_weighs_the_same_however_many_sources_it_has():
    # One target with a thousand small residuals, four with one large residual each: K = 5.
    residuals = np.concatenate([np.full(1000, 0.1), [5.0, 6.0, 7.0, 8.0]])
    targets = np.array([0] * 1000 + [1, 2, 3, 4])
    assert target_weights(targets).sum() == pytest.approx(5 / 6)
    assert half_width(residuals, targets, 1 / 6) == 0.1
    assert half_width(residuals, targets, 0.5) == 6.0


def test_chance_is_a_distribution_that_counts_targets_alike():
    residuals, targets = np.array([-1.0, 1.0, 1.0, 1.0]), np.array([0, 1, 1, 1])
    # K = 2: each target 1/3, the new one 1/3, of which half counts.
    assert chance_above(np.array([0.0]), residuals, targets)[0] == pytest.approx(1 / 3 + 1 / 6)
    many = chance_above(np.linspace(-3, 3, 50), residuals, targets)
    assert (np.diff(many) <= 0).all()
    assert many[0] == pytest.approx(5 / 6)
    assert many[-1] == pytest.approx(1 / 6)


def test_intervals_cover_new_targets_as_promised():
    rng = np.random.default_rng(0)
    hits = cells = 0
    trials, k = 1500, 12
    for _ in range(trials):
        # Targets with a deviation of their own and different numbers of sources.
        sizes = rng.integers(1, 30, k + 1)
        drawn = [rng.normal(rng.normal(), 1, n) for n in sizes]
        width = half_width(np.concatenate(drawn[:k]), np.repeat(np.arange(k), sizes[:k]), 0.8)
        hits += abs(drawn[k][rng.integers(sizes[k])]) <= width
        cells += 1
    # At least the level, and by less than 1 / (K + 1) more.
    assert binom.ppf(0.001, cells, 0.8) <= hits <= binom.ppf(0.999, cells, 0.8 + 1 / (k + 1))


def test_agrees_with_crepes_where_every_target_has_one_residual():
    crepes = pytest.importorskip("crepes")
    residuals = np.random.default_rng(3).normal(size=37)
    model = crepes.ConformalRegressor()
    model.fit(residuals=residuals)
    low, high = model.predict_int(np.zeros(1), confidence=0.8)[0]
    width = half_width(residuals, np.arange(37), 0.8)
    assert (-low, high) == pytest.approx((width, width))


# -- shrinkage --------------------------------------------------------------------------------


def test_means_of_groups_are_shrunk_by_the_formula():
    rng = np.random.default_rng(1)
    groups, runs = 30, 8
    own = np.repeat(np.arange(groups), runs)
    values = rng.normal(0, 2, groups)[own] + rng.normal(0, 1, groups * runs)
    design = (own[:, None] == np.arange(groups)).astype(float)
    model = fit_mixed(design, values, [0] * groups, iterations=5000, tolerance=1e-9)
    means = values.reshape(groups, runs).mean(1)
    ratio = model.residual / model.prior[0]
    np.testing.assert_allclose(model.mean, means * runs / (runs + ratio), rtol=1e-9)
    # Balanced one-way layout with mean 0: the likelihood's largest value in closed form.
    within = ((values.reshape(groups, runs) - means[:, None]) ** 2).sum() / (groups * (runs - 1))
    between = (means**2).mean()
    assert model.residual == pytest.approx(within, rel=1e-3)
    assert model.prior[0] == pytest.approx(between - within / runs, rel=1e-3)


def test_every_step_makes_the_data_likelier():
    rng = np.random.default_rng(2)
    design = np.column_stack([np.ones(40), rng.normal(size=(40, 6))])
    values = design @ np.array([1.0, 2, -2, 1, 0, 0, 0]) + rng.normal(size=40)
    groups = [FREE, 0, 0, 0, 1, 1, 1]
    before = -np.inf
    for steps in range(0, 40, 4):
        m = fit_mixed(design, values, groups, iterations=steps, tolerance=0)
        covariance = design * m.prior @ design.T + m.residual * np.eye(40)
        now = multivariate_normal(np.zeros(40), covariance).logpdf(values)
        assert now >= before - 1e-9
        before = now
    assert m.prior[1] > 10 * m.prior[4]  # the group that explains nothing is shrunk away


def test_refit_is_the_posterior_of_the_rows_that_are_left():
    rng = np.random.default_rng(4)
    design, values = rng.normal(size=(30, 5)), rng.normal(size=30)
    model = fit_mixed(design, values, [0, 0, 1, 1, 1])
    part = refit(model, design[:20], values[:20])
    covariance = design[:20] * model.prior @ design[:20].T + model.residual * np.eye(20)
    expected = model.prior * (design[:20].T @ np.linalg.solve(covariance, values[:20]))
    np.testing.assert_allclose(part.mean, expected, atol=1e-9)


def test_conditioning_is_that_of_a_joint_gaussian():
    rng = np.random.default_rng(5)
    root = rng.normal(size=(6, 6))
    covariance, mean, at = root @ root.T, rng.normal(size=6), [1, 4]
    noise, observed = np.diag([0.5, 2.0]), np.array([1.0, -1.0])
    means, variances = condition(mean, np.diag(covariance), covariance[:, at], at, observed, noise)
    # Brute force: the joint precision matrix of gains and observations.
    precision = np.linalg.inv(covariance)
    for k, i in enumerate(at):
        precision[i, i] += 1 / noise[k, k]
    after = np.linalg.inv(precision)
    evidence = np.linalg.solve(covariance, mean)
    evidence[at] += observed / np.diag(noise)
    np.testing.assert_allclose(means, after @ evidence)
    np.testing.assert_allclose(variances, np.diag(after))


# -- forecasts --------------------------------------------------------------------------------

SOURCES = tuple(f"s{i}" for i in range(12))


def simulated(seed=0, targets=14, seeds=3, particular=1.0):
    """Transfers from the model's own assumptions: strong sources, a score that tells, noise."""
    rng = np.random.default_rng(seed)
    names = tuple(f"t{j:02d}" for j in range(targets))
    strength = rng.normal(0, 2, len(SOURCES))
    score = rng.normal(size=(targets, len(SOURCES)))
    gain = strength + score + particular * rng.normal(size=(targets, 1))
    gain = gain + rng.normal(0, 1, gain.shape) - 1
    alone = np.full((targets, seeds), 60.0)
    runs = 60 + gain.T[:, :, None] + rng.normal(0, 1, (len(SOURCES), targets, seeds))
    gains = Gains(SOURCES, names, runs, alone, tuple(range(seeds)))
    cards = {n: TaskCard(n, pair=bool(i % 2)) for i, n in enumerate(SOURCES)}
    facts = {t: {"pair": float(j % 2), "regression": 0.0, "words": 10.0 + j, "classes": 2.0,
                 "balance": 1.0, "probe": 0.5} for j, t in enumerate(names)}  # fmt: skip
    return Evidence(gains, {"m": score}, cards, facts)


def test_forecasts_of_unseen_targets_beat_the_prior_and_cover_what_they_promise():
    errors, blind, covered, picked, promised = [], [], [], [], []
    for seed in range(6):
        data = simulated(seed)
        found = out_of_sample(data)
        truth = data.gains.points.T
        prior = np.stack([data.gains.prior(SOURCES, t) for t in data.gains.targets])
        errors.append(((found.expected - truth) ** 2).mean())
        blind.append(((prior - truth) ** 2).mean())
        rows = found.table()
        covered += [r["covered"] for r in rows]
        picked += [r["pick_covered"] for r in rows]
        promised += [r["chance"] - (r["first_gain"] > 0) for r in rows]
    assert np.mean(errors) < 0.8 * np.mean(blind)
    assert 0.74 < np.mean(covered) < 0.9
    n = len(picked)
    assert binom.ppf(0.001, n, 0.8) <= sum(picked) <= binom.ppf(0.999, n, 0.87)
    assert abs(np.mean(promised)) < 0.1


def test_a_left_out_target_plays_no_part_in_its_forecast():
    data = simulated()
    before = out_of_sample(data).expected[3]
    data.gains.scores[:, 3] += np.random.default_rng(9).normal(0, 20, data.gains.scores[:, 3].shape)
    changed = Evidence(
        Gains(SOURCES, data.gains.targets, data.gains.scores, data.gains.alone, (0, 1, 2)),
        data.scores, data.cards, data.facts,
    )  # fmt: skip
    np.testing.assert_allclose(out_of_sample(changed).expected[3], before)
    groups = {t: "one" if j in (3, 4) else t for j, t in enumerate(data.gains.targets)}
    of_group = out_of_sample(changed, groups)
    assert not np.allclose(of_group.expected[4], out_of_sample(changed).expected[4])


def one_forecast(data=None, **options):
    data = data or simulated()
    calibration = calibrate(data, setting={"encoder": "e", "size": 200, "kinds": ["regression"]})
    scores = {"m": {n: float(s) for n, s in zip(SOURCES, data.scores["m"][0], strict=True)}}
    return Forecast.of(calibration, scores, data.cards, data.facts["t00"], **options)


def test_advice_names_the_best_that_may_be_named_with_its_reason():
    forecast = one_forecast()
    rows, advice = forecast.rows, forecast.advice
    assert [r.expected for r in rows] == sorted((r.expected for r in rows), reverse=True)
    assert advice.source == rows[0].source
    assert rows[0].source in advice.sentence
    assert f"{advice.expected:+.1f} points" in advice.sentence
    assert advice.low < advice.expected < advice.high
    assert one_forecast(never=[rows[0].source]).advice.source == rows[1].source
    assert one_forecast(never=SOURCES).advice.to_dict()["expected"] is None


def test_none_is_advised_where_every_source_hurts():
    data = simulated()
    data.gains.scores[:] -= 12
    advice = one_forecast(Evidence(
        Gains(SOURCES, data.gains.targets, data.gains.scores, data.gains.alone, (0, 1, 2)),
        data.scores, data.cards, data.facts,
    )).advice  # fmt: skip
    assert advice.source is None
    assert advice.expected < 0
    assert advice.sentence.startswith("Train directly")


def test_an_unknown_source_is_forecast_with_less_certainty():
    data = simulated()
    calibration = calibrate(data)
    scores = {"m": dict.fromkeys((*SOURCES, "stranger"), 0.5) | {"s1": -0.5}}
    cards = {**data.cards, "stranger": None}
    rows = {r.source: r for r in Forecast.of(calibration, scores, cards, data.facts["t00"]).rows}
    width = {n: r.high - r.low for n, r in rows.items()}
    assert width["stranger"] > max(w for n, w in width.items() if n != "stranger")


def test_trials_move_a_forecast_by_the_posterior():
    forecast = one_forecast()
    n, c = len(SOURCES), forecast.calibration
    after = forecast.with_trials([Trial("s3", 9.0), Trial("s5", -4.0, 2)])
    assert after.trials[1].runs == 2
    at = [3, 5]
    covariance = forecast.covariances(range(n))
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-9)
    # Two trials of 1 and 2 runs beside the same runs of none.
    noise = c.run_variance / 2 * np.array([[2.0, 0.5], [0.5, 1.0]])
    gain = covariance[:, at] @ np.linalg.inv(covariance[np.ix_(at, at)] + noise)
    expected = forecast.means + gain @ (np.array([9.0, -4.0]) - forecast.means[at])
    np.testing.assert_allclose(after.means, expected)
    assert (after.variances <= forecast.variances + 1e-12).all()
    # In two steps as in one.
    steps = forecast.with_trials([Trial("s3", 9.0)]).with_trials([Trial("s5", -4.0, 2)])
    np.testing.assert_allclose(steps.means, after.means)
    for wrong in (Trial("nobody", 1.0), Trial("s1", math.nan), Trial("s1", 1.0, 0)):
        with pytest.raises(MethodError):
            forecast.with_trials([wrong])


def test_a_calibration_at_rest_says_the_same(tmp_path):
    data = simulated()
    calibration = calibrate(data, setting={"encoder": "e", "size": 200}, report={"a": [1.5]})
    calibration.save(tmp_path / "c.safetensors")
    read = Calibration.load(tmp_path / "c.safetensors")
    scores = {"m": dict.fromkeys(SOURCES, 0.0) | {"s2": 1.0}}
    one, other = (Forecast.of(c, scores, data.cards, {"pair": 1.0}) for c in (calibration, read))
    assert one.rows == other.rows
    assert one.advice == other.advice
    assert read.report == {"a": [1.5]}
    (tmp_path / "c.safetensors").write_bytes(b"no")
    with pytest.raises(DataError, match="no calibration"):
        Calibration.load(tmp_path / "c.safetensors")
    with pytest.raises(DataError, match="cannot be read|no calibration"):
        Calibration.load(tmp_path / "missing")


def test_what_a_calibration_does_not_fit_is_said():
    calibration = one_forecast().calibration
    assert calibration.differs(encoder="e", rows=200, kind="regression") == ()
    notes = calibration.differs(encoder="other", rows=1000, kind="tagging")
    assert len(notes) == 3
    with pytest.raises(MethodError, match="reads scores of m"):
        Forecast.of(calibration, {}, {"s1": None}, {})


def test_scores_are_standardised_over_sources_the_grid_knows():
    scores = np.array([0.0, 1, 2, 3, 4, 100.0, np.nan])
    known = np.array([True] * 5 + [False, True])
    z = standardised(scores, known)
    np.testing.assert_allclose(z[:5], (np.arange(5) - 2) / np.sqrt(2))
    assert z[6] == 0
    assert (standardised(np.ones(7), known) == 0).all()


def test_honest_oracle_and_pairs_by_hand():
    runs = np.array([[[3.0, 0.0, 1.0]], [[2.0, 2.0, 2.0]], [[0.0, 5.0, -5.0]]]) + 50
    gains = Gains(("a", "b", "c"), ("t",), runs, np.full((1, 3), 50.0), (0, 1, 2))
    # Without seed 0: a .5, b 2, c 0 -> b 2; without 1: a 2, b 2 (a first) -> 0; without 2: c -> -5.
    assert honest_oracle(gains)[0] == pytest.approx((2 + 0 - 5) / 3)
    assert run_variance(gains) == pytest.approx(np.mean([7 / 3, 0, 25]))
    wide = Gains(("a", "b", "c"), ("t",), np.array([[[60.0]], [[55.0]], [[50.0]]]),
                 np.array([[50.0]]), (0,))  # fmt: skip
    assert pairwise_accuracy(wide, np.array([[3.0, 1.0, 1.0]]))[0] == pytest.approx(2.5 / 3)


def test_trials_help_where_forecasts_are_blind():
    data = simulated(3, particular=0.0)
    blind = out_of_sample(Evidence(data.gains, {}, {}, {}))
    gained = [np.nanmean(race(blind, n)) for n in (0, 5)]
    assert gained[1] > gained[0]
