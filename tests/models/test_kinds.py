"""Every kind on a real task with the real encoder: it learns, and from shuffled labels it does not.

Budgets are small, so that the whole file takes about a minute of one core.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from taskscout import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.tuning import tune
from taskscout.tasks import Task
from taskscout.tasks.catalogue import Catalogue

pytestmark = [pytest.mark.data, pytest.mark.encoder]

#: Easy tasks, the column that holds the answers, training examples, and the margin of the score.
TASKS = {
    "classification": ("sms_spam", "label", 96, 0.2),
    "regression": ("stsb", "label", 96, 0.3),
    "tagging": ("snips_slots", "label", 300, 0.1),
    "span_qa": ("policyqa", "answer", 400, 0.04),
    "multiple_choice": ("comve", "label", 800, 0.15),
}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(max_length=128)


def shuffled(task: Task, column: str) -> Task:
    """The task with answers of other training examples."""
    table = task.tables["train"]
    rng = random.Random(0)
    columns = {n: table.column(n).to_pylist() for n in table.column_names}
    if task.kind == "tagging":
        # A sentence keeps its length: tags move within all words.
        tags = [t for row in columns["label"] for t in row]
        rng.shuffle(tags)
        pool = iter(tags)
        columns["label"] = [[next(pool) for _ in row] for row in columns["label"]]
    elif task.kind == "span_qa":
        for i, context in enumerate(columns["context"]):
            words = context.split(" ")
            at = rng.randrange(len(words))
            columns["answer_text"][i] = words[at]
            columns["answer_start"][i] = sum(len(w) + 1 for w in words[:at])
    elif task.kind == "multiple_choice":
        columns["label"] = [rng.randrange(len(c)) for c in columns["choices"]]
    else:
        rng.shuffle(columns[column])
    made = pa.table({n: pa.array(v, table.schema.field(n).type) for n, v in columns.items()})
    return replace(task, tables={**task.tables, "train": made})


@pytest.mark.parametrize("kind", TASKS)
def test_a_real_task_is_learnt_and_shuffled_labels_are_not(
    catalogue: Catalogue, encoder: Encoder, kind: str
) -> None:
    name, column, examples, margin = TASKS[kind]
    task = catalogue.task(name).sample(examples)
    task = task.sample(150, split="test")
    settings: dict[str, Any] = {"dropout": 0.0, "least_steps": 36, "epochs": 2, "batch_size": 32}
    steps = Recipe(tuning="lora", examples=examples, tokens=60_000, **settings)
    made = tune(task, encoder, steps).scores
    assert made["score"] > made["baseline"] + max(margin, 2 * made["error"] * (margin > 0.05))
    blind = tune(shuffled(task, column), encoder, steps).scores
    assert blind["score"] < blind["baseline"] + max(3 * blind["error"], 0.05)
    assert blind["score"] < made["score"]
