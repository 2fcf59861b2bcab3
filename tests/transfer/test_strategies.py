"""Transfer runs: what each strategy starts from, and what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from taskscout.errors import DataError, TransferError
from taskscout.models.adapting import initial_parameters
from taskscout.models.recipe import Recipe
from taskscout.models.tuning import tune
from taskscout.tasks import Task, TaskCard
from taskscout.transfer import strategies
from taskscout.transfer.origin import Origin
from taskscout.transfer.result import Budget, Transfer
from taskscout.transfer.strategies import check_target, transfer
from tests.tiny import BAD, GOOD, TOPICS, toy_task
from tests.transfer.conftest import LEARNS, SHORT

TARGET = toy_task("target", n=24, seed=5)
SOURCE = toy_task("source", n=64, seed=6)
OTHER = toy_task("other", n=48, seed=7, words=TOPICS)


def recipe(tuning: str, **more) -> Recipe:
    prompt = {"prompt_length": 4} if tuning in ("prompt", "p-tuning-v2") else {}
    short = {"epochs": 1, "least_steps": 2, "examples": 32, "batch_size": 16}
    return Recipe(tuning=tuning, **{**short, **prompt, **more})


@pytest.fixture
def tuned_with(monkeypatch):
    """What every call of ``tune`` was given, by task; bodies as they were before tuning."""
    calls = []
    real = strategies.tune_task

    def spy(task, encoder, recipe, *, body=None, start=None, **more):
        calls.append((task.name, copy.deepcopy(body), start))
        return real(task, encoder, recipe, body=body, start=start, **more)

    monkeypatch.setattr(strategies, "tune_task", spy)
    return calls


def assert_same_function(bench, body, of_source):
    """Two bodies embed texts alike, and otherwise than the encoder that nothing tuned."""
    texts = TARGET.inputs("test")[0]
    embedded = bench.encoder.encode(texts, model=body)
    np.testing.assert_allclose(embedded, bench.encoder.encode(texts, model=of_source), atol=1e-5)
    assert np.abs(embedded - bench.encoder.encode(texts)).max() > 1e-4


def test_none_is_plain_tuning(bench):
    run = transfer(TARGET, [], bench, strategy="none")
    plain = tune(TARGET, bench.encoder, SHORT)
    assert run.sources == ()
    assert run.scores == plain.scores
    assert (run.trained_on, run.source_examples, run.source_seconds) == (24, 0, 0.0)
    assert run.outputs.shape == (24, 2)


@pytest.mark.parametrize("tuning", ["lora", "prompt", "p-tuning-v2", "bitfit"])
def test_sequential_carries_the_sources_parameters_on(bench, tuned_with, tuning):
    run = transfer(TARGET, [SOURCE], bench, recipe=recipe(tuning), seed=1)
    source = bench.tuned(SOURCE, recipe(tuning))  # its seed is not the target's
    ((name, body, start),) = tuned_with  # the source's model is made once, by the workbench
    assert (name, body) == ("target", None)
    for key, value in source.parameters.items():
        np.testing.assert_array_equal(start[key], value)
    assert run.source_examples == 32
    assert run.source_seconds > 0


@pytest.mark.parametrize(
    ("source", "target"), [("full", "full"), ("lora", "full"), ("full", "lora"), ("bitfit", "head")]
)
def test_other_tunings_start_from_the_sources_body(bench, tuned_with, source, target):
    transfer(TARGET, [SOURCE], bench, recipe=recipe(target), source_recipe=recipe(source))
    ((_, body, start),) = tuned_with
    assert start is None
    assert_same_function(bench, body, bench.tuned(SOURCE, recipe(source)).model.body)


def test_a_run_leaves_the_sources_model_as_it_was(bench):
    full = recipe("full")
    source = bench.tuned(SOURCE, full)
    before = {k: v.clone() for k, v in source.model.body.state_dict().items()}
    first = transfer(TARGET, [SOURCE], bench, recipe=full)
    second = transfer(TARGET, [SOURCE], bench, recipe=full)
    for k, v in source.model.body.state_dict().items():
        assert (v == before[k]).all(), k
    np.testing.assert_array_equal(first.outputs, second.outputs)


def test_merged_is_another_start_than_carried_on_but_the_same_function(bench, tuned_with):
    transfer(TARGET, [SOURCE], bench)
    transfer(TARGET, [SOURCE], bench, merge=True)
    (_, carried_body, carried), (_, merged_body, merged) = tuned_with
    assert (carried_body, merged) == (None, None)
    assert carried is not None
    assert_same_function(bench, merged_body, bench.tuned(SOURCE, SHORT).model.body)


def test_several_sources_go_one_after_the_other(bench, tuned_with):
    transfer(TARGET, [SOURCE, OTHER], bench)
    assert [name for name, *_ in tuned_with] == ["other", "target"]
    first = bench.tuned(SOURCE, SHORT).parameters
    np.testing.assert_array_equal(
        tuned_with[0][2]["encoder.layer.0.attention.self.query.lora_B"],
        first["encoder.layer.0.attention.self.query.lora_B"],
    )
    second = tuned_with[1][2]["encoder.layer.0.attention.self.query.lora_B"]
    assert not np.array_equal(second, first["encoder.layer.0.attention.self.query.lora_B"])


def test_adapters_without_data_are_averaged_and_said_so(bench, tuned_with):
    models = [bench.tuned(t, SHORT) for t in (SOURCE, OTHER)]
    origins = [Origin(t.card, made=m) for t, m in zip((SOURCE, OTHER), models, strict=True)]
    run = transfer(TARGET, origins, bench, recipe=recipe("head"))
    assert any("averaged" in note for note in run.notes)
    ((_, body, _),) = tuned_with
    name = "encoder.layer.1.attention.self.value"
    base = bench.encoder.load_model().get_submodule(name).weight.detach().numpy()
    delta = sum(m.adapter[f"{name}.lora_B"] @ m.adapter[f"{name}.lora_A"] for m in models) / 2
    np.testing.assert_allclose(
        body.get_submodule(name).weight.detach().numpy(), base + delta, atol=1e-6
    )


def test_learning_through_a_source_beats_the_target_alone(bench):
    """24 examples do not teach all the words; 128 of the source do."""
    source = toy_task("source", n=128, seed=6)
    few = Recipe(tuning="lora", least_steps=20)
    alone = transfer(TARGET, [], bench, strategy="none", recipe=few)
    through = transfer(TARGET, [source], bench, recipe=few, source_recipe=LEARNS)
    assert through.score > alone.score + 0.2
    assert through.score > through.scores["baseline"] + 0.2


def test_a_source_with_shuffled_labels_teaches_nothing(bench):
    source = toy_task("source", n=128, seed=6, shuffled=True)
    few = Recipe(tuning="lora", least_steps=20)
    through = transfer(TARGET, [source], bench, recipe=few, source_recipe=LEARNS)
    assert through.score < 0.8


def test_the_head_is_always_new(bench):
    """A source of three classes serves a target of two."""
    three = toy_task("three", n=48, words=(GOOD, BAD, TOPICS[0]))
    assert transfer(TARGET, [three], bench).outputs.shape == (24, 2)


def test_record_of_a_run_goes_there_and_back(bench):
    run = transfer(TARGET, [SOURCE], bench)
    again = Transfer.from_dict(run.to_dict())
    assert again.to_dict() == run.to_dict()
    assert again.score == run.score


# -- budgets -----------------------------------------------------------------------------------


def test_budget_in_examples_bounds_sources_and_target_together(bench):
    run = transfer(
        TARGET, [SOURCE], bench, recipe=recipe("full", examples=1000), budget=Budget(examples=20)
    )
    assert run.trained_on + run.source_examples <= 20
    assert run.trained_on == 10
    alone = transfer(
        TARGET, [], bench, strategy="none", recipe=recipe("full"), budget=Budget(examples=20)
    )
    assert alone.trained_on == 20


@pytest.mark.parametrize("given", [{"examples": 0}, {"examples": -3}, {"seconds": 0.0}])
def test_a_budget_of_nothing(given):
    with pytest.raises(TransferError, match="Nothing can be trained"):
        Budget(**given)


# -- what does not work -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "sources", "says"),
    [
        ("none", [SOURCE], "Leave the sources out"),
        ("sequential", [], "without a source"),
        ("multitask", [], "without a source"),
        ("parallel", [SOURCE], "Choose one of these"),
    ],
)
def test_strategy_and_sources_that_do_not_fit(bench, strategy, sources, says):
    with pytest.raises(TransferError, match=says):
        transfer(TARGET, sources, bench, strategy=strategy)


def test_kinds_that_do_not_fit(bench):
    numbers = toy_task("numbers", n=16, regression=True)
    with pytest.raises(TransferError) as caught:
        transfer(TARGET, [numbers], bench, strategy="zero_shot")
    assert "'numbers' is of kind regression" in caught.value.found
    assert "sequential" in caught.value.remedy
    writes = Task(
        "writes", "text_to_text", {"train": pa.table({"prompt": ["a"], "completion": ["b"]})}
    )
    with pytest.raises(TransferError, match="template"):
        transfer(TARGET, [writes], bench)


def test_a_prompt_cannot_be_started_from_another_tuning(bench):
    with pytest.raises(TransferError, match="only the same tuning"):
        transfer(TARGET, [SOURCE], bench, recipe=SHORT, source_recipe=recipe("prompt"))
    with pytest.raises(TransferError, match="another length"):
        transfer(
            TARGET, [SOURCE], bench, recipe=recipe("prompt"),
            source_recipe=recipe("prompt", prompt_length=6),
        )  # fmt: skip


def test_a_head_leaves_nothing_to_transfer(bench):
    with pytest.raises(TransferError, match="nothing"):
        transfer(TARGET, [SOURCE], bench, recipe=recipe("head"))


def test_data_that_are_needed_and_not_at_hand(bench):
    card = TaskCard("far", hub_id="owner/far")
    origin = Origin(card, made=bench.tuned(SOURCE, SHORT), fetch="hf download owner/far")
    assert transfer(TARGET, [origin], bench).sources == ("far",)
    with pytest.raises(TransferError) as caught:
        transfer(TARGET, [origin], bench, fresh=True)
    assert "owner/far" in caught.value.found
    assert caught.value.remedy == "hf download owner/far"
    with pytest.raises(TransferError, match="owner/far"):
        transfer(TARGET, [origin], bench, strategy="multitask")


def with_rows(split: str, texts: list[str], labels: list[int]) -> Task:
    table = pa.table({"text": texts, "label": pa.array(labels, pa.int64())})
    return replace(TARGET, tables={**TARGET.tables, split: table})


def test_an_empty_split():
    with pytest.raises(DataError) as caught:
        check_target(with_rows("train", [], []), "sequential")
    assert "no rows in split 'train'" in caught.value.found
    without = replace(TARGET, tables={"train": TARGET.tables["train"]})
    with pytest.raises(DataError, match="no rows in split 'test'"):
        check_target(without, "none")


def test_a_split_of_empty_texts():
    with pytest.raises(DataError, match="all 3 texts of split 'test' are empty"):
        check_target(with_rows("test", ["", "  ", "\n"], [0, 1, 0]), "none")


def test_a_test_label_that_training_lacks_is_said():
    task = toy_task("three", n=30, words=(GOOD, BAD, TOPICS[0]))
    seen = np.flatnonzero(task.labels("train") < 2)
    (note,) = check_target(task.take({"train": seen, "test": range(30)}), "none")
    rows = int((task.labels("test") == 2).sum())
    assert "'class 2' in split 'test'" in note
    assert f"({rows} of 30 labels)" in note
    assert check_target(task, "none") == ()


def test_starting_values_are_those_of_one_seed(bench):
    """What ``none`` begins as does not depend on the target."""
    assert initial_parameters(bench.encoder, SHORT).keys() == bench.tuned(SOURCE).parameters.keys()
