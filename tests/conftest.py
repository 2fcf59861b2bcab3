"""What all tests share: no network, and the labelled datasets where there are any."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers side by side that all thread over all processors wait for one another.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

from taskscout.tasks.catalogue import ENVIRONMENT_VARIABLE, Catalogue

if TYPE_CHECKING:
    from taskscout.models.workbench import Workbench
    from taskscout.pools import Pool


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave the user's cache and pools alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TASKSCOUT_POOLS", str(tmp_path_factory.mktemp("pools of models")))
        patch.setenv("TASKSCOUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """The real labelled datasets; tests that ask for it are marked ``data``."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get(ENVIRONMENT_VARIABLE) or beside)
    if not (folder / "tasks.json").is_file():
        pytest.skip(f"no labelled datasets: set {ENVIRONMENT_VARIABLE} to their folder")
    return Catalogue.open(folder)


@pytest.fixture(scope="session")
def small_bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A workbench with a tiny encoder that keeps nothing on disk."""
    from tests.small import small_bench

    return small_bench(tmp_path_factory.mktemp("small encoder"))


@pytest.fixture(scope="session")
def small_pool(small_bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A pool of four small sources; do not change it."""
    from tests.small import small_pool

    return small_pool(tmp_path_factory.mktemp("small pool"), small_bench)


# Machines that run tests are shared: a test is not wrong because it took long once.
settings.register_profile("taskscout", deadline=None)
settings.load_profile("taskscout")


@pytest.fixture(scope="session")
def toy_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a pool of three toy sources; the tiny encoder is in ``encoder`` beside it."""
    from taskscout.models.cache import NoCache
    from taskscout.models.recipe import Recipe
    from taskscout.models.workbench import Workbench
    from taskscout.pools import Pool
    from taskscout.pools.build import add_source, encoder_header
    from tests.tiny import tiny_encoder, toy_task

    folder = tmp_path_factory.mktemp("pools")
    bench = Workbench(
        tiny_encoder(folder / "encoder"),
        cache=NoCache(),
        recipe=Recipe(epochs=1, least_steps=1, examples=64),
    )
    pool = Pool.create(folder / "pool", encoder=encoder_header(bench.encoder))
    for seed, (name, commercial) in enumerate((("alpha", "yes"), ("beta", "no"), ("gamma", "yes"))):
        task = toy_task(name, seed=seed)
        card = replace(
            task.card, commercial=commercial, licence="CC BY 4.0", domain=f"{name} reviews"
        )
        add_source(pool, replace(task, card=card), bench)
    return folder / "pool"


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Piped output is wide unless ``COLUMNS`` says otherwise, as it does in workers of xdist."""
    monkeypatch.delenv("COLUMNS", raising=False)
