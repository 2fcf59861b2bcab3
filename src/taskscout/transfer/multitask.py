"""Several tasks at once: one encoder, a head per task, batches that mix tasks.

This is the first step of Padmakumar et al. 2022 (section 3): the examples of all tasks are
pooled, each batch holds examples of several, the loss is each task's own without weights, and
training ends when the mean of the tasks' validation losses has stopped improving. How often a
task is drawn follows its size, or its size to the power 1/T (Raffel et al. 2020, section 3.5.2).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from taskscout.errors import TransferError
from taskscout.models.encoder import Encoder
from taskscout.models.heads import SequenceModel
from taskscout.models.recipe import Recipe
from taskscout.models.session import (
    Session,
    hash_of,
    quiet_transformers,
    training_rows,
    validation_rows,
)
from taskscout.models.tuned_model import Arrays
from taskscout.tasks import Task
from taskscout.tasks.kinds import SEQUENCE_KINDS

if TYPE_CHECKING:
    from taskscout.models.objectives import Objective


@dataclass
class Together:
    """An encoder tuned on several tasks at once.

    Attributes
    ----------
    names
        Of the tasks, in order.
    body
        The tuned transformer; LoRA merged in.
    models
        The same body with each task's head.
    recipe, parameters
        As in :class:`taskscout.models.tuned_model.TunedModel`.
    seconds
        Spent training.
    trained_on
        Examples of all tasks, each counted once.
    steps
        Optimizer steps made.
    """

    names: tuple[str, ...]
    body: Any
    models: tuple[Any, ...]
    recipe: Recipe
    parameters: Arrays
    seconds: float
    trained_on: int
    steps: int


def mixing_shares(sizes: Sequence[int], temperature: float = 1.0) -> NDArray[np.float64]:
    """Share of each task among the examples drawn: its size to the power 1/T, made to sum to 1.

    Parameters
    ----------
    sizes
        Training examples per task.
    temperature
        T; 1 for shares by size, infinity for equal shares.

    Raises
    ------
    TransferError
        If T is not above 0.
    """
    if not temperature > 0:
        raise TransferError(
            f"The temperature of the mixing is {temperature}.",
            "A task's share is its size to the power 1/T.",
            "Give 1 for shares by size, more for more equal shares, inf for equal ones.",
        )
    logs = np.log(np.asarray(sizes, np.float64)) / temperature
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())


def mixed_order(
    sizes: Sequence[int], *, epochs: int, temperature: float = 1.0, seed: int = 0
) -> NDArray[np.int64]:
    """The (task, row) pairs of a training in the order they are drawn, N × 2.

    An epoch has as many draws as there are examples, shared out by :func:`mixing_shares` (largest
    remainders) and shuffled over tasks. Within a task no row is drawn again before all others
    were; so at T = 1 every example is drawn once per epoch.
    """
    rng = np.random.default_rng(seed)
    total = int(np.sum(sizes))
    exact = mixing_shares(sizes, temperature) * total
    counts = np.floor(exact + 1e-9).astype(int)
    for task in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[task] += 1
    waiting: list[list[int]] = [[] for _ in sizes]
    out = []
    for _ in range(epochs):
        epoch = []
        for task, count in enumerate(counts.tolist()):
            rows = waiting[task]
            while len(rows) < count:
                rows.extend(rng.permutation(sizes[task]).tolist())
            epoch += [(task, row) for row in rows[:count]]
            del rows[:count]
        out.append(np.array(epoch, np.int64)[rng.permutation(len(epoch))])
    return np.concatenate(out)


class SharedModel(nn.Module):
    """One body and a head per task; the loss of a batch is the mean over its examples.

    Parameters
    ----------
    body
        The transformer, adapted for tuning.
    models
        One model per task, all of this body.
    encoder
        Says how to pool.
    """

    def __init__(self, body: nn.Module, models: Sequence[nn.Module], encoder: Encoder) -> None:
        super().__init__()
        self.body = body
        self.head = nn.ModuleList(
            [nn.ModuleList([c for n, c in m.named_children() if n != "body"]) for m in models]
        )
        self.encoder = encoder
        # Not registered: their bodies are this one, and a checkpoint holds each tensor once.
        self._models = tuple(models)

    def forward(self, labels: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Loss of a batch that mixes tasks.

        Parameters
        ----------
        labels
            Parts of the batch: ``features`` as the body reads them, and per row of these its
            ``task`` and ``labels``. A part of several tasks is of sequence kinds, and the body
            reads it in one pass; a part of another kind is of one task. (Trainer takes what has
            ``labels`` for a batch that gives a loss.)
        """
        total, examples = torch.zeros((), device=self._device), 0
        for part in labels:
            tasks, answers = part["task"], part["labels"]
            first = self._models[int(tasks[0])]
            if isinstance(first, SequenceModel):
                total = total + self._of_sequences(part["features"], tasks, answers)
            else:
                total = total + first(labels=answers, **part["features"])["loss"] * len(tasks)
            examples += len(tasks)
        return {"loss": total / examples}

    @property
    def _device(self) -> torch.device:
        return next(self.body.parameters()).device

    def _of_sequences(
        self, features: dict[str, torch.Tensor], tasks: torch.Tensor, answers: torch.Tensor
    ) -> torch.Tensor:
        """Sum of the losses of rows of several classification and regression tasks."""
        pooled = self.encoder.pooled(self.body, features)
        total = pooled.new_zeros(())
        for i in tasks.unique().tolist():
            rows, model = tasks == i, self._models[i]
            logits = model.head(model.dropout(pooled[rows]))
            if model.regression:
                numbers = (answers[rows].float() - model.center) / model.scale
                total = total + nn.functional.mse_loss(logits.squeeze(-1), numbers, reduction="sum")
            else:
                total = total + nn.functional.cross_entropy(
                    logits, answers[rows].long(), reduction="sum"
                )
        return total


