"""What a build of a pool will take, from training steps measured on this machine."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from taskscout.errors import DataError, PoolError
from taskscout.files import place_of
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.pools.pool import Source
from taskscout.pools.source_data import data_of, hub_arguments, is_local
from taskscout.tasks import Task, TaskCard
from taskscout.tasks.kinds import SEQUENCE_KINDS

if TYPE_CHECKING:
    from taskscout.tasks.catalogue import Catalogue

#: Steps of the two measured trainings: their difference is free of what a start costs.
_STEPS = (2, 6)
#: Rows that are looked at to tell the length of a source's texts.
_ROWS = 200
#: Rows that descriptions embed, with the base and with the tuned model each.
_EMBEDDED = 1000


@dataclass(frozen=True)
class Estimate:
    """What a build will take, from training steps measured on this machine.

    Attributes
    ----------
    sources
        To be made; those done before are not among them.
    hours
        Of training, scoring and describing, over all processes.
    step_seconds, step_tokens
        Of one measured training step.
    disk
        Bytes of the pool and of the tuned models that the cache keeps beside it.
    memory
        Peak bytes of this process while it trained.
    downloads
        Bytes of the data to be loaded from the hub by source; None where the hub does not say.
    no_place
        Sources whose cards name no place that data can be loaded from, with the reason.
    """

    sources: tuple[str, ...]
    hours: float
    step_seconds: float
    step_tokens: float
    disk: int
    memory: int
    downloads: Mapping[str, int | None]
    no_place: Mapping[str, str]


def disk_needed(sources: int, encoder: Encoder, recipe: Recipe) -> int:
    """Bytes of a pool of so many sources, and of the tuned models that the cache keeps beside it.

    The model is loaded to count what is tuned.
    """
    from taskscout.models.adapting import initial_parameters

    tuned = sum(array.size for array in initial_parameters(encoder, recipe).values())
    maps = 60 * encoder.dimension
    # Half precision in the pool; in the cache float32 with the beginning beside it.
    return sources * (2 * tuned + 2 * maps + 8 * tuned + 20_000)


def require_room(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk has no room for.

    Raises
    ------
    PoolError
        If there are fewer free bytes than are needed.
    """
    free = shutil.disk_usage(place_of(folder)).free
    if free < needed:
        raise PoolError(
            f"The disk of {folder} has {free / 1e9:.2f} GB free.",
            f"The pool and its tuned models take about {needed / 1e9:.2f} GB.",
            "Make room, name a folder on another disk with --out, or build fewer sources: --top 10",
        )


def estimate_build(
    sources: Sequence[Source],
    encoder: Encoder,
    recipe: Recipe,
    *,
    catalogue: Catalogue | None = None,
    processes: int = 1,
) -> Estimate:
    """Estimate what tuning and describing sources will take; trains for a few steps.

    Parameters
    ----------
    sources
        To be made.
    encoder, recipe
        The model, and how it will be tuned.
    catalogue
        Labelled datasets on disk.
    processes
        Sources tuned at a time. With several, the steps are measured with one thread, as each
        process will have; that they share the machine's memory is not measured.

    Raises
    ------
    ModelError
        If the model cannot be loaded or tuned so.
    """
    import torch

    from taskscout.models.training import planned_steps

    local = {s.name: s for s in sources if is_local(s.card, catalogue)}
    lengths, first = {}, None
    for name, source in local.items():
        try:
            task = data_of(source.card, catalogue)
        except DataError:
            continue
        if task.kind not in SEQUENCE_KINDS:
            continue  # rows of other kinds are taken to be as long as the others' texts
        lengths[name] = _tokens(task, encoder)
        first = first or task
    usual = sum(lengths.values()) / len(lengths) if lengths else 64.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if processes > 1 else threads)
    try:
        per_token, forward, step = _measured(first or _made_up(), encoder, recipe)
    finally:
        torch.set_num_threads(threads)
    seconds = 0.0
    for source in sources:
        length = lengths.get(source.name, usual)
        rows = min(source.card.rows.get("train", recipe.examples), recipe.examples)
        rows = max(1, min(rows, int(recipe.tokens / length)))
        _, steps = planned_steps(rows, recipe)
        seen = min(recipe.batch_size * recipe.accumulation, rows) * steps
        tests = min(source.card.rows.get("test", 0), recipe.test_examples)
        seconds += length * (seen * per_token + (tests + 2 * _EMBEDDED) * forward)
    hub = [s for s in sources if s.name not in local]
    return Estimate(
        tuple(s.name for s in sources),
        seconds / max(processes, 1) / 3600,
        step,
        usual * recipe.batch_size,
        disk_needed(len(sources), encoder, recipe),
        _peak_memory(),
        {s.name: _download_size(s.card) for s in hub if hub_arguments(s.card)},
        {s.name: s.card.homepage for s in hub if not hub_arguments(s.card)},
    )


def _tokens(task: Task, encoder: Encoder) -> float:
    """Mean length of a task's training texts in tokens."""
    texts, pairs = task.sample(_ROWS).inputs("train")
    return sum(len(r["input_ids"]) for r in encoder.tokenize(texts, pairs)) / len(texts)


def _made_up() -> Task:
    """Rows to measure a step on, and for nothing else, where no source's data are at hand."""
    text = "to measure how long a step of training takes on this machine " * 5
    table = pa.table({"text": [f"{i} {text}" for i in range(256)], "label": [0, 1] * 128})
    return Task("measured", "classification", {"train": table}, ("even", "odd"))


def _measured(task: Task, encoder: Encoder, recipe: Recipe) -> tuple[float, float, float]:
    """Seconds per token of a training step and of a forward pass, and seconds of a step."""
    from taskscout.models.tuning import tune

    length = _tokens(task, encoder)
    seconds = []
    for steps in _STEPS:
        short = replace(recipe, max_steps=steps)
        seconds.append(tune(task, encoder, short, evaluate=None).seconds)
    few, more = seconds
    step = (more - few) / (_STEPS[1] - _STEPS[0])
    if more < 1.5 * few:  # steps so short that the start is all there is to measure
        step = more / _STEPS[1]
    texts, pairs = task.sample(_ROWS).inputs("train")
    encoder.encode(texts[:8], None if pairs is None else pairs[:8])  # loads the model
    begun = time.perf_counter()
    encoder.encode(texts, pairs)
    forward = (time.perf_counter() - begun) / (length * len(texts))
    seen = min(recipe.batch_size * recipe.accumulation, task.tables["train"].num_rows)
    return step / (length * seen), forward, step


def _peak_memory() -> int:
    """Peak resident bytes of this process."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _download_size(card: TaskCard) -> int | None:
    """Bytes that loading a source's data from the hub takes; None where the hub does not say."""
    from datasets import load_dataset_builder

    given = hub_arguments(card)
    try:
        builder = load_dataset_builder(given["hub_id"], given.get("config"))
    except Exception:  # load_dataset_builder raises most of what there is; the build will tell
        return None
    size = builder.info.download_size
    return None if size is None else int(size)
