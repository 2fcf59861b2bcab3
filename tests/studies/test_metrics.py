"""Metrics against brute force over all orders of ties, scipy, scikit-learn and hand counts."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from taskscout.errors import StudyError
from taskscout.studies.metrics import (
    DEFAULT_METRICS,
    Truth,
    get_metric,
    measure,
    random_floor,
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
        default = 100 if "hit" in name or name == "pair-accuracy" else default
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


# -- pairs ------------------------------------------------------------------------------------


@given(arrays(float, 6, elements=maybe), arrays(float, 6, elements=true), st.sampled_from([0, 3.0]))
def test_pairs_in_the_right_order_are_counted_one_by_one(predicted, truth, noise):
    rights = []
    for i in range(6):
        for j in range(i):
            apart = truth[i] - truth[j]
            if np.isnan(apart) or apart == 0 or abs(apart) <= 1.96 * noise * np.sqrt(2):
                continue
            # What is not scored comes last, tied with others of its kind.
            a, b = (-np.inf if np.isnan(x) else x for x in (predicted[i], predicted[j]))
            rights.append(0.5 if a == b else float((a > b) == (apart > 0)))
    known = ~np.isnan(truth)
    found = measure(["pair-accuracy"], predicted[None], truth[None], noise=np.full((1, 6), noise))[
        "pair-accuracy"
    ][0]
    if not rights or np.isnan(predicted[known]).all():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(100 * np.mean(rights))


def test_a_random_order_has_half_of_the_pairs_right():
    rng = np.random.default_rng(5)
    truth = rng.normal(60, 8, (3, 4, 7))
    floor = random_floor(["pair-accuracy"], truth)["pair-accuracy"]
    np.testing.assert_allclose(floor, np.full((3, 4), 50.0))
    exact = measure(["pair-accuracy"], truth[0], truth)["pair-accuracy"]
    np.testing.assert_allclose(exact[0], 100)
    assert (exact[1:] < 100).all()
