"""Metrics against brute force over all orders of ties, scipy, scikit-learn and hand counts."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from taskscout.errors import StudyError
from taskscout.methods.gains import Gains
from taskscout.studies.metrics import (
    DEFAULT_METRICS,
    Truth,
    get_metric,
    holm,
    interval,
    measure,
    permutation_test,
    pruning_curve,
    random_floor,
    seed_draws,
    split_half_ceiling,
)

K = (1, 2, 3, 5)
RANKED = (
    *("ndcg-rank", "ndcg-percent", "ndcg-none"),
    *(f"{n}@{k}{o}" for n in ("regret", "mean-regret") for k in K for o in ("", "+none")),
    *(f"{n}@{k}" for n in ("hit", "top-mean") for k in K),
    *("rank-of-best", "rank-of-pick", "pick-gain", "win-rate", "negative-rate"),
)
CORRELATIONS = ("spearman", "kendall", "pearson")


def by_definition(order, truth, alone):
    """Every ranked metric of one order of one target's sources (columns, best first)."""
    x = truth[list(order)]
    n = len(x)
    gold = np.sort(x)[::-1]
    best = gold[0]
    discount = 1 / np.log2(np.arange(n) + 2)
    place = np.array([(truth > v).sum() for v in x])
    out = {}
    relevances = {
        # Tied true scores share the mean of the gains of their places.
        "ndcg-rank": lambda v: np.array(
            [np.mean([2.0 ** (n - i) - 1 for i in range(n) if gold[i] == each]) for each in v]
        ),
        "ndcg-percent": lambda v: 2.0**v - 1,
        "ndcg-none": lambda v: np.maximum(v - alone, 0),
    }
    for name, relevance in relevances.items():
        ideal = (relevance(gold) * discount).sum()
        out[name] = (relevance(x) * discount).sum() / ideal if ideal > 0 else np.nan
    for k in K:
        for suffix, least in (("", -np.inf), ("+none", alone)):
            reference = max(best, least)
            out[f"regret@{k}{suffix}"] = 100 * (reference - x[:k].max()) / reference
            reference = max(gold[:k].mean(), least)
            out[f"mean-regret@{k}{suffix}"] = 100 * (reference - x[:k].mean()) / reference
        out[f"hit@{k}"] = 100.0 * (best in x[:k])
        out[f"top-mean@{k}"] = x[:k].mean()
    out["rank-of-best"] = 1 + np.flatnonzero(x == best)[0]
    out["rank-of-pick"] = 1 + place[0]
    out["pick-gain"] = x[0] - alone
    out["win-rate"] = 100.0 * (x[0] > alone)
    out["negative-rate"] = 100.0 * (x[0] < alone)
    return out


def orders(predicted):
    """All orders that break the ties of a prediction; what is not scored comes last."""
    level = np.where(np.isnan(predicted), -np.inf, predicted)
    return [
        p
        for p in permutations(range(len(level)))
        if all(level[a] >= level[b] for a, b in pairwise(p))
    ]


def expected(predicted, truth, alone):
    known = ~np.isnan(truth)
    found = [by_definition(p, truth[known], alone) for p in orders(predicted[known])]
    return {n: np.mean([f[n] for f in found]) for n in found[0]}


# Few values, so that ties are common.
few = st.sampled_from([0.0, 1.0, 2.0])
maybe = st.sampled_from([0.0, 1.0, 2.0, np.nan])
true = st.sampled_from([40.0, 50.0, 50.5, 63.0, 71.0, np.nan])


@given(arrays(float, 6, elements=maybe), arrays(float, 6, elements=true), st.sampled_from([45, 65]))
def test_ties_count_with_their_expected_value(predicted, truth, alone):
    found = measure(RANKED, predicted[None], truth[None], np.array([float(alone)]))
    known = ~np.isnan(truth)
    if not known.any() or np.isnan(predicted[known]).all():
        assert all(np.isnan(v[0]) for v in found.values())
        return
    wanted = expected(predicted, truth, float(alone))
    for name in RANKED:
        np.testing.assert_allclose(found[name][0], wanted[name], atol=1e-9, err_msg=name)


