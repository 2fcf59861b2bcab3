"""Variance components against the analysis of variance and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from taskscout.errors import StudyError
from taskscout.methods.gains import Gains
from taskscout.studies.variance import variance_components


def made(rng, shape, *, source=0.0, target=0.0, interaction=0.0, seed=0.0, run=0.0):
    """A grid of gains whose parts have these variances; direct training scores 50."""
    s, t, k = shape
    parts = (
        (source, (s, 1, 1)), (target, (1, t, 1)), (interaction, (s, t, 1)), (seed, (1, t, k)),
        (run, (s, t, k)),
    )  # fmt: skip
    scores = np.full(shape, 50.0)
    for variance, size in parts:
        scores = scores + np.sqrt(variance) * rng.normal(size=size)
    names = tuple(f"s{i}" for i in range(s)), tuple(f"t{i}" for i in range(t))
    return Gains(*names, scores, np.full((t, k), 50.0), tuple(range(k)))


def analysis_of_variance(y):
    """Mean squares of sources x targets x seeds within targets, solved for the components."""
    s, t, k = y.shape
    grand = y.mean()
    by_source, by_target, cell = y.mean((1, 2)), y.mean((0, 2)), y.mean(2)
    by_seed = y.mean(0)
    ms_source = t * k * ((by_source - grand) ** 2).sum() / (s - 1)
    ms_target = s * k * ((by_target - grand) ** 2).sum() / (t - 1)
    both = cell - by_source[:, None] - by_target + grand
    ms_both = k * (both**2).sum() / ((s - 1) * (t - 1))
    ms_seed = s * ((by_seed - by_target[:, None]) ** 2).sum() / (t * (k - 1))
    rest = y - cell[:, :, None] - by_seed + by_target[:, None]
    ms_run = (rest**2).sum() / (t * (s - 1) * (k - 1))
    seed = (ms_seed - ms_run) / s
    return {
        "run": ms_run,
        "seed": seed,
        "interaction": (ms_both - ms_run) / k,
        "source": (ms_source - ms_both) / (t * k),
        "target": (ms_target - ms_both - ms_seed + ms_run) / (s * k),
    }


@pytest.mark.parametrize("shape", [(4, 3, 2), (7, 5, 3), (12, 9, 4)])
def test_a_whole_grid_is_the_analysis_of_variance(shape):
    rng = np.random.default_rng(0)
    gains = made(rng, shape, source=2, target=3, interaction=5, seed=1, run=4)
    found = variance_components(gains, draws=10)
    for name, expected in analysis_of_variance(gains.scores - 50).items():
        assert getattr(found, name) == pytest.approx(expected), name
    assert found.noise == pytest.approx(found.run / shape[2])
    assert (found.sources, found.targets, found.seeds) == shape


def test_estimates_are_unbiased_with_missing_runs():
    rng = np.random.default_rng(1)
    true = {"source": 2.0, "target": 3.0, "interaction": 5.0, "seed": 1.0, "run": 4.0}
    estimates = []
    for _ in range(400):
        gains = made(rng, (12, 10, 3), **true)
        gains.scores[rng.random(gains.scores.shape) < 0.25] = np.nan
        estimates.append(variance_components(gains, draws=1))
    for name, variance in true.items():
        values = np.array([getattr(e, name) for e in estimates])
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - variance) < 3.5 * error, name


def test_intervals_cover():
    """A target drawn twice is not compared with itself: that would add strength."""
    rng = np.random.default_rng(2)
    inside, low_side = 0, 0
    for i in range(120):
        gains = made(rng, (40, 15, 2), interaction=6, run=2)  # no strength at all
        low, high = variance_components(gains, draws=200, seed=i).intervals["source"]
        inside += low <= 0 <= high
        low_side += low > 0
    assert inside / 120 > 0.8
    assert low_side / 120 < 0.15


def test_one_run_each_takes_its_noise_from_direct_training():
    rng = np.random.default_rng(3)
    gains = made(rng, (60, 60, 1), source=2, interaction=5, run=4)
    scores = np.concatenate([gains.scores, np.full((60, 60, 19), np.nan)], 2)
    alone = 50 + 2 * rng.normal(size=(60, 20))
    found = variance_components(
        Gains(gains.sources, gains.targets, scores, alone, tuple(range(20)))
    )
    assert found.run == pytest.approx(4, rel=0.15)
    assert found.noise == pytest.approx(found.run)
    assert found.interaction == pytest.approx(5, abs=1)
    assert np.isnan(found.seed)
    # Where direct training ran once, too, nothing tells noise from interaction.
    once = variance_components(gains)
    assert np.isnan(once.run)
    assert once.interaction == pytest.approx(9, abs=1)
    assert once.to_dict()["run"] == {"value": None, "low": None, "high": None}


def test_strength():
    rng = np.random.default_rng(4)
    strong = variance_components(made(rng, (30, 12, 2), source=5, run=1), draws=50)
    match = variance_components(made(rng, (30, 12, 2), interaction=5, run=1), draws=50)
    assert strong.strength > 0.95
    assert match.strength < 0.1
    assert strong.intervals["strength"][0] > match.intervals["strength"][1]


def test_too_little_to_split():
    rng = np.random.default_rng(5)
    with pytest.raises(StudyError, match="1 targets, no two of which"):
        variance_components(made(rng, (5, 1, 2), run=1))
    gains = made(rng, (5, 4, 2), run=1)
    gains.alone[:] = np.nan
    with pytest.raises(StudyError, match="run without a source"):
        variance_components(gains)
