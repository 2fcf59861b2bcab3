"""One tiny encoder and workbench for all tests of transfer."""

from __future__ import annotations

import pytest

from taskscout.models.cache import NoCache
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.workbench import Workbench
from tests.tiny import tiny_encoder

#: Enough steps for every path, too few to learn.
SHORT = Recipe(tuning="lora", epochs=1, least_steps=2, examples=32, batch_size=16)
#: Enough to learn a task that a few words decide.
LEARNS = Recipe(tuning="lora", learning_rate=1e-2, head_learning_rate=1e-2, least_steps=48)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def bench(tiny: Encoder) -> Workbench:
    return Workbench(tiny, cache=NoCache(), recipe=SHORT)
