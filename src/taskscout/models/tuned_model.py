"""A tuned model: the head, and the tuned parameters beside those they began as."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import ModelError
from taskscout.models.recipe import Recipe

Arrays = dict[str, NDArray[np.float32]]

#: How the name of an array ends that is added to the encoder's parameter of the rest of the name.
DIFFERENCE = ".difference"


def is_change(name: str) -> bool:
    """Whether an array changes the encoder's weights where it is merged: a factor, a difference."""
    return name.endswith((".lora_A", ".lora_B", DIFFERENCE))


@dataclass
class TunedModel:
    """An encoder tuned on one task.

    Attributes
    ----------
    made
        The model, or a function that makes it when it is first asked for.
    recipe
        How it was tuned.
    parameters
        The tuned parameters but the head, float32. LoRA: ``<layer>.lora_A`` (rank × in) and
        ``<layer>.lora_B`` (out × rank) with the scaling alpha / rank multiplied into B.
        ``prompt``: k × d. P-tuning v2: ``prefix``, k × (layers · 2 · d), key before value.
        BitFit and full: by the names of the body; after full fine-tuning on the CPU they share
        the body's memory. A model added to a pool without data: factors as of LoRA, and
        ``<parameter>.difference`` to the encoder's own.
    initial
        What they began as, by the same names; empty after full fine-tuning, where the encoder's
        own weights say it (:func:`taskscout.models.adapting.task_vector`).
    initialisation
        Digest of what they began as: models of one initialisation can be compared as they are.
    checkpoints
        The tuned parameters after fractions of training, as the recipe asks.
    scores
        On the task's test split: the kind's metrics, ``score`` (one of them, by the recipe's
        metric), ``baseline`` (what a trivial answer that looks at no text gets by it) and
        ``error`` (standard error of the score over examples).
    seconds
        Time spent training.
    trained_on
        Number of training examples used.
    """

    made: Any
    recipe: Recipe
    parameters: Arrays
    initial: Arrays
    initialisation: str
    scores: dict[str, float]
    seconds: float
    trained_on: int
    checkpoints: dict[float, Arrays] = field(default_factory=dict)

    @property
    def model(self) -> Any:
        """Body with adapters merged in, and head; :meth:`Encoder.encode` takes its ``body``.

        A :class:`taskscout.models.heads.SequenceModel` for classification and regression; else
        what the kind's objective makes, with the same ``body`` and ``head`` (text-to-text: a
        language model without a head of ours).
        """
        import torch

        if not isinstance(self.made, torch.nn.Module):
            self.made = self.made()
        return self.made

    @property
    def adapter(self) -> Arrays:
        """LoRA factors by layer; empty after any other tuning."""
        return self.parameters if self.recipe.tuning == "lora" else {}

    def at(self, fraction: float) -> Arrays:
        """Get the tuned parameters after a fraction of training; 1 for the end.

        Raises
        ------
        ModelError
            If that checkpoint was not kept.
        """
        if fraction == 1:
            return self.parameters
        if fraction not in self.checkpoints:
            raise ModelError(
                f"No parameters were kept after {fraction:g} of training.",
                f"Kept were {', '.join(map(str, self.checkpoints)) or 'none'}.",
                "Name it in the recipe's checkpoints.",
            )
        return self.checkpoints[fraction]