def test_a_random_order_is_a_constant_prediction():
    rng = np.random.default_rng(0)
    truth = rng.normal(60, 8, (2, 6)).round(1)
    alone = np.array([55.0, 62.0])
    floor = random_floor((*RANKED, *CORRELATIONS), truth, alone)
    for t in range(2):
        all_of_them = [by_definition(p, truth[t], alone[t]) for p in permutations(range(6))]
        for name in RANKED:
            mean = np.mean([a[name] for a in all_of_them])
            np.testing.assert_allclose(floor[name][t], mean, rtol=1e-9, err_msg=name)
    for name in CORRELATIONS:
        assert floor[name].tolist() == [0, 0]


def test_ndcg_agrees_with_scikit_learn():
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(1)
    for ties in (False, True):
        truth = rng.normal(60, 8, (30, 12))
        predicted = (
            rng.integers(0, 4, (30, 12)).astype(float) if ties else rng.normal(size=(30, 12))
        )
        alone = np.full(30, 55.0)
        place = np.argsort(np.argsort(-truth, axis=1), axis=1)
        relevance = {
            "ndcg-rank": 2.0 ** (12 - place) - 1,
            "ndcg-percent": 2.0**truth - 1,
            "ndcg-none": np.maximum(truth - 55, 0),
        }
        found = measure(relevance, predicted, truth, alone)
        for name, gains in relevance.items():
            theirs = [ndcg_score(g[None], p[None]) for g, p in zip(gains, predicted, strict=True)]
            np.testing.assert_allclose(found[name], theirs, rtol=1e-9, err_msg=name)


def test_ndcg_does_not_overflow():
    truth = np.linspace(0, 100, 3000)[None]
    for name in ("ndcg-rank", "ndcg-percent"):
        assert measure([name], truth, truth)[name][0] == pytest.approx(1)
        assert 0 <= measure([name], -truth, truth)[name][0] < 0.5


@pytest.mark.filterwarnings("ignore:An input array is constant")
@given(arrays(float, (1, 7), elements=few), arrays(float, (1, 7), elements=true))
def test_correlations_agree_with_scipy(predicted, truth):
    from scipy.stats import kendalltau, pearsonr, spearmanr

    known = ~np.isnan(truth[0])
    x, y = predicted[0, known], truth[0, known]
    found = measure(CORRELATIONS, predicted, truth)
    theirs = {"spearman": spearmanr, "kendall": kendalltau, "pearson": pearsonr}
    for name, function in theirs.items():
        if known.sum() < 2 or (y == y[0]).all():
            assert np.isnan(found[name][0])
        elif (x == x[0]).all():
            assert found[name][0] == 0
        else:
            np.testing.assert_allclose(found[name][0], function(x, y)[0], atol=1e-12)


def test_correlations_where_not_all_are_scored():
    truth = np.array([[1.0, 2.0, 3.0, 4.0]]) * 10
    predicted = np.array([[np.nan, 1.0, 2.0, np.nan]])
    found = measure(CORRELATIONS, predicted, truth)
    # Ranks: the two without a score come last, tied; values: only what is scored counts.
    from scipy.stats import kendalltau, spearmanr

    last = [0.0, 1.0, 2.0, 0.0]
    assert found["spearman"][0] == pytest.approx(spearmanr(last, truth[0])[0])
    assert found["kendall"][0] == pytest.approx(kendalltau(last, truth[0])[0])
    assert found["pearson"][0] == pytest.approx(1)


@given(st.permutations(range(6)))
def test_the_order_of_sources_does_not_matter(order):
    rng = np.random.default_rng(2)
    truth, predicted = rng.normal(60, 5, (4, 6)), rng.integers(0, 3, (4, 6)).astype(float)
    truth[0, 0] = np.nan
    alone = np.full(4, 59.0)
    a = measure(DEFAULT_METRICS, predicted, truth, alone)
    b = measure(DEFAULT_METRICS, predicted[:, list(order)], truth[:, list(order)], alone)
    for name in DEFAULT_METRICS:
        np.testing.assert_allclose(a[name], b[name], atol=1e-9, err_msg=name)


