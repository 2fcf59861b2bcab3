"""Objectives: what each kind of task has to say so that one function can tune them all."""

from __future__ import annotations

from typing import Any

from taskscout.models.encoder import Encoder
from taskscout.models.objectives.multiple_choice import ChoiceModel, MultipleChoice
from taskscout.models.objectives.objective import (
    Objective,
    TokenModel,
    check_split,
    unknown_labels,
)
from taskscout.models.objectives.sequence import Regression, Sequence
from taskscout.models.objectives.span_qa import SpanQA
from taskscout.models.objectives.tagging import Tagging
from taskscout.models.objectives.text_to_text import LanguageModel, TextToText
from taskscout.models.recipe import Recipe
from taskscout.models.tuned_model import TunedModel
from taskscout.tasks import Task
from taskscout.tasks.kinds import Kind

__all__ = [
    "OBJECTIVES",
    "ChoiceModel",
    "LanguageModel",
    "Objective",
    "TokenModel",
    "check_split",
    "load_body",
    "objective_of",
    "predict",
    "unknown_labels",
]

#: The objective of each kind.
OBJECTIVES: dict[Kind, type[Objective]] = {
    "classification": Sequence,
    "regression": Regression,
    "tagging": Tagging,
    "span_qa": SpanQA,
    "multiple_choice": MultipleChoice,
    "text_to_text": TextToText,
}


def objective_of(task: Task, encoder: Encoder, recipe: Recipe) -> Objective:
    """The objective of a task.

    Raises
    ------
    ModelError
        If the recipe's metric or tuning is not one of the kind's.
    """
    return OBJECTIVES[task.kind](task, encoder, recipe)


def load_body(task: Task, encoder: Encoder) -> Any:
    """What :func:`taskscout.models.tuning.tune` puts a head of the task's kind on.

    The encoder's model, or for text-to-text the language model.
    """
    from taskscout.models.objectives.text_to_text import load_language_model

    return load_language_model(encoder) if task.kind == "text_to_text" else encoder.load_model()


def predict(
    tuned: TunedModel, task: Task, encoder: Encoder, split: str = "test"
) -> tuple[Any, dict[str, float]]:
    """Predict all rows of a split by a model tuned on a task of the same kind, and score them.

    Parameters
    ----------
    tuned
        The model.
    task
        Its training split gives the baseline.
    encoder
        What the model was tuned from.
    split
        What is predicted.

    Returns
    -------
    Predictions as the kind's objective has them, in the order of the rows, and their scores.
    """
    objective = objective_of(task, encoder, tuned.recipe)
    predictions = objective.predict(tuned.model, split)
    return predictions, objective.scores(split, predictions)
