"""Intervals and sign-flip tests, against theory and against every flip written out."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from taskscout.methods.gains import Gains
from taskscout.studies.significance import interval, seed_draws, sign_flip_test, smallest_p
from tests.studies.noisy import grid


def test_seed_draws_are_means_of_resampled_runs():
    gains = grid(n_seeds=3)
    gains.scores[0, 0, 1:] = np.nan
    scores, alone = seed_draws(gains, 400, np.random.default_rng(0))
    assert scores.shape == (400, 5, 8)
    # A cell with one run always has that run's score.
    np.testing.assert_allclose(scores[:, 0, 0], gains.scores[0, 0, 0])
    one = gains.scores[3, 2]
    from itertools import combinations_with_replacement

    possible = [np.mean(c) for c in combinations_with_replacement(one, 3)]
    nearest = np.abs(scores[:, 2, 3, None] - possible).min(1)
    assert nearest.max() < 1e-9
    np.testing.assert_allclose(scores.mean(0)[2, 3], one.mean(), atol=0.15)
    # Runs of one seed stay together: where all sources share a shift per seed, so do the draws.
    shifted = Gains(
        gains.sources, gains.targets,
        np.broadcast_to(np.array([0.0, 1.0, 5.0]), (8, 5, 3)).copy(),
        np.broadcast_to(np.array([0.0, 1.0, 5.0]), (5, 3)).copy(), (0, 1, 2),
    )  # fmt: skip
    scores, alone = seed_draws(shifted, 50, np.random.default_rng(0))
    np.testing.assert_allclose(scores, np.broadcast_to(alone[..., None], scores.shape))
    assert len(np.unique(alone.round(9))) > 3


def test_interval_agrees_with_theory():
    rng = np.random.default_rng(0)
    values = rng.normal(3, 2, 400)
    low, high = interval(values[None], values.mean(), draws=4000)
    error = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - error, abs=0.03)
    assert high == pytest.approx(values.mean() + error, abs=0.03)
    # Noise over seeds widens it; what all draws share does not move it.
    noisy = values + rng.normal(1.0, 4, (50, 400))
    wide = interval(noisy, values.mean(), draws=4000)
    assert wide[1] - wide[0] > 1.8 * (high - low)
    assert np.mean(wide) == pytest.approx(values.mean(), abs=0.05)
    assert np.isnan(interval(np.array([[1.0, 2.0, 3.0, 4.0, np.nan]]), 2.5)).all()
    assert interval(values[None], 3.0, low=2.99, high=3.01) == (2.99, 3.01)


def test_intervals_cover_what_they_should():
    rng = np.random.default_rng(1)
    hits = 0
    for i in range(200):
        values = rng.normal(0, 1, (1, 20))
        low, high = interval(values, values.mean(), draws=400, seed=i)
        hits += low <= 0 <= high
    assert 0.87 <= hits / 200 <= 0.99


def by_enumeration(differences):
    """Raw and step-down max-T adjusted p, with every sign flip written out."""
    n, m = differences.shape
    size = np.sqrt((differences**2).sum(0))
    observed = [abs(differences[:, j].sum()) / size[j] for j in range(m)]
    strongest_first = sorted(range(m), key=lambda j: -observed[j])
    flips = [np.array(signs) for signs in product([1, -1], repeat=n)]
    statistics = [[abs((s * differences[:, j]).sum()) / size[j] for j in range(m)] for s in flips]
    raw = [np.mean([t[j] >= observed[j] - 1e-9 for t in statistics]) for j in range(m)]
    adjusted, least = [0.0] * m, 0.0
    for place, j in enumerate(strongest_first):
        weaker = strongest_first[place:]
        share = np.mean([max(t[k] for k in weaker) >= observed[j] - 1e-9 for t in statistics])
        adjusted[j] = least = max(least, share)
    return raw, adjusted


def test_sign_flips_against_every_flip_written_out():
    rng = np.random.default_rng(0)
    for n, m in ((3, 1), (5, 2), (8, 4), (9, 6)):
        differences = rng.normal(rng.normal(0, 0.7, m), 1, (n, m))
        found = sign_flip_test(differences)
        raw, adjusted = by_enumeration(differences)
        np.testing.assert_allclose(found.p, raw)
        np.testing.assert_allclose(found.p_adjusted, adjusted)


def test_sign_flips_against_scipy():
    from scipy.stats import permutation_test as theirs

    rng = np.random.default_rng(0)
    d = rng.normal(0.4, 1, 12)
    expected = theirs((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip_test(d[:, None]).p[0] == pytest.approx(expected)
    large = rng.normal(0.3, 1, 25)
    expected = theirs((large,), np.mean, permutation_type="samples", n_resamples=20000,
                      rng=0).pvalue  # fmt: skip
    assert sign_flip_test(large[:, None]).p[0] == pytest.approx(expected, abs=0.02)


def test_sign_flips_with_missing_targets_and_no_difference():
    rng = np.random.default_rng(1)
    d = rng.normal(0.4, 1, 12)
    some = np.where(np.arange(12) < 3, np.nan, d)
    found = sign_flip_test(np.stack([d, some, np.zeros(12), np.full(12, np.nan)], 1))
    assert found.p[0] == pytest.approx(sign_flip_test(d[:, None]).p[0])
    assert found.p[1] == pytest.approx(sign_flip_test(d[3:, None]).p[0])
    assert found.p[2] == found.p_adjusted[2] == 1
    assert np.isnan(found.p[3])
    assert np.isnan(found.p_adjusted[3])


def test_many_comparisons_leave_small_p_values_possible():
    """Thirteen targets and hundreds of pairs: Holm's floor was 231 x 2^-12 = 0.056."""
    rng = np.random.default_rng(2)
    differences = rng.normal(0, 1, (13, 231))
    differences[:, 0] = 2.0 + 0.01 * rng.normal(size=13)
    found = sign_flip_test(differences)
    assert found.p_adjusted[0] == found.p[0] == smallest_p(13) == 2.0**-12
    # What is no difference stays none: adjusted p values are valid over all of them.
    assert (found.p_adjusted[1:] > 0.05).mean() > 0.95


def test_adjusted_p_values_hold_their_level():
    """With no real difference, some adjusted p is below 0.1 in a tenth of the studies."""
    rng = np.random.default_rng(3)
    smallest = [
        np.nanmin(sign_flip_test(rng.normal(size=(10, 1)) + rng.normal(size=(10, 8))).p_adjusted)
        for _ in range(300)
    ]
    assert 0.05 <= np.mean(np.array(smallest) <= 0.1) <= 0.15


def test_the_smallest_p():
    for n in (1, 4, 9):
        best = sign_flip_test(np.ones((n, 1))).p[0]
        assert smallest_p(n) == pytest.approx(best)
    assert sign_flip_test(np.ones((17, 1))).p[0] == smallest_p(17) == 2.0**-16
    assert sign_flip_test(np.ones((40, 1)), draws=999).p[0] == smallest_p(40, draws=999) == 1e-3
    assert np.isnan(smallest_p(0))