def check_tasks(tasks: Sequence[Task]) -> None:
    """Refuse tasks that cannot share a training.

    Raises
    ------
    TransferError
        If there are none, two have one name, or some write text and others do not.
    """
    names = [t.name for t in tasks]
    twice = sorted({n for n in names if names.count(n) > 1})
    if not tasks or twice:
        raise TransferError(
            f"Task {twice[0]!r} is there twice." if twice else "There are no tasks.",
            "Tasks that are trained together have a head each, told apart by name.",
            "Name each once." if twice else "Name at least one source.",
        )
    writing = [t for t in tasks if t.kind == "text_to_text"]
    if writing and len(writing) < len(tasks):
        other = next(t for t in tasks if t.kind != "text_to_text")
        raise TransferError(
            f"Task {writing[0].name!r} is of kind text_to_text, {other.name!r} of {other.kind}.",
            "One is learnt by generating text and the other by a head on an encoder; they share "
            "no model.",
            "Render all as text_to_text by a template, or leave one of the two out.",
        )


def tune_together(
    tasks: Sequence[Task],
    encoder: Encoder,
    recipe: Recipe,
    *,
    temperature: float = 1.0,
    folder: Path | None = None,
    budget_seconds: float | None = None,
) -> Together:
    """Tune one encoder on several tasks at once, by ``transformers.Trainer``.

    Parameters
    ----------
    tasks
        Of any kinds (text-to-text with nothing else). Their training splits are mixed;
        ``recipe.examples`` and ``recipe.tokens`` bound each.
    encoder
        The model to start from.
    recipe
        Tuning, epochs, rates and seed. Where it asks for early stopping, the mean of the tasks'
        validation losses is what has to improve: each task has as many validation rows.
    temperature
        T of :func:`mixing_shares`.
    folder
        Checkpoints are kept there, and training goes on from the last one.
    budget_seconds
        Training ends after the step that exceeds it.

    Raises
    ------
    TransferError
        If the tasks cannot be trained together.
    ModelError
        As :func:`taskscout.models.tuning.tune`.
    """
    from taskscout.models.objectives import check_split, objective_of
    from taskscout.models.training import planned_steps

    check_tasks(tasks)
    for task in tasks:
        check_split(task, "train")
    quiet_transformers()
    bounded = [t.sample(recipe.examples, seed=recipe.seed) for t in tasks]
    objectives = [
        # A head of its own for each, whatever the others are.
        objective_of(t, encoder, replace(recipe, metric="", seed=recipe.seed + i))
        for i, t in enumerate(bounded)
    ]
    examples = [training_rows(o, recipe) for o in objectives]
    sizes = [len(e) for e in examples]
    order = np.concatenate(
        [np.stack([np.full(n, t), np.arange(n)], 1) for t, n in enumerate(sizes)]
    )
    _, total = planned_steps(sum(sizes), recipe)
    schedule = recipe
    if temperature != 1:
        # The draws of all epochs are laid out, as no epoch has every example once.
        epochs = -(-total * recipe.batch_size * recipe.accumulation // sum(sizes))
        order = mixed_order(sizes, epochs=epochs, temperature=temperature, seed=recipe.seed)
        schedule = replace(recipe, epochs=1, least_steps=1, max_steps=total)
    rows = [{**row, "task": t} for t, i in order.tolist() for row in examples[t][i]]

    session = Session(objectives[0], recipe)
    models = [o.model(session.body, seed=o.recipe.seed) for o in objectives]
    identity = [[session.identity(t) for t in bounded], [t.name for t in tasks], temperature]
    trained = session.train(
        SharedModel(session.body, models, encoder),
        rows,
        held=[
            {**row, "task": i}
            for i, held in enumerate(validation_rows(tasks, encoder, recipe))
            for row in held
        ],
        lengths=[objectives[row["task"]].length(row) for row in rows],
        collate=_Collate(objectives),
        identity=hash_of(json.dumps(identity)),
        schedule=schedule,
        folder=folder,
        budget_seconds=budget_seconds,
    )
    parameters = session.parameters()
    body = session.tuned_body()
    for each in models:
        each.body = body
        each.eval()
    return Together(
        tuple(t.name for t in tasks), body, tuple(models), recipe, parameters,
        trained.seconds, sum(sizes), trained.steps,
    )  # fmt: skip


class _Collate:
    """Makes a batch of parts: one for all sequence tasks, and one for each other task."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.objectives = objectives

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        parts: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            kind = self.objectives[row["task"]].task.kind
            parts.setdefault(-1 if kind in SEQUENCE_KINDS else row["task"], []).append(row)
        return {"labels": [self._part(of) for of in parts.values()]}

    def _part(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        plain = [{k: v for k, v in row.items() if k != "task"} for row in rows]
        batch = self.objectives[rows[0]["task"]].collate(plain)
        labels = batch.pop("labels")
        return {
            "task": torch.tensor([row["task"] for row in rows]),
            "labels": labels,
            "features": batch,
        }
