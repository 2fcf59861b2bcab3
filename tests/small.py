"""A pool of four small sources, tuned in seconds on the tiny encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from taskscout.methods import DEFAULT
from taskscout.methods.calibration import Calibration
from taskscout.methods.gains import Gains
from taskscout.models.cache import NoCache
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.pools.build import add_source, encoder_header
from taskscout.studies.calibration import Evidence, calibrate
from taskscout.tasks import Task, TaskCard
from tests.tiny import TOPICS, tiny_encoder, toy_task

RECIPE = Recipe(learning_rate=1e-2, head_learning_rate=1e-2, least_steps=48)

#: What the sources are: options of the task, and its card.
SOURCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "reviews": (
        {"seed": 1},
        {
            "category": "sentiment",
            "domain": "film reviews",
            "licence": "MIT",
            "commercial": "yes",
            "homepage": "https://example.org/reviews",
            "hub_id": "example/reviews",
        },
    ),
    "topics": (
        {"seed": 2, "words": TOPICS},
        {
            "category": "topic",
            "domain": "animals and cars",
            "licence": "CC BY-NC 4.0",
            "commercial": "no",
            "homepage": "https://example.org/topics",
        },
    ),
    "stars": (
        {"seed": 3, "regression": True},
        {"category": "sentiment", "domain": "Film Reviews", "licence": ""},
    ),
    "matching": (
        {"seed": 4, "pairs": True},
        {
            "category": "paraphrase",
            "domain": "books [old]",
            "licence": "Apache-2.0",
            "commercial": "yes",
            "load": 'datasets.load_dataset("example/matching")',
        },
    ),
}


def source_task(name: str) -> Task:
    """The data of one source."""
    options, card = SOURCES[name]
    return replace(toy_task(name, **options), card=TaskCard(name, **card))


def small_bench(folder: Path, **settings: Any) -> Workbench:
    """A workbench with a tiny encoder that keeps nothing on disk."""
    return Workbench(tiny_encoder(folder, **settings), cache=NoCache(), recipe=RECIPE)


def fresh_bench(bench: Workbench, **settings: Any) -> Workbench:
    """Another workbench with the same encoder, which remembers nothing."""
    encoder = bench.encoder
    made = Encoder(
        encoder.folder, **{**encoder.settings, "precision": "fp32", "device": "cpu", **settings}
    )
    return Workbench(made, cache=NoCache(), recipe=RECIPE)


def small_pool(folder: Path, bench: Workbench) -> Pool:
    """Tune the four sources and put them into a pool."""
    pool = Pool.create(folder, encoder=encoder_header(bench.encoder))
    for name in SOURCES:
        add_source(pool, source_task(name), bench)
    return pool


#: Points that each source brings in the grid behind :func:`small_calibration`.
STRENGTH = {"reviews": 4.0, "topics": -3.0, "stars": 1.0, "matching": 0.0}


def small_calibration(
    bench: Workbench, *, shift: float = 0.0, methods: tuple[str, ...] = (DEFAULT,), **setting: Any
) -> Calibration:
    """Fit one on gains in which every source has a strength, and a score tells a little."""
    rng = np.random.default_rng(0)
    names, targets = tuple(SOURCES), tuple(f"t{j:02d}" for j in range(12))
    score = rng.normal(size=(len(targets), len(names)))
    strength = np.array([STRENGTH[n] for n in names])
    gain = shift + strength[:, None] + score.T + rng.normal(0, 0.5, (len(names), len(targets)))
    runs = 60 + gain[:, :, None] + rng.normal(0, 0.5, (len(names), len(targets), 2))
    gains = Gains(names, targets, runs, np.full((len(targets), 2), 60.0), (0, 1))
    facts = {t: {"pair": float(j % 2), "regression": 0.0, "words": 5.0 + j, "classes": 2.0,
                 "balance": 1.0, "probe": 0.5} for j, t in enumerate(targets)}  # fmt: skip
    data = Evidence(
        gains, dict.fromkeys(methods, score), {n: TaskCard(n, pair=False) for n in names}, facts
    )
    return calibrate(data, setting={
        "encoder": bench.encoder.fingerprint, "tuning": "lora", "size": 60, "targets": 12,
        "kinds": ["classification", "regression"], **setting,
    })  # fmt: skip
