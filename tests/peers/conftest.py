"""Tests against the peers' own code, in an environment of their own (``.ci/peers``).

Where a peer is missing its tests are skipped with the reason; with ``TASKSCOUT_REQUIRE_PEERS=1``
a missing peer is a failure.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

#: The package on the index that a module comes from.
_PACKAGES = {
    "hfselect": "hf-dataset-selector==0.2.1",
    "transformer_ranker": "transformer-ranker==0.2.0",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder ``peer``."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.peer)


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModuleType]:
    """Import a module of a peer: ``peer("hfselect.logme")``."""

    def load(name: str) -> ModuleType:
        package = _PACKAGES[name.partition(".")[0]]
        try:
            # Importing hfselect writes a log file into the current folder and captures warnings.
            with contextlib.chdir(tmp_path_factory.mktemp("peer")):
                module = importlib.import_module(name)
        except ImportError as error:
            reason = f"{name} does not import ({error}): pip install {package}, or run .ci/peers"
            if os.environ.get("TASKSCOUT_REQUIRE_PEERS") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        logging.captureWarnings(False)
        return module

    return load
