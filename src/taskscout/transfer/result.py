"""What one transfer run may spend, and what came of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import TransferError
from taskscout.models.recipe import Recipe
from taskscout.models.tuned_model import TunedModel
from taskscout.tasks import Task

Strategy = Literal["none", "sequential", "multitask", "zero_shot"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
#: Name of the strategy, and of the candidate in rankings, that uses no source.
NONE: Strategy = "none"
_MINUTES = re.compile(r"(\d+(?:\.\d+)?)\s*m(?:in(?:utes?)?)?", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """What one transfer run may spend, on sources and target together.

    Attributes
    ----------
    examples
        Training examples, each counted once; None for no bound.
    seconds
        Of training; None for no bound. What the sources leave is the target's.
    """

    examples: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("examples", self.examples), ("minutes", self.seconds)):
            if value is not None and not value > 0:
                raise TransferError(
                    f"The budget in {name} is {value}.",
                    "Nothing can be trained with it.",
                    "Give a number above 0, such as 2000 (examples) or 10m (minutes).",
                )

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``2000`` as examples and ``10m`` as minutes.

        Raises
        ------
        TransferError
            If it is neither, or not above 0.
        """
        minutes = _MINUTES.fullmatch(text.strip())
        if minutes:
            return cls(seconds=60 * float(minutes.group(1)))
        if re.fullmatch(r"-?\d+", text.strip()):
            return cls(examples=int(text))
        raise TransferError(
            f"The budget is {text!r}.",
            "It is a number of examples, or of minutes with an m.",
            "Give 2000 or 10m, for example.",
        )

    def recipe_for_target(self, recipe: Recipe, trained_sources: int) -> Recipe:
        """Bound the target's examples: half the budget where sources have to be trained too."""
        if self.examples is None:
            return recipe
        most = self.examples // 2 if trained_sources else self.examples
        return replace(recipe, examples=max(1, min(recipe.examples, most)))

    def recipe_for_source(self, target: Task, recipe: Recipe, trained_sources: int) -> Recipe:
        """Bound each source's examples: what the target leaves, in equal parts."""
        if self.examples is None:
            return recipe
        left = self.examples - min(target.tables["train"].num_rows, self.examples // 2)
        return replace(recipe, examples=max(1, min(recipe.examples, left // trained_sources)))


@dataclass
class Transfer:
    """What came of one transfer run.

    Attributes
    ----------
    target, sources
        Names; no sources for ``none``.
    strategy, tuning, seed
        How the target was trained.
    scores
        On the test split, as fractions (see :func:`taskscout.models.heads.score_of`).
    validation
        On the validation split; empty where there is none.
    seconds, source_seconds
        Of training the target, and of training sources in this run; a source's model that was
        at hand costs nothing here.
    trained_on, source_examples
        Training examples of the target, and of sources trained in this run.
    notes
        Lines for the user.
    outputs
        Outputs for the test rows (rows × outputs), in the split's order; None where they are not
        kept.
    tuned
        The model; None once it is on disk or after ``zero_shot`` by label names.
    """

    target: str
    sources: tuple[str, ...]
    strategy: Strategy
    tuning: str
    seed: int
    scores: Mapping[str, float]
    validation: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    source_seconds: float = 0.0
    trained_on: int = 0
    source_examples: int = 0
    notes: tuple[str, ...] = ()
    outputs: NDArray[np.float32] | None = None
    tuned: TunedModel | None = None

    @property
    def score(self) -> float:
        """The score on the test split, as a fraction; NaN where the test rows have no labels."""
        return float(self.scores.get("score", math.nan))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the model and its outputs."""
        return {
            "target": self.target,
            "sources": list(self.sources),
            "strategy": self.strategy,
            "tuning": self.tuning,
            "seed": self.seed,
            "scores": dict(self.scores),
            "validation": dict(self.validation),
            "seconds": round(self.seconds, 3),
            "source_seconds": round(self.source_seconds, 3),
            "trained_on": self.trained_on,
            "source_examples": self.source_examples,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Transfer:
        """The inverse of :meth:`to_dict`."""
        return cls(**{**data, "sources": tuple(data["sources"]), "notes": tuple(data["notes"])})
