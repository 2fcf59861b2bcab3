"""Tuning: an encoder and a head tuned on one task, in full or by few parameters.

``transformers.Trainer`` and ``peft`` do the work. What comes out is small, but after full
fine-tuning: the head, and the tuned parameters beside those they began as.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.session import (
    Session,
    quiet_transformers,
    training_rows,
    validation_rows,
)
from taskscout.models.tuned_model import TunedModel
from taskscout.tasks import Task

log = logging.getLogger(__name__)


def tune(
    task: Task,
    encoder: Encoder,
    recipe: Recipe,
    *,
    body: torch.nn.Module | None = None,
    tunings_before: int = 1,
    start: Mapping[str, NDArray[Any]] | None = None,
    evaluate: str | None = "test",
    folder: Path | None = None,
    budget_seconds: float | None = None,
) -> TunedModel:
    """Tune ``encoder`` on the task's training split.

    Parameters
    ----------
    task
        A task of any kind.
    encoder
        The model to start from, with its pooling. For text-to-text, a causal or a
        sequence-to-sequence language model.
    recipe
        Tuning, size, learning rate, seed.
    body
        Start from this body in place of the pre-trained one; it is changed in place.
    tunings_before
        Number of tunings that ``body`` and ``start`` hold, where one of them is given.
    start
        Start the tuned parameters here in place of the shared initialisation: those of another
        :class:`TunedModel` of the same recipe, as prompts are transferred.
    evaluate
        Split to score on, or None.
    folder
        Trainer's checkpoints are kept there, the last two (with early stopping: the last and the
        best), and training goes on from the last whole one: a run that was killed ends with the
        parameters and scores of one that was not.
    budget_seconds
        Training ends after the step that exceeds it.

    Returns
    -------
    TunedModel

    Raises
    ------
    DataError
        If a split has no rows or no text.
    ModelError
        If the model cannot be tuned so, the values to start from do not fit, the folder holds
        another run's checkpoints, or disk or GPU are too small.
    """
    from taskscout.models.objectives import check_split, objective_of, unknown_labels

    quiet_transformers()
    check_split(task, "train")
    if evaluate is not None and evaluate in task.tables:
        check_split(task, evaluate)
        unknown = unknown_labels(task, evaluate)
        if unknown:
            log.warning("%s", unknown)
    task = task.sample(recipe.examples, seed=recipe.seed)
    objective = objective_of(task, encoder, recipe)
    examples = training_rows(objective, recipe)
    rows = [row for example in examples for row in example]

    if body is None and start is None:
        tunings_before = 0
    session = Session(objective, recipe, body=body, tunings_before=tunings_before, start=start)
    model = objective.model(session.body, seed=session.head_seed)
    trained = session.train(
        model,
        rows,
        held=[row for rows in validation_rows([task], encoder, recipe) for row in rows],
        lengths=[objective.length(row) for row in rows],
        collate=objective.collate,
        identity=session.identity(task) if folder is not None else "",
        folder=folder,
        budget_seconds=budget_seconds,
    )
    parameters = session.parameters()
    model.body = session.tuned_body()
    model.eval()
    scores: dict[str, float] = {}
    if evaluate is not None and evaluate in task.tables:
        task = task.sample(recipe.test_examples, split=evaluate, seed=recipe.seed)
        objective = objective_of(task, encoder, recipe)
        scores = objective.scores(evaluate, objective.predict(model, evaluate))
    return TunedModel(
        model, recipe, parameters, session.initial, session.initialisation, scores,
        trained.seconds, len(examples), trained.checkpoints,
    )  # fmt: skip
