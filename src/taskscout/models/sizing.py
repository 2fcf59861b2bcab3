"""Recipes that fit the size of a model.

The default recipe was found on MiniLM (22 million parameters, 384 wide). What changes with a
larger model follows rules of thumb, not measurements of ours: the rate falls as one over the width
(which gives 1e-3 for LoRA at 768 and 2e-4 at 4,096, about what is published for models of these
sizes), the rank of LoRA grows, and beyond some hundred million parameters a batch is
taken in parts and activations are computed again rather than kept, so that a step fits into memory.
The number of examples that a step sees stays the same.
"""

from __future__ import annotations

from math import prod
from typing import Any

from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe, Tuning

#: Width of the model that the default rates were found on.
_WIDTH = 384
#: Rank of LoRA up to so many dimensions; the last beyond.
_RANKS = ((512, 4), (2048, 8), (None, 16))
#: Examples held in memory at a time up to so many parameters; the last beyond.
_BATCHES = ((200e6, 32), (500e6, 16), (1.5e9, 8), (None, 4))
#: Activations are computed again in the backward pass from so many parameters on.
_RECOMPUTED = 500e6
#: Tunings whose rate depends on the width; a prompt's and a head's do not.
_SCALED: tuple[Tuning, ...] = ("full", "lora", "bitfit")


def count_parameters(encoder: Encoder) -> int:
    """Numbers in the weight files of a model; they are not read."""
    from safetensors import safe_open

    total = 0
    for path in encoder.folder.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  # not a dict
    return total


def sized_recipe(encoder: Encoder, tuning: Tuning = "lora", **changes: Any) -> Recipe:
    """Make a recipe that fits the size of a model; the default recipe for the default encoder.

    Parameters
    ----------
    encoder
        Its configuration and the headers of its weight files are read.
    tuning
        As for :class:`Recipe`.
    changes
        Fields of the recipe that are given; an entry that is None or 0 is not. A rank that is
        given without ``alpha`` takes twice itself.
    """
    given = {name: value for name, value in changes.items() if value}
    if encoder.is_default:
        sized: dict[str, Any] = {}
    else:
        wide, parameters = encoder.dimension, count_parameters(encoder)
        own, batch = Recipe(tuning=tuning), _step(_BATCHES, parameters)
        sized = {"rank": _step(_RANKS, wide), "recompute": parameters > _RECOMPUTED}
        if tuning in _SCALED:
            share = min(1.0, _WIDTH / wide)
            for rate in ("learning_rate", "head_learning_rate"):
                sized[rate] = float(f"{getattr(own, rate) * share:.2g}")
        if "batch_size" not in given:
            sized |= {"batch_size": batch, "accumulation": own.batch_size // batch}
        if sized["rank"] != own.rank:
            sized["alpha"] = 2 * sized["rank"]
    if "rank" in given and "alpha" not in given:
        given["alpha"] = 2 * given["rank"]
    return Recipe(**{"tuning": tuning, **sized, **given})


def _step(steps: tuple[tuple[float | None, int], ...], size: float) -> int:
    """The value of the first step that is not below a size."""
    return next(value for most, value in steps if most is None or size <= most)
