"""Controls."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskscout.errors import MethodError
from taskscout.methods.baselines import METHODS, Format, RandomOrder, Size, SourcePrior
from taskscout.methods.gains import Gains
from taskscout.methods.method import Description, Method
from taskscout.tasks import TaskCard

from .conftest import make_task, permuted

NAMES = ["ag_news", "imdb", "mnli", "sst2", "trec"]


def cards(names, **fields):
    return [Description("card", n, TaskCard(n, **fields).to_dict()) for n in names]


def test_they_are_methods():
    for name, factory in METHODS.items():
        method = factory()
        assert isinstance(method, Method)
        assert (method.name, method.key, method.cost) == (name, "card", "card")


def test_describe_is_the_card_as_json(bench):
    task = make_task("mine", pairs=True)
    described = Size().describe(task, bench)
    assert described.source == "mine"
    assert json.loads(json.dumps(described.header)) == task.card.to_dict()
    assert not described.arrays


@given(st.permutations(NAMES), st.integers(0, 5))
def test_random_depends_on_seed_target_and_name_only(order, seed):
    target, method = make_task(), RandomOrder(seed=seed)
    scores = dict(zip(order, method.score(target, cards(order), None), strict=True))
    np.random.seed(seed)
    again = method.score(permuted(target), cards(NAMES), None)
    assert [scores[n] for n in NAMES] == again.tolist()
    assert all(0 <= s < 1 for s in again)
    other = RandomOrder(seed=seed + 1).score(target, cards(NAMES), None)
    elsewhere = method.score(make_task(seed=9), cards(NAMES), None)
    assert not set(again) & set(other)
    assert not set(again) & set(elsewhere)


def test_random_is_uniform():
    many = cards([f"s{i}" for i in range(2000)])
    scores = np.sort(RandomOrder().score(make_task(), many, None))
    # Kolmogorov's statistic of 2,000 uniform numbers exceeds 0.044 once in a thousand draws.
    assert np.abs(scores - np.arange(2000) / 2000).max() < 0.044


def test_size():
    sources = [
        *cards(["a"], rows={"train": 10, "test": 900}),
        *cards(["b"], rows={"train": 20}),
        *cards(["c"], rows={"test": 5}),
        Description("card", "d"),
    ]
    scores = Size().score(make_task(), sources, None)
    np.testing.assert_array_equal(scores, [10, 20, np.nan, np.nan])


def test_format_formula():
    target = make_task()  # classification, one text, classes "no" and "yes"

    def card(**fields):
        return Description("card", "s", fields)

    two = ["Yes ", "No"]
    sources = [
        card(kind="classification", pair=False, label_names=two),
        card(kind="classification", pair=True, label_names=two),
        card(kind="classification", label_names=two),
        card(kind="classification", pair=False, label_names=["no", "b", "c", "d"]),
        card(kind="tagging", pair=False, label_names=two),
        card(kind="regression", pair=False, label_names=[]),
        card(),
    ]
    expected = [7, 6, 6.5, 4 + 1 + 2 / 4 + 1 / 5, 3, 1, np.nan]
    np.testing.assert_allclose(Format().score(target, sources, None) * 7, expected)
    regression = make_task(kind="regression")
    scores = Format().score(regression, sources, None) * 7
    assert scores[5] == 5
    assert scores[0] == 1  # no classes against two
    # That neither has classes is no match: another kind without them is no nearer than one with.
    spans = [card(kind="span_qa", pair=False), card(kind="tagging", pair=False, label_names=two)]
    np.testing.assert_allclose(Format().score(regression, spans, None) * 7, 1)


def test_cards_of_tasks_say_whether_texts_come_in_pairs(bench):
    method, target = Format(), make_task("target", pairs=True)
    sources = [make_task("pairs", pairs=True), make_task("single")]
    described = [method.describe(s, bench) for s in sources]
    assert [d.header["pair"] for d in described] == [True, False]
    unknown = Description("card", "unknown", {**described[0].header, "pair": None})
    scores = method.score(target, [*described, unknown], bench)
    np.testing.assert_allclose(scores * 7, [7, 6, 6.5])


def test_the_same_kind_outweighs_all_else():
    target = make_task()
    sources = [
        Description("card", "same kind", {"kind": "classification", "pair": True}),
        Description(
            "card", "all else", {"kind": "tagging", "pair": False, "label_names": ["no", "yes"]}
        ),
    ]
    scores = Format().score(target, sources, None)
    assert scores[0] > scores[1]


def test_source_prior():
    gains = Gains.of(
        ["none", "none", "imdb", "imdb", "mnli"],
        ["here", "there", "here", "there", "there"],
        [0.5, 0.5, 0.9, 0.6, 0.4],
    )
    target = make_task("here")
    method = SourcePrior(gains=gains)
    sources = [*cards(["imdb", "mnli", "sst2"]), method.none(None)]
    np.testing.assert_allclose(method.score(target, sources, None), [10, -10, np.nan, 0])
    everywhere = method.score(make_task("new"), sources, None)
    np.testing.assert_allclose(everywhere, [25, -10, np.nan, 0])


def test_source_prior_needs_a_grid():
    with pytest.raises(MethodError, match="--grid"):
        SourcePrior().score(make_task(), cards(NAMES), None)
