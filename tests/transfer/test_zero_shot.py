"""Zero-shot: label spaces, probabilities, and models that can be handed over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from taskscout.errors import TransferError
from taskscout.tasks import Task
from taskscout.transfer.export import save_model
from taskscout.transfer.loaded import load
from taskscout.transfer.origin import Origin
from taskscout.transfer.strategies import transfer
from taskscout.transfer.zero_shot import answers, label_similarity, match_labels, plain, softmax
from tests.tiny import TOPICS, toy_task
from tests.transfer.conftest import LEARNS


def named(task: Task, names: tuple[str, ...]) -> Task:
    return replace(task, label_names=names, card=None)


SOURCE = named(toy_task("source", n=128, seed=6), ("Negative", "positive!"))
TARGET = named(toy_task("target", n=48, seed=5), ("positive", "negative"))


def swapped(task: Task) -> Task:
    """The same texts with the ids of the two classes exchanged, as TARGET names them."""
    tables = {
        s: t.set_column(t.column_names.index("label"), "label", pa.array(1 - task.labels(s)))
        for s, t in task.rows()
    }
    return replace(task, tables=tables)


def test_names_match_but_for_capitals_and_punctuation():
    assert plain(" Not_Entailment! ") == "not entailment"
    found = match_labels(["Negative", "POSITIVE"], ["positive", "negative"])
    np.testing.assert_array_equal(found, [[0, 1], [1, 0]])


def test_a_mapping_comes_first_and_may_join_labels():
    found = match_labels(
        ["entailment", "neutral", "contradiction"], ["entailment", "not_entailment"],
        {"neutral": "not_entailment", "contradiction": "not entailment"},
    )  # fmt: skip
    np.testing.assert_array_equal(found, [[1, 0], [0, 1], [0, 1]])


def test_label_spaces_that_do_not_match():
    with pytest.raises(TransferError) as caught:
        match_labels(["ham", "spam"], ["negative", "positive"], name="source 'sms'")
    assert "source 'sms' (ham, spam)" in caught.value.found
    assert "--map" in caught.value.remedy
    for mapping, word in (({"hamm": "negative"}, "hamm"), ({"ham": "negativ"}, "negativ")):
        with pytest.raises(TransferError, match=f"names '{word}'"):
            match_labels(["ham", "spam"], ["negative", "positive"], mapping)


def test_a_source_answers_for_a_target_it_was_not_trained_on(bench):
    target = swapped(TARGET)
    run = transfer(target, [SOURCE], bench, strategy="zero_shot", source_recipe=LEARNS)
    assert run.trained_on == 0
    assert run.source_examples == 128
    assert run.score > 0.9  # the same words decide, whatever the ids
    assert run.score > run.scores["baseline"]
    wrong = transfer(
        target, [SOURCE], bench, strategy="zero_shot", source_recipe=LEARNS,
        labels={"Negative": "positive", "positive!": "negative"},
    )  # fmt: skip
    assert wrong.score < 0.1


def test_probabilities_are_added_and_rescaled(bench):
    three = named(toy_task("three", n=48, words=(TOPICS[0], TOPICS[1], ("good",))), ("a", "b", "c"))
    tuned = bench.tuned(three)
    texts = three.inputs("test")[0][:5]
    features = bench.encoder.encode(texts, model=tuned.model.body)
    p = softmax(tuned.model.predict(features))
    found = answers(tuned, ["a", "b", "c"], texts, None, ["a", "d"], bench, labels={"c": "d"})
    want = p[:, [0, 2]] / p[:, [0, 2]].sum(1, keepdims=True)
    np.testing.assert_allclose(found, want, atol=1e-6)
    joined = answers(
        tuned, ["a", "b", "c"], texts, None, ["a", "d"], bench, labels={"b": "d", "c": "d"}
    )
    np.testing.assert_allclose(joined, np.stack([p[:, 0], p[:, 1] + p[:, 2]], 1), atol=1e-6)


def test_several_sources_answer_by_their_mean(bench):
    other = named(toy_task("other", n=48, seed=8), ("negative", "positive"))
    one = transfer(TARGET, [SOURCE], bench, strategy="zero_shot")
    two = transfer(TARGET, [other], bench, strategy="zero_shot")
    both = transfer(TARGET, [SOURCE, other], bench, strategy="zero_shot")
    np.testing.assert_allclose(both.outputs, (one.outputs + two.outputs) / 2, atol=1e-6)
    assert both.tuned is None


def test_without_a_source_names_are_compared_with_texts(bench, tmp_path: Path):
    target = named(toy_task("animals", n=30, words=TOPICS), ("cat dog horse", "car bus train"))
    run = transfer(target, [], bench, strategy="zero_shot")
    texts = target.inputs("test")[0]
    x = bench.encoder.encode(texts).astype(float)
    y = bench.encoder.encode(list(target.label_names)).astype(float)
    cosine = (x @ y.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)
    np.testing.assert_allclose(run.outputs, cosine, atol=1e-5)
    np.testing.assert_allclose(
        label_similarity(texts, None, target.label_names, bench), cosine, atol=1e-5
    )
    save_model(run.tuned.model, bench.encoder, tmp_path, target.label_names)
    want = [target.label_names[i] for i in cosine.argmax(1)]
    assert load(tmp_path).predict(texts) == want


def test_the_model_handed_over_answers_in_the_targets_labels(bench, tmp_path: Path):
    run = transfer(TARGET, [SOURCE], bench, strategy="zero_shot", source_recipe=LEARNS)
    save_model(run.tuned.model, bench.encoder, tmp_path, TARGET.label_names)
    texts = TARGET.inputs("test")[0]
    np.testing.assert_allclose(softmax(load(tmp_path).outputs(texts)), run.outputs, atol=1e-4)


def test_a_target_without_labels_is_answered_and_not_scored(bench):
    texts = TARGET.inputs("test")[0]
    table = pa.table({"text": texts, "label": pa.nulls(len(texts), pa.int64())})
    bare = Task("bare", "classification", {"test": table}, TARGET.label_names)
    run = transfer(bare, [SOURCE], bench, strategy="zero_shot")
    assert run.scores == {}
    assert np.isnan(run.score)
    want = transfer(TARGET, [SOURCE], bench, strategy="zero_shot")
    np.testing.assert_array_equal(run.outputs, want.outputs)


def test_regression_takes_one_source(bench):
    stars = toy_task("stars", n=48, regression=True)
    target = toy_task("marks", n=24, seed=9, regression=True)
    run = transfer(target, [stars], bench, strategy="zero_shot", source_recipe=LEARNS)
    assert run.scores["pearson"] > 0.5
    for sources in ([], [stars, replace(stars, name="more", card=None)]):
        with pytest.raises(TransferError, match="Name one regression source"):
            transfer(target, sources, bench, strategy="zero_shot")


def test_nothing_is_tuned_where_labels_do_not_match(bench):
    topics = named(toy_task("topics", n=24, words=TOPICS), ("animals", "vehicles"))
    with pytest.raises(TransferError, match="answers for"):
        transfer(TARGET, [SOURCE, topics], bench, strategy="zero_shot")
    assert bench.tunings == 0
    with pytest.raises(TransferError, match="answers for"):
        transfer(TARGET, [Origin.of(topics)], bench, strategy="zero_shot")
