"""Recipes of a training: the target's own, and that of sources that are tuned afresh."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe, Tuning
from taskscout.models.sizing import sized_recipe

#: Stands for "all": more rows and tokens than any target has.
ALL = 10**9
#: At most so many training examples of a source that is tuned afresh.
SOURCE_EXAMPLES = 10_000


def target_recipe(
    tuning: Tuning = "lora", encoder: Encoder | None = None, **changes: Any
) -> Recipe:
    """Recipe of a target: all its rows, and what fits the encoder's size but for ``changes``."""
    return sized_recipe(encoder or Encoder(), tuning, **{"examples": ALL, "tokens": ALL, **changes})


def recipe_for_sources(
    recipe: Recipe, tuning: Tuning | None = None, *, examples: int = SOURCE_EXAMPLES
) -> Recipe:
    """Recipe of sources that are tuned afresh: the target's, or that of another tuning.

    The metric is the target's own affair and is left out.
    """
    return replace(recipe.with_tuning(tuning or recipe.tuning), examples=examples, metric="")
