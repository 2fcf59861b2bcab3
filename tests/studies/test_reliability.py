"""The honest oracle, agreement of seeds and noise of runs, against hand counts and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from taskscout.methods.gains import Gains
from taskscout.studies.reliability import (
    Reliability,
    honest_oracle,
    reliability,
    run_variance,
    standard_errors,
)
from tests.studies.noisy import grid


def test_the_oracle_by_hand():
    gains = grid(n_seeds=3, noise=4.0)
    found = honest_oracle(["pick-gain", "spearman", "top-mean@2"], gains)
    assert set(found) == {"pick-gain", "top-mean@2"}  # the others are no means of true scores
    for k in range(3):
        others = [i for i in range(3) if i != k]
        for t in range(5):
            order = np.argsort(-gains.scores[:, t, others].mean(1))
            gain = gains.scores[order[0], t, k] - gains.alone[t, k]
            assert found["pick-gain"][k, t] == pytest.approx(gain)
            first_two = gains.scores[order[:2], t, k].mean()
            assert found["top-mean@2"][k, t] == pytest.approx(first_two)
    assert honest_oracle(["pick-gain"], grid(n_seeds=1)) == {}


def test_the_oracle_has_no_winners_curse():
    """Sources that differ by nothing but noise: the best of a grid seems to gain, choosing does not."""
    rng = np.random.default_rng(0)
    scores, alone = 60 + 3 * rng.normal(size=(30, 200, 3)), np.full((200, 3), 60.0)
    names = tuple(f"s{i}" for i in range(30)), tuple(f"t{i}" for i in range(200))
    gains = Gains(*names, scores, alone, (0, 1, 2))
    assert gains.points.max(0).mean() > 3
    assert abs(honest_oracle(["pick-gain"], gains)["pick-gain"].mean()) < 0.4


def test_the_oracle_of_missing_runs():
    gains = grid(n_seeds=2)
    gains.scores[:, 0, 1] = np.nan
    found = honest_oracle(["pick-gain"], gains)["pick-gain"]
    assert np.isnan(found[:, 0]).all()
    assert np.isfinite(found[:, 1:]).all()


def test_spearman_brown():
    trust = Reliability(0.49, 3)
    assert trust.of_the_mean == pytest.approx(3 * 0.49 / (1 + 2 * 0.49))
    assert trust.attainable == pytest.approx(np.sqrt(trust.of_the_mean))
    # Simulated: the mean of three correlates with another mean of three as foretold.
    rng = np.random.default_rng(1)
    real = rng.normal(0, 1, (400, 60, 1))
    names = tuple(f"s{i}" for i in range(400)), tuple(f"t{i}" for i in range(60))
    scores = real + rng.normal(0, 1, (400, 60, 3))
    again = real + rng.normal(0, 1, (400, 60, 3))
    found = reliability(Gains(*names, scores, np.zeros((60, 3)), (0, 1, 2)))
    means = [np.corrcoef(scores[:, t].mean(1), again[:, t].mean(1))[0, 1] for t in range(60)]
    assert found.of_the_mean == pytest.approx(np.mean(means), abs=0.03)
    truth = [np.corrcoef(scores[:, t].mean(1), real[:, t, 0])[0, 1] for t in range(60)]
    assert found.attainable == pytest.approx(np.mean(truth), abs=0.02)
    assert np.isnan(reliability(grid(n_seeds=1)).attainable)


def test_agreement_of_seeds_by_hand():
    gains = grid(n_seeds=2, noise=3.0)
    gains.scores[0, 0, 0] = np.nan
    by_hand = [spearmanr(*gains.scores[1 if t == 0 else 0 :, t].T)[0] for t in range(5)]
    assert reliability(gains).between_seeds == pytest.approx(np.mean(by_hand))


def test_the_noise_of_runs():
    # A whole table: the residual mean square of sources x seeds.
    rng = np.random.default_rng(2)
    scores = rng.normal(60, 4, (9, 3, 4))
    residual = (
        scores - scores.mean(0) - scores.mean(2, keepdims=True) + scores.mean((0, 2))[:, None]
    )
    np.testing.assert_allclose(run_variance(scores), (residual**2).sum((0, 2)) / (8 * 3))
    # With missing runs it stays unbiased, and what a seed adds to all sources is no noise.
    many = 60 + 2.0 * rng.normal(size=(12, 3000, 3)) + 5 * rng.normal(size=(1, 3000, 3))
    many[rng.random(many.shape) < 0.2] = np.nan
    assert np.nanmean(run_variance(many)) == pytest.approx(4.0, rel=0.03)


def test_standard_errors():
    gains = grid(n_seeds=4)
    gains.scores[2, 1, 2:] = np.nan
    gains.scores[3, 1] = np.nan
    found = standard_errors(gains)
    variance = run_variance(gains.scores)
    assert found.shape == (5, 8)
    assert found[1, 2] == pytest.approx(np.sqrt(variance[1] / 2))
    assert found[1, 0] == pytest.approx(np.sqrt(variance[1] / 4))
    assert np.isnan(found[1, 3])
    assert standard_errors(grid(n_seeds=1)) is None