def test_only_order_counts_but_for_pearson():
    rng = np.random.default_rng(3)
    truth, predicted = rng.normal(60, 5, (3, 9)), rng.normal(size=(3, 9))
    names = [n for n in DEFAULT_METRICS if n != "pearson"]
    alone = np.full(3, 59.0)
    a = measure(names, predicted, truth, alone)
    b = measure(names, np.exp(3 * predicted) - 7, truth, alone)
    for name in names:
        np.testing.assert_allclose(a[name], b[name])


def test_perfect_and_worst():
    truth = np.array([[70.0, 60.0, 50.0, 40.0]])
    alone = np.array([55.0])
    best = measure(DEFAULT_METRICS, truth, truth, alone)
    for name in DEFAULT_METRICS:
        wanted = {"rank-of-best": 1, "rank-of-pick": 1, "pick-gain": 15, "pick-gain+none": 15,
                  "top-mean@3": 60, "win-rate": 100}  # fmt: skip
        default = 0 if "regret" in name or "negative" in name else 1
        default = 100 if "hit" in name else default
        assert best[name][0] == pytest.approx(wanted.get(name, default), abs=1e-9), name
    worst = measure(DEFAULT_METRICS, -truth, truth, alone)
    assert worst["regret@1"][0] == pytest.approx(100 * 30 / 70)
    assert worst["rank-of-best"][0] == worst["rank-of-pick"][0] == 4
    assert worst["spearman"][0] == worst["kendall"][0] == -1
    assert worst["negative-rate"][0] == 100


def test_none_in_the_reference_and_as_a_choice():
    truth, alone = np.array([[50.0, 40.0]]), np.array([60.0])
    names = ("regret@1", "regret@1+none", "pick-gain", "pick-gain+none", "negative-rate+none")
    predicted = np.array([[2.0, 1.0]])
    unsure = measure(names, predicted, truth, alone)
    assert unsure["regret@1"][0] == 0
    assert unsure["regret@1+none"][0] == pytest.approx(100 * 10 / 60)
    assert unsure["pick-gain+none"][0] == -10  # it has no score for none
    for none, gain, rate in ((3.0, 0, 0), (1.5, -10, 100), (2.0, -5, 50)):
        found = measure(names, predicted, truth, alone, none=np.array([none]))
        assert found["pick-gain"][0] == -10
        assert found["pick-gain+none"][0] == gain
        assert found["negative-rate+none"][0] == rate


def test_unknown_target_only_scores():
    found = measure(DEFAULT_METRICS, np.eye(3), np.full((3, 3), 50.0) + np.eye(3))
    for name in DEFAULT_METRICS:
        without = name in ("ndcg-none", "win-rate") or "none" in name or "pick-" in name
        without = without or name.startswith("negative")
        without = without and name != "rank-of-pick"
        assert np.isnan(found[name]).all() == without, name


def test_gold_orders_what_scores_do_not():
    # TaskWeb: the true first two are chosen by another number than the score.
    truth, gold = np.array([[70.0, 60.0, 50.0]]), np.array([[0.1, 0.3, 0.2]])
    found = measure(("mean-regret@2", "ndcg-rank", "regret@1"), truth, truth, gold=gold)
    assert found["mean-regret@2"][0] == pytest.approx(100 * (55 - 65) / 55)
    assert found["ndcg-rank"][0] < 1
    assert found["regret@1"][0] == 0
    with pytest.raises(StudyError, match="gold order lacks 1 of 3"):
        Truth(truth, gold=np.array([[0.1, np.nan, 0.2]]))


def test_names_of_metrics():
    for name in DEFAULT_METRICS:
        assert get_metric(name).name == name
    assert get_metric("regret@10").name == "regret@10"
    assert get_metric("mean-regret@2+none").name == "mean-regret@2+none"
    for wrong in ("regret", "regret@0", "ndcg", "spearman@3", "hit@1+none", "ndcg-rank+none", ""):
        with pytest.raises(StudyError, match="no metric"):
            get_metric(wrong)


# -- seeds ------------------------------------------------------------------------------------


