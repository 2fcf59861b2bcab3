"""A training session: what tuning one task and tuning several at once have in common."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskscout.models.adapting import (
    adapted,
    digest,
    initial_seed,
    put_parameters,
    read_parameters,
)
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.tuned_model import Arrays
from taskscout.tasks import Task

if TYPE_CHECKING:
    from taskscout.models.objectives import Objective
    from taskscout.models.training import Trained

log = logging.getLogger(__name__)

Row = dict[str, Any]


def quiet_transformers() -> None:
    """Keep transformers' own warnings and progress bars from the user."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def training_rows(objective: Objective, recipe: Recipe) -> list[list[Row]]:
    """Draw training examples, as rows of features, until the recipe's tokens are reached.

    At least one example is drawn.
    """
    examples = objective.rows("train")
    prompt = recipe.prompt_length if recipe.tuning == "prompt" else 0
    order = np.random.default_rng(recipe.seed).permutation(len(examples))
    total = np.cumsum([sum(objective.length(row) + prompt for row in examples[i]) for i in order])
    within = max(1, int(np.searchsorted(total, recipe.tokens, side="right")))
    return [examples[i] for i in order[:within]]


def validation_rows(tasks: Sequence[Task], encoder: Encoder, recipe: Recipe) -> list[list[Row]]:
    """Make the rows of each task that early stopping looks at; none without it.

    There are as many of each task, so that their mean is the mean over tasks.
    """
    from taskscout.models.objectives import objective_of

    if not recipe.early_stopping:
        return []
    by_task = []
    for task in tasks:
        if "validation" not in task.tables or not task.tables["validation"].num_rows:
            log.warning(
                "Task %r has no validation split, which early stopping looks at: training goes on "
                "to its end.", task.name,
            )  # fmt: skip
            return []
        sample = task.sample(recipe.test_examples, split="validation", seed=recipe.seed)
        objective = objective_of(sample, encoder, replace(recipe, metric=""))
        by_task.append([row for rows in objective.rows("validation") for row in rows])
    fewest = min(len(rows) for rows in by_task)
    return [rows[:fewest] for rows in by_task]


class Session:
    """A body that is made ready for tuning, trained, and read.

    Parameters
    ----------
    objective
        Of the task, or of one of several; loads the body where none is given.
    recipe
        Tuning, rates and seed.
    body, tunings_before, start
        As for :func:`taskscout.models.tuning.tune`.

    Attributes
    ----------
    body
        The adapted body.
    initial
        Tuned parameters before training; empty for full fine-tuning.
    initialisation
        Digest of what the tuned parameters began as.
    head_seed
        Seed of a head.

    Raises
    ------
    ModelError
        If the model cannot be tuned so, or the values to start from do not fit.
    """

    def __init__(
        self,
        objective: Objective,
        recipe: Recipe,
        *,
        body: torch.nn.Module | None = None,
        tunings_before: int = 0,
        start: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        from transformers import set_seed

        self.encoder, self.recipe = objective.encoder, recipe
        set_seed(recipe.seed)
        plain: Any = objective.load_body() if body is None else body
        _set_dropout(plain, recipe)
        if self.encoder.device.type == "cpu":
            # The fused attention is slow in its backward pass there.
            plain.set_attn_implementation("eager")
        if recipe.recompute:
            # The second name is older: transformers 6 has it no more.
            enable = getattr(plain, "activation_checkpointing_enable", None)
            (enable or plain.gradient_checkpointing_enable)({"use_reentrant": False})
        self.body = adapted(plain, self.encoder, recipe, tunings_before=tunings_before)
        if start is not None:
            put_parameters(self.body, self.encoder, recipe, start)
        initial = self.parameters()
        self.initialisation = digest(initial)
        self.initial: Arrays = {} if recipe.tuning == "full" else initial
        self.head_seed = initial_seed(recipe, tunings_before)

    def parameters(self) -> Arrays:
        """Read the tuned parameters; after full fine-tuning they share the body's memory."""
        copy = self.recipe.tuning != "full"
        return read_parameters(self.body, self.encoder, self.recipe, copy=copy)

    def identity(self, task: Task) -> str:
        """Tell a training from others: its data, model, beginning and recipe."""
        splits = {s: task.tables[s] for s in ("train", "validation") if s in task.tables}
        read = replace(task, tables=splits)
        silent = ("report_to", "test_examples")
        same = {k: v for k, v in self.recipe.to_dict().items() if k not in silent}
        parts = [read.fingerprint, self.encoder.space, self.initialisation, same]
        return hash_of(json.dumps(parts, sort_keys=True))

    def train(
        self,
        model: torch.nn.Module,
        rows: Sequence[Row],
        *,
        held: Sequence[Row],
        lengths: Sequence[int],
        collate: Callable[[list[Any]], dict[str, Any]],
        identity: str,
        schedule: Recipe | None = None,
        folder: Path | None = None,
        budget_seconds: float | None = None,
    ) -> Trained:
        """Train a model of this body in place; parameters are as for ``training.Run``.

        ``schedule`` takes the recipe's place where steps and epochs are counted.
        """
        from taskscout.models.training import Run, train

        _set_dropout(model, self.recipe)
        run = Run(
            model=model,
            rows=rows,
            held=held,
            lengths=lengths,
            collate=collate,
            recipe=schedule or self.recipe,
            encoder=self.encoder,
            optimizer=lambda: _optimizer(model, self.recipe, self.encoder.device),
            read=lambda: read_parameters(self.body, self.encoder, self.recipe),
            identity=identity,
            folder=folder,
            budget_seconds=budget_seconds,
        )
        with _frozen_in_half(self.body, self.encoder):
            return train(run)

    def tuned_body(self) -> Any:
        """Merge LoRA factors into the body, for use without ``peft``."""
        return self.body.merge_and_unload() if self.recipe.tuning == "lora" else self.body


def hash_of(text: str) -> str:
    """Thirty-two hex digits of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _set_dropout(model: torch.nn.Module, recipe: Recipe) -> None:
    if recipe.dropout is None:
        return
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = recipe.dropout
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = recipe.dropout  # type: ignore[assignment]  # a number there


@contextlib.contextmanager
def _frozen_in_half(body: Any, encoder: Encoder) -> Iterator[None]:
    """Lend frozen linear layers in bfloat16 where a CPU computes in it, and give them back.

    Autocast would round the same weights anew at every step, and ``peft`` would widen the inputs
    of its factors only for autocast to narrow them again: a fifth of the time, no other result.
    """
    from peft import PeftModel
    from peft.helpers import disable_input_dtype_casting

    if encoder.device.type != "cpu" or encoder.resolved_precision != "bf16":
        yield
        return
    linear = [m.weight for m in body.modules() if isinstance(m, torch.nn.Linear)]
    own = [(w, w.data) for w in linear if not w.requires_grad]
    for weight, data in own:
        weight.data = data.bfloat16()
    narrow = isinstance(body, PeftModel)
    try:
        with disable_input_dtype_casting(body) if narrow else contextlib.nullcontext():
            yield
    finally:
        for weight, data in own:
            weight.data = data


def _optimizer(model: Any, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer | None:
    """Make AdamW with a rate for the head; None, the Trainer's own, where the rates agree."""
    if recipe.head_learning_rate == recipe.learning_rate or not hasattr(model, "head"):
        return None
    model.to(device)
    rest = [p for p in model.body.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": list(model.head.parameters()), "lr": recipe.head_learning_rate}
    ]
    if rest:
        groups.append({"params": rest})
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=0.0)
