"""What all tests share: no network, and the labelled datasets where there are any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

from taskscout.tasks.catalogue import ENVIRONMENT_VARIABLE, Catalogue


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """The real labelled datasets; tests that ask for it are marked ``data``."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get(ENVIRONMENT_VARIABLE) or beside)
    if not (folder / "tasks.json").is_file():
        pytest.skip(f"no labelled datasets: set {ENVIRONMENT_VARIABLE} to their folder")
    return Catalogue.open(folder)


# Machines that run tests are shared: a test is not wrong because it took long once.
settings.register_profile("taskscout", deadline=None)
settings.load_profile("taskscout")
