"""Training from Python: what is chosen, said before anything is trained, and handed over."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import taskscout
from taskscout.errors import TaskscoutError, TransferError
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.transfer import sources as sources_module
from taskscout.transfer.recipes import recipe_for_sources, target_recipe
from taskscout.transfer.result import Transfer
from taskscout.transfer.sources import chosen_by_ranking
from taskscout.transfer.train import Choice, choose, top_of
from tests.tiny import toy_task
from tests.transfer.conftest import SHORT

TARGET = toy_task("target", n=24, seed=5)
SOURCE = toy_task("source", n=64, seed=6)


def test_train_through_a_task_and_load_what_is_handed_over(bench: Workbench, tmp_path: Path):
    lines: list[str] = []
    result = taskscout.train(
        TARGET, sources=[SOURCE], bench=bench, recipe=SHORT, seeds=2, out=tmp_path / "model",
        report=lines.append,
    )  # fmt: skip
    assert [(r.strategy, r.seed) for r in result.runs] == [
        ("sequential", 0), ("sequential", 1), ("none", 0), ("none", 1),
    ]  # fmt: skip
    assert result.to_dict() == json.loads((tmp_path / "model" / "result.json").read_text())
    assert [c.name for c in result.sources] == ["source"]
    # What is about to be done is said before the first run.
    assert "2 runs by strategy sequential through source and 2 runs without" in lines[0]
    assert lines[1].startswith("sequential, seed 0")
    assert lines[-1].endswith("4/4)")
    texts = TARGET.inputs("test")[0]
    of = next(r for r in result.runs if (r.strategy, r.seed) == (result.chosen.strategy, 0))
    assert result.chosen.seed == 0
    np.testing.assert_allclose(result.load().outputs(texts), of.outputs, atol=1e-4)
    assert "TrainResult('target', sequential through source: " in repr(result)
    assert len(repr(result)) < 300


def test_a_result_that_nobody_named_a_folder_for(bench: Workbench):
    result = taskscout.train(TARGET, strategy="none", bench=bench, recipe=SHORT, seeds=1)
    folder = result.folder
    assert set(result.load().predict(["a good film"])) <= {"class 0", "class 1"}
    assert result.comparison is None
    assert result.verdict == ""
    del result
    assert not folder.exists()


def scored(strategy: str, seed: int, score: float, error: float) -> Transfer:
    validation = {"score": score, "error": error}
    return Transfer("t", (), strategy, "lora", seed, {"score": 0.0}, validation)


@pytest.mark.parametrize(
    ("through", "alone", "error", "strategy", "tied"),
    [(0.9, 0.6, 0.1, "sequential", False), (0.6, 0.9, 0.1, "none", False),
     (0.8, 0.7, 0.1, "sequential", True), (0.7, 0.7, 0.1, "none", True)],
)  # fmt: skip
def test_choice_by_validation_says_its_rows_and_ties(through, alone, error, strategy, tied):
    rows = pa.table({"text": ["a"] * 13, "label": [0] * 13})
    task = toy_task("t", n=8)
    task.tables["validation"] = rows
    runs = [scored("sequential", s, through, error) for s in (0, 1)]
    runs += [scored("none", s, alone, error) for s in (0, 1)]
    choice = choose(task, "sequential", runs, lambda which: {"seed": 1})
    assert (choice.strategy, choice.seed, choice.tied) == (strategy, 1, tied)
    assert "by 13 validation rows" in choice.why
    assert ("tie" in choice.why) == tied


def test_without_validation_rows_the_strategy_asked_for_is_handed_over():
    runs = [Transfer("t", (), s, "lora", 0, {"score": 0.0}) for s in ("sequential", "none")]
    choice = choose(TARGET, "sequential", runs, lambda which: None)
    assert choice == Choice("sequential", 0, choice.why)
    assert "no validation rows" in choice.why


def test_the_next_source_where_data_cannot_be_had(
    small_pool: Pool, small_bench: Workbench, monkeypatch: pytest.MonkeyPatch
):
    ranked, _ = chosen_by_ranking(TARGET, small_pool, small_bench, top=2)
    first, second = (o.name for o in ranked)
    real = sources_module.origin_of

    def only_second_has_data(name, *args, **more):
        origin = real(name, *args, **more)
        origin.data = SOURCE if name == second else None
        return origin

    monkeypatch.setattr(sources_module, "origin_of", only_second_has_data)
    chosen, notes = chosen_by_ranking(TARGET, small_pool, small_bench, needs_data=True)
    assert [o.name for o in chosen] == [second]
    assert any(f"source {first} was passed over" in note for note in notes)
    # A ranking whose sources all lack data is refused, not trained through nothing.
    monkeypatch.setattr(sources_module, "origin_of", lambda *a, **m: _without_data(real(*a, **m)))
    with pytest.raises(TaskscoutError, match="not at hand"):
        chosen_by_ranking(TARGET, small_pool, small_bench, needs_data=True)


def _without_data(origin):
    origin.data = None
    return origin


def test_recipes_of_target_and_sources():
    recipe = target_recipe("full", epochs=3, learning_rate=1e-5, metric="accuracy")
    assert recipe.examples > 10**8
    source = recipe_for_sources(recipe)
    assert (source.tuning, source.learning_rate, source.epochs) == ("full", 1e-5, 3)
    assert (source.examples, source.metric) == (10_000, "")
    other = recipe_for_sources(recipe, "lora", examples=50)
    assert (other.tuning, other.examples) == ("lora", 50)
    assert other.learning_rate == target_recipe("lora").learning_rate
    assert top_of("Top3") == 3
    for wrong in ("3", "top0", "top", "top-1"):
        with pytest.raises(TransferError):
            top_of(wrong)
