"""Transfer on the embedded default encoder, from the built-in pool to real reviews."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from taskscout.models.cache import NoCache
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.tasks import Task
from taskscout.tasks.catalogue import Catalogue
from taskscout.transfer.sources import origin_of
from taskscout.transfer.strategies import transfer

pytestmark = [pytest.mark.encoder, pytest.mark.data]


@pytest.fixture(scope="module")
def kitchen(catalogue: Catalogue) -> Task:
    """64 labelled reviews of kitchen goods, and 200 to be scored by."""
    task = catalogue.task("amazon_kitchen")
    task = replace(task, tables={s: task.tables[s] for s in ("train", "test")})
    return task.sample(64).sample(200, split="test")


@pytest.fixture(scope="module")
def bench() -> Workbench:
    recipe = Recipe(least_steps=16, epochs=2, dropout=0.0)
    return Workbench(Encoder(max_length=64), cache=NoCache(), recipe=recipe)


@pytest.mark.parametrize("strategy", ["sequential", "zero_shot"])
def test_sentiment_carries_over_to_other_goods(kitchen: Task, bench: Workbench, strategy: str):
    """Another domain's sentiment, from the pool's adapter alone or tuned on with few examples."""
    pool_encoder = Encoder()  # the pool's adapters are for its own maximum length
    origin = origin_of("sst2", Pool.builtin(), pool_encoder)
    made = transfer(kitchen, [origin], bench, strategy=strategy)
    assert made.scores["score"] > made.scores["baseline"] + 3 * made.scores["error"]


def test_shuffled_labels_teach_nothing(kitchen: Task, bench: Workbench):
    """The same training on answers that say nothing stays at chance."""
    table = kitchen.tables["train"]
    labels = table.column("label").to_numpy()
    shuffled = np.random.default_rng(0).permutation(labels)
    index = table.schema.get_field_index("label")
    table = table.set_column(index, table.schema.field(index), pa.array(shuffled))
    blind = replace(kitchen, tables={**kitchen.tables, "train": table})
    made = transfer(blind, [], bench, strategy="none")
    assert abs(made.scores["accuracy"] - 0.5) < 4 * made.scores["error"] + 0.05
