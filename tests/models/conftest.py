"""One tiny encoder for all tests of models."""

from __future__ import annotations

import pytest

from taskscout.models.encoder import Encoder
from tests.tiny import tiny_encoder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"))
