"""Grids: which cells there are, what a cell gives, and what a kill costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from taskscout.engines import Here, LocalProcesses
from taskscout.errors import StudyError
from taskscout.models.tuned_store import from_bytes
from taskscout.models.tuning import tune
from taskscout.studies import grid as grid_module
from taskscout.studies.grid import NONE, Plan, run_cell, run_grid, run_source
from taskscout.studies.store import CellResult, GridStore
from taskscout.studies.study_file import read_study
from tests.models.test_objectives import toy_choices, toy_spans, toy_tags
from tests.studies.conftest import STUDY, write_catalogue
from tests.tiny import tiny_encoder, toy_task


def scores(store: GridStore) -> dict[str, float | None]:
    return {r.key: r.score for r in store.results()}


def test_every_combination_is_a_cell_but_those_that_share_texts(plan_of):
    plan = plan_of(tunings="lora, full", sizes="16, all")
    pairs = {(c.source, c.target) for c in plan.cells}
    # twin holds texts of gamma; nobody is its own source.
    assert pairs == {
        (NONE, "gamma"), ("alpha", "gamma"), ("beta", "gamma"),
        (NONE, "number"), ("alpha", "number"), ("beta", "number"), ("twin", "number"),
    }  # fmt: skip
    assert len(plan.cells) == 7 * 2 * 2 * 2
    assert len({c.key for c in plan.cells}) == len(plan.cells)
    assert {c.size for c in plan.cells} == {16, 0}


def test_zero_shot_is_run_where_labels_answer(plan_of, workplace, tmp_path):
    study = tmp_path / "study.yaml"
    plan_of()
    study.write_text(study.read_text() + "strategies: [sequential, zero_shot]\n")
    plan = Plan(read_study(study))
    # The toy tasks have the same two label names; a regression has none of them.
    found = {(c.source, c.target) for c in plan.cells if c.strategy == "zero_shot"}
    assert found == {("alpha", "gamma"), ("beta", "gamma")}
    cell = next(c for c in plan.cells if c.strategy == "zero_shot")
    data = run_source(plan.source_job(cell), {})
    result = run_cell(plan.job(cell), {"source": data})
    source = from_bytes(data, grid_module._encoder(cell.encoder))
    target = plan.target("gamma", 32)
    outputs = source.model.predict(
        source.model.encoder.encode(*target.inputs("test"), model=source.model.body)
    )
    right = (outputs.argmax(1) == target.labels("test")).mean()
    assert result.scores["accuracy"] == pytest.approx(right, abs=1e-6)


def test_keys_are_stable_and_follow_the_settings(plan_of):
    first = plan_of().cells
    assert [c.key for c in first] == [c.key for c in plan_of().cells]
    # A larger study contains the smaller one's cells.
    larger = plan_of(tunings="full, lora", sizes="32, 16").cells
    assert {c.key for c in first} < {c.key for c in larger}
    small = {c.key for c in plan_of(sizes="16").cells}
    assert not small & {c.key for c in first}


def test_a_recipe_is_named_by_what_it_changes(plan_of):
    changed = plan_of(recipe="{learning_rate: 3e-5, epochs: 9, batch_size: 32}")
    assert {c.recipe for c in changed.cells} == {"epochs=9, learning_rate=3e-05"}
    assert {c.recipe for c in plan_of(recipe="{batch_size: 32}").cells} == {"default"}


def test_a_target_has_the_same_rows_whatever_the_seed(plan_of):
    plan = plan_of()
    cells = [c for c in plan.cells if (c.source, c.target) == ("alpha", "gamma")]
    jobs = [plan.job(c) for c in cells]
    assert [j.recipe["seed"] for j in jobs] == [0, 1]
    assert jobs[0].target.fingerprint == jobs[1].target.fingerprint
    assert len(jobs[0].target.tables["train"]) == 32
    assert len(jobs[0].target.tables["test"]) == 32


@pytest.mark.parametrize("tuning", ["lora", "full", "prompt", "bitfit"])
def test_a_cell_is_the_target_tuned_from_where_the_source_ended(plan_of, tuning):
    """Against the two tunings, one after the other, by hand."""
    plan = plan_of(tunings=tuning)
    cell = next(c for c in plan.cells if (c.source, c.target) == ("alpha", "gamma"))
    data = run_source(plan.source_job(cell), {})
    result = run_cell(plan.job(cell), {"source": data})

    encoder = grid_module._encoder(cell.encoder)
    source = tune(plan.catalogue.task("alpha"), encoder, plan.source_recipe(tuning), evaluate=None)
    if tuning in ("lora", "full"):
        given = {"body": source.model.body}
    else:
        given = {"start": source.parameters}
    target = tune(plan.target("gamma", 32), encoder, plan.recipe(tuning, 0), **given)
    assert result.score == pytest.approx(target.scores["score"], abs=1e-6)
    assert result.error == ""
    assert result.seconds > 0
    # And it is not what the target alone gives.
    alone = tune(plan.target("gamma", 32), encoder, plan.recipe(tuning, 0))
    assert any(
        not np.allclose(target.parameters[n], alone.parameters[n]) for n in target.parameters
    )


def test_an_impossible_cell_is_an_error_of_that_cell(plan_of, tmp_path):
    # What a prompt has learnt stands beside the encoder's weights: LoRA cannot start from it.
    other = next(c for c in plan_of(tunings="prompt").cells if c.source == "alpha")
    data = run_source(plan_of(tunings="prompt").source_job(other), {})
    plan = plan_of(tunings="lora")
    cell = next(c for c in plan.cells if c.source == "alpha")
    result = run_cell(plan.job(cell), {"source": data})
    assert result.score is None
    assert "prompt" in result.error
    store = GridStore(tmp_path / "g.sqlite")
    store.put([result])
    assert store.done() == set()


def test_a_grid_goes_on_where_it_was(plan_of, tmp_path, monkeypatch):
    plan, store = plan_of(), GridStore(tmp_path / "g.sqlite")
    ran = []

    def stop_after_five(done, total, result):
        ran.append(result.key)
        if len(ran) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid(plan, store, tmp_path / "s", engine=Here(), report=stop_after_five)
    assert len(store.done()) == 5
    tuned = sorted((tmp_path / "s").iterdir())

    def never(job, files):
        raise AssertionError("a source was tuned again")

    monkeypatch.setattr(grid_module, "run_source", never)
    run_grid(plan, store, tmp_path / "s", engine=Here(), report=lambda *a: ran.append(a[2].key))
    assert sorted((tmp_path / "s").iterdir()) == tuned
    assert sorted(ran) == sorted(c.key for c in plan.cells)

    undisturbed = GridStore(tmp_path / "u.sqlite")
    monkeypatch.undo()
    run_grid(plan, undisturbed, tmp_path / "u", engine=LocalProcesses(2))
    assert scores(store) == scores(undisturbed)


def test_a_killed_grid_loses_only_the_running_cells(plan_of, workplace, tmp_path):
    """SIGKILL the command in the middle, start it again: the table of an undisturbed run."""
    plan = plan_of()
    study, file = tmp_path / "study.yaml", tmp_path / "g.sqlite"
    command = [
        sys.executable, "-m", "taskscout", "grid", "run", str(study), "--out", str(file),
        "--engine", "here", "--json",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if file.is_file() and len(GridStore(file).done()) >= 2:
            break
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = GridStore(file).done()
    assert 2 <= len(kept) < len(plan.cells)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"grid": str(file), "cells": len(plan.cells), "failed": 0}
    assert f"{len(kept)} done before" in done.stderr
    undisturbed = GridStore(tmp_path / "u.sqlite")
    run_grid(plan, undisturbed, tmp_path / "u", engine=Here())
    assert scores(GridStore(file)) == scores(undisturbed)


def test_sources_come_from_a_pool_that_has_them(toy_pool: Path, workplace: Path, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        f"name: p\ncatalogue: {workplace}\npool: {toy_pool}\nsources: [alpha, twin]\n"
        f"targets: [beta]\nsizes: [32]\n"
        f"encoders: [{{name: tiny, model: {toy_pool.parent / 'encoder'}, max_length: 32, "
        "precision: fp32}]\nsource_recipe: {epochs: 1, least_steps: 1}\n"
        "recipe: {epochs: 1, least_steps: 1}\ntest_examples: 32\n"
    )
    plan = Plan(read_study(path))
    by_source = {c.source: c for c in plan.cells}
    kept = plan.from_pool(by_source["alpha"])
    assert kept is not None
    assert plan.from_pool(by_source["twin"]) is None
    # It is the encoder with the pool's adapter merged in.
    encoder = grid_module._encoder(by_source["alpha"].encoder)
    body = from_bytes(kept, encoder).model.body
    arrays = plan.pool.description("alpha", "tuned").arrays
    layer = next(n.removesuffix(".lora_A") for n in arrays if n.endswith(".lora_A"))
    factors = [arrays[f"{layer}.{f}"].astype(np.float32) for f in ("lora_B", "lora_A")]
    weight = [m.get_submodule(layer).weight.detach().numpy() for m in (encoder.load_model(), body)]
    np.testing.assert_allclose(weight[1], weight[0] + factors[0] @ factors[1], atol=1e-6)
    estimate = plan.estimate(None, tmp_path, 2)
    assert (estimate.cells, estimate.sources, estimate.measured) == (3, 1, False)
    assert estimate.hours > 0


def test_an_estimate_does_not_rest_on_another_recipe(plan_of, tmp_path):
    store = GridStore(tmp_path / "grid.sqlite")
    done = plan_of().cells[0]
    store.put([CellResult(
        done.key, done.source, done.target, "tiny", "none", "lora", 32, 0, 0.5, seconds=3600,
        recipe=done.recipe,
    )])  # fmt: skip
    longer = plan_of(recipe="{epochs: 9}").estimate(store, tmp_path / "sources", 1)
    assert not longer.measured
    assert longer.hours < 1


def test_an_estimate_rests_on_what_was_measured(plan_of, tmp_path):
    plan, store = plan_of(), GridStore(tmp_path / "g.sqlite")
    run_grid(plan, store, tmp_path / "s", engine=Here())
    done = plan.estimate(store, tmp_path / "s", 1)
    assert (done.cells, done.done, done.sources, done.hours) == (len(plan.cells),) * 2 + (0, 0.0)
    more = plan_of(sizes="32, all").estimate(store, tmp_path / "s", 1)
    assert more.done == len(plan.cells)
    assert not more.measured


def test_kinds_that_a_grid_does_not_run_are_refused(workplace, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(f"name: s\ncatalogue: {workplace}\nsources: [alpha]\ntargets: [nothing]\n")
    with pytest.raises(Exception, match="nothing"):
        Plan(read_study(path))
    text = (workplace / "tasks.json").read_text().replace('"regression"', '"text_to_text"')
    (tmp_path / "tasks.json").write_text(text)
    path.write_text("name: s\ncatalogue: .\nsources: [alpha]\ntargets: [number]\n")
    with pytest.raises(StudyError, match="text_to_text"):
        Plan(read_study(path))


def test_any_kind_is_trained_before_any_other(tmp_path):
    tasks = [toy_task("alpha", n=64), toy_tags(64), toy_spans(64), toy_choices(64)]
    write_catalogue(tmp_path, tasks)
    tiny_encoder(tmp_path / "encoder")
    names = "[alpha, animals, where, choices]"
    text = STUDY.replace("[alpha, beta, twin]", names).replace("[gamma, number]", names)
    text = text.replace("seeds: [0, 1]", "seeds: [0]")
    recipe = "{epochs: 1, least_steps: 2}"
    path = tmp_path / "study.yaml"
    path.write_text(text.format(folder=tmp_path, tunings="lora", sizes=32, recipe=recipe))
    plan = Plan(read_study(path))
    store = GridStore(tmp_path / "grid.sqlite")
    run_grid(plan, store, tmp_path / "sources", engine=Here())
    results = store.results()
    assert len(results) == 16
    assert not any(r.error for r in results)
    # Against the two tunings, one after the other, by hand.
    cell = next(c for c in plan.cells if (c.source, c.target) == ("where", "animals"))
    encoder = grid_module._encoder(cell.encoder)
    source = tune(plan.catalogue.task("where"), encoder, plan.source_recipe("lora"), evaluate=None)
    target = tune(
        plan.target("animals", 32), encoder, plan.recipe("lora", 0), body=source.model.body
    )
    score = next(r.score for r in results if r.key == cell.key)
    assert score == pytest.approx(target.scores["score"], abs=1e-6)
