"""Several tasks at once: the mixing, the shared body, and a training that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskscout.errors import TransferError
from taskscout.models.objectives import objective_of
from taskscout.models.recipe import Recipe
from taskscout.models.session import validation_rows
from taskscout.tasks import Task
from taskscout.transfer.multitask import (
    SharedModel,
    _Collate,
    check_tasks,
    mixed_order,
    mixing_shares,
    tune_together,
)
from taskscout.transfer.strategies import transfer
from tests.tiny import TOPICS, toy_task
from tests.transfer.conftest import LEARNS, SHORT

REVIEWS = toy_task("reviews", n=64, seed=1)
ANIMALS = toy_task("animals", n=32, seed=2, words=TOPICS)
STARS = toy_task("stars", n=48, seed=3, regression=True)
TARGET = toy_task("target", n=24, seed=5)


def test_shares_follow_the_power_of_the_sizes():
    sizes = [100, 400]
    np.testing.assert_allclose(mixing_shares(sizes), [0.2, 0.8])
    np.testing.assert_allclose(mixing_shares(sizes, 2), [1 / 3, 2 / 3])
    np.testing.assert_allclose(mixing_shares(sizes, np.inf), [0.5, 0.5])
    for wrong in (0, -1, np.nan):
        with pytest.raises(TransferError, match="temperature"):
            mixing_shares(sizes, wrong)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 4))
def test_by_size_every_example_comes_once_an_epoch(sizes, epochs):
    order = mixed_order(sizes, epochs=epochs, seed=1)
    n = sum(sizes)
    assert len(order) == n * epochs
    for e in range(epochs):
        epoch = Counter(map(tuple, order[e * n : (e + 1) * n].tolist()))
        assert epoch == Counter((t, r) for t, size in enumerate(sizes) for r in range(size))


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=5),
    st.sampled_from([1.0, 2.0, 5.0, float("inf")]),
)
def test_no_example_comes_again_before_all_others_of_its_task(sizes, temperature):
    order = mixed_order(sizes, epochs=3, temperature=temperature, seed=2)
    for task, size in enumerate(sizes):
        rows = order[order[:, 0] == task, 1]
        counts = np.bincount(rows, minlength=size)
        assert counts.max() - counts.min() <= 1
    drawn = np.bincount(order[:, 0], minlength=len(sizes)) / len(order)
    assert np.abs(drawn - mixing_shares(sizes, temperature)).max() <= 1 / sum(sizes)


def test_batches_mix_tasks():
    order = mixed_order([200, 200, 200], epochs=1, seed=0)
    batches = order[: 32 * 18].reshape(18, 32, 2)[:, :, 0]
    assert min(len(set(b.tolist())) for b in batches) == 3


TAGS = Task(
    "tags", "tagging",
    {s: pa.table({"tokens": [["good", "film"], ["bad", "bad", "plot"]] * 12,
                  "label": [[1, 0], [2, 2, 0]] * 12}) for s in ("train", "test")},
    ("O", "GOOD", "BAD"),
)  # fmt: skip


def test_the_loss_of_a_mixed_batch_is_the_mean_over_its_examples(tiny):
    tasks = [REVIEWS, STARS, TAGS]
    body = tiny.load_model()
    objectives = [objective_of(t, tiny, SHORT) for t in tasks]
    models = [o.model(body, seed=o.recipe.seed).eval() for o in objectives]
    shared = SharedModel(body, models, tiny).eval()
    rows = [
        {**row, "task": t} for t, o in enumerate(objectives) for (row,) in o.rows("train")[: t + 2]
    ]
    with torch.no_grad():
        got = shared(**_Collate(objectives)(rows[::-1]))["loss"]
        total = 0.0
        for t, (objective, model) in enumerate(zip(objectives, models, strict=True)):
            own = [{k: v for k, v in r.items() if k != "task"} for r in rows if r["task"] == t]
            total += float(model(**objective.collate(own))["loss"]) * len(own)
    assert float(got) == pytest.approx(total / len(rows), rel=1e-5)


def test_each_task_weighs_the_same_in_early_stopping(tiny):
    def with_validation(task, n):
        return replace(task, tables={**task.tables, "validation": task.tables["test"].slice(0, n)})

    both = [with_validation(REVIEWS, 20), with_validation(STARS, 6)]
    stopping = replace(SHORT, early_stopping=2)
    assert [len(rows) for rows in validation_rows(both, tiny, stopping)] == [6, 6]
    assert validation_rows([both[0], STARS], tiny, stopping) == []
    assert validation_rows(both, tiny, replace(SHORT, early_stopping=0)) == []


def test_tasks_of_several_kinds_share_a_body(tiny):
    recipe = Recipe(tuning="lora", learning_rate=1e-2, head_learning_rate=1e-2, least_steps=60)
    out = tune_together([REVIEWS, TAGS], tiny, recipe)
    objective = objective_of(TAGS, tiny, recipe)
    scores = objective.scores("test", objective.predict(out.models[1], "test"))
    assert scores["score"] > 0.9
    texts, _ = REVIEWS.inputs("test")
    said = out.models[0].predict(tiny.encode(texts, model=out.body)).argmax(1)
    assert (said == REVIEWS.labels("test")).mean() > 0.75


@pytest.mark.parametrize("tuning", ["lora", "full", "bitfit", "prompt"])
def test_one_body_learns_all_tasks(tiny, tuning):
    rates = {"full": (1e-3, 1e-2), "prompt": (0.1, 1e-2)}.get(tuning, (1e-2, 1e-2))
    recipe = Recipe(
        tuning=tuning, learning_rate=rates[0], head_learning_rate=rates[1], least_steps=60,
        **({"prompt_length": 8} if tuning == "prompt" else {}),
    )  # fmt: skip
    out = tune_together([REVIEWS, ANIMALS], tiny, recipe)
    assert out.names == ("reviews", "animals")
    assert out.trained_on == 96
    assert out.steps >= 60
    for task, model in zip((REVIEWS, ANIMALS), out.models, strict=True):
        texts, _ = task.inputs("test")
        outputs = model.predict(tiny.encode(texts, model=out.body))
        assert (outputs.argmax(1) == task.labels("test")).mean() > 0.75, task.name


def test_multitask_then_the_target(bench):
    run = transfer(TARGET, [REVIEWS, ANIMALS], bench, strategy="multitask", source_recipe=LEARNS,
                   recipe=Recipe(tuning="lora", least_steps=20))  # fmt: skip
    assert run.sources == ("reviews", "animals")
    assert run.source_examples == 96
    alone = transfer(
        TARGET, [], bench, strategy="none", recipe=Recipe(tuning="lora", least_steps=20)
    )
    assert run.score > alone.score
    mixed = transfer(TARGET, [REVIEWS], bench, strategy="multitask", with_target=True)
    assert mixed.source_examples == 32 + 24


def test_the_same_seed_gives_the_same_model(tiny):
    one, two = (tune_together([REVIEWS, STARS], tiny, SHORT) for _ in range(2))
    for name, value in one.parameters.items():
        np.testing.assert_array_equal(value, two.parameters[name])
    other = tune_together([REVIEWS, STARS], tiny, replace(SHORT, seed=1))
    assert any((value != other.parameters[n]).any() for n, value in one.parameters.items())


def test_tasks_that_cannot_be_together():
    with pytest.raises(TransferError, match="'reviews' is there twice"):
        check_tasks([REVIEWS, REVIEWS])
    with pytest.raises(TransferError, match="no tasks"):
        check_tasks([])
    writes = Task(
        "writes", "text_to_text", {"train": pa.table({"prompt": ["a"], "completion": ["b"]})}
    )
    with pytest.raises(TransferError, match="template"):
        check_tasks([REVIEWS, writes])


def test_other_shares_make_as_many_steps(tiny):
    by_size, equal = (tune_together([REVIEWS, STARS], tiny, replace(SHORT, examples=64), temperature=t)
                      for t in (1.0, np.inf))  # fmt: skip
    assert by_size.steps == equal.steps


def test_a_budget_in_time_ends_training(tiny):
    long = replace(SHORT, least_steps=0, epochs=20, examples=64)
    out = tune_together([REVIEWS, STARS], tiny, long, budget_seconds=0.0)
    assert out.steps == 1


PROGRAM = """
import json, sys
from pathlib import Path
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.session import validation_rows
from taskscout.models.adapting import digest
from taskscout.transfer.multitask import tune_together
from tests.tiny import toy_task
encoder = Encoder(sys.argv[1], max_length=32, precision="fp32", device="cpu")
tasks = [toy_task("reviews", n=64, seed=1), toy_task("stars", n=48, seed=3, regression=True)]
recipe = Recipe(tuning="full", epochs=8, batch_size=8, learning_rate=1e-3)
folder = Path(sys.argv[2]) if sys.argv[2] != "none" else None
out = tune_together(tasks, encoder, recipe, folder=folder)
print(json.dumps([digest(out.parameters), out.steps]))
"""


def test_a_training_that_is_killed_goes_on_and_ends_as_an_undisturbed_one(tiny, tmp_path: Path):
    paths = os.pathsep.join([os.getcwd(), *sys.path])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    checkpoints = tmp_path / "checkpoints"

    def start(folder: object) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tiny.folder), str(folder)],
            stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    victim = start(checkpoints)
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("checkpoint-*/whole.json")):
        assert victim.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    again, undisturbed = start(checkpoints), start("none")
    results = [
        json.loads(p.communicate(timeout=200)[0].splitlines()[-1]) for p in (again, undisturbed)
    ]
    assert results[0] == results[1]
    assert results[0][1] == 8 * 14