def grid(n_sources=8, n_targets=5, n_seeds=4, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    real = rng.normal(60, 4, (n_sources, n_targets, 1))
    scores = real + noise * rng.normal(size=(n_sources, n_targets, n_seeds))
    alone = 58 + noise * rng.normal(size=(n_targets, n_seeds))
    names = tuple(f"s{i}" for i in range(n_sources)), tuple(f"t{i}" for i in range(n_targets))
    return Gains(*names, scores, alone, tuple(range(n_seeds)))


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


def test_ceiling():
    names = ("spearman", "regret@1", "pick-gain+none")
    sure = split_half_ceiling(names, grid(noise=0.0))
    assert sure["spearman"].tolist() == [1] * 5
    assert sure["regret@1"].tolist() == [0] * 5
    noisy = split_half_ceiling(names, grid(noise=8.0))
    assert noisy["spearman"].mean() < 0.8
    assert noisy["regret@1"].mean() > 0
    assert split_half_ceiling(names, grid(n_seeds=1)) is None
    # One pair of halves by hand: each seed predicts the other.
    two = grid(n_seeds=2, noise=3.0)
    a, b = two.scores[:, :, 0].T, two.scores[:, :, 1].T
    both = [measure(["spearman"], x, y)["spearman"] for x, y in ((a, b), (b, a))]
    np.testing.assert_allclose(split_half_ceiling(["spearman"], two)["spearman"], np.mean(both, 0))


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


def test_permutation_test():
    assert permutation_test(np.array([1.0, 2.0, 3.0])) == pytest.approx(2 / 8)
    assert permutation_test(np.array([1.0, 1.0, -1.0, np.nan])) == pytest.approx(1.0)
    assert permutation_test(np.zeros(5)) == 1
    assert np.isnan(permutation_test(np.array([np.nan])))
    rng = np.random.default_rng(0)
    assert permutation_test(rng.normal(2, 1, 30)) < 0.001
    from scipy.stats import permutation_test as theirs

    d = rng.normal(0.4, 1, 12)
    wanted = theirs((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert permutation_test(d) == pytest.approx(wanted)
    large = rng.normal(0.3, 1, 25)
    wanted = theirs((large,), np.mean, permutation_type="samples", n_resamples=20000,
                    rng=0).pvalue  # fmt: skip
    assert permutation_test(large) == pytest.approx(wanted, abs=0.02)
    # Several at a time, each with its own missing targets.
    both = np.stack([d, np.where(np.arange(12) < 3, np.nan, d)], 1)
    np.testing.assert_allclose(
        permutation_test(both), [permutation_test(d), permutation_test(d[3:])]
    )


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, float("nan"), 0.9])[0] == 1.0
    assert np.isnan(holm([0.5, float("nan")])[1])
    assert holm([]) == []


# -- pruning ----------------------------------------------------------------------------------


def test_pruning():
    truth = np.array([[50.0, 60.0, 70.0, 40.0]])
    curve = pruning_curve(truth, truth, steps=4)
    assert curve.dropped.tolist() == [0, 25, 50, 75]
    assert curve.kept.tolist() == pytest.approx([100, 100, 100, 100])
    assert curve.saved.tolist() == pytest.approx([0, 25, 50, 75])
    assert curve.saving() == pytest.approx(75)
    wrong = pruning_curve(-truth, truth, steps=4)
    assert wrong.kept.tolist() == pytest.approx([100, 100 * 60 / 70, 100 * 50 / 70, 100 * 40 / 70])
    assert wrong.same_best.tolist() == pytest.approx([100, 0, 0, 0])
    assert wrong.saving() == pytest.approx(0)
    assert wrong.saving(tolerance=15) == pytest.approx(25)
    # Times of the pairs, and the method's own.
    seconds = np.array([[1.0, 1.0, 1.0, 7.0]])
    timed = pruning_curve(truth, truth, seconds=seconds, cost=1.0, steps=4)
    assert timed.saved.tolist() == pytest.approx([-10, 60, 70, 80])
    assert timed.saving() == pytest.approx(80)
    # A constant prediction keeps a random half.
    even = pruning_curve(np.zeros((1, 4)), truth, steps=2)
    pairs = [max(a, b) for i, a in enumerate(truth[0]) for b in truth[0][i + 1 :]]
    assert even.kept[1] == pytest.approx(100 * np.mean(pairs) / 70)
    assert even.same_best[1] == pytest.approx(50)
