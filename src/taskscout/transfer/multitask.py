"""Several tasks at once: one encoder, a head per task, batches that mix tasks.

This is the first step of Padmakumar et al. 2022 (section 3): the examples of all tasks are
pooled, each batch holds examples of several, the loss is each task's own without weights, and
training ends when the mean of the tasks' validation losses has stopped improving. How often a
task is drawn follows its size, or its size to the power 1/T (Raffel et al. 2020, section 3.5.2).
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from taskscout.errors import TransferError
from taskscout.models.encoder import Encoder
from taskscout.models.heads import sequence_model
from taskscout.tasks import Task
from taskscout.tasks.task import SEQUENCE_KINDS

if TYPE_CHECKING:
    from taskscout.models.heads import SequenceModel
    from taskscout.models.tuning import Arrays, Recipe


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
        As in :class:`taskscout.models.tuning.TunedModel`.
    seconds
        Spent training.
    trained_on
        Examples of all tasks, each counted once.
    steps
        Optimizer steps made.
    drawn
        Examples drawn from each task over the training, repeats counted.
    validation_losses
        Mean over tasks of the validation loss, evaluation by evaluation.
    """

    names: tuple[str, ...]
    body: Any
    models: tuple[SequenceModel, ...]
    recipe: Recipe
    parameters: Arrays
    seconds: float
    trained_on: int
    steps: int
    drawn: tuple[int, ...]
    validation_losses: list[float] = field(default_factory=list)


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

    def __init__(self, body: nn.Module, models: Sequence[SequenceModel], encoder: Encoder) -> None:
        super().__init__()
        self.body = body
        self.head = nn.ModuleList([m.head for m in models])
        self.encoder = encoder
        # Not registered: their bodies are this one, and a checkpoint holds each tensor once.
        self._models = tuple(models)

    def forward(
        self, task: torch.Tensor, labels: torch.Tensor, **batch: Any
    ) -> dict[str, torch.Tensor]:
        """Loss of a batch that mixes tasks; the body reads it in one pass."""
        pooled = self.encoder.pooled(self.body, batch)
        total = pooled.new_zeros(())
        for i in task.unique().tolist():
            rows = task == i
            model = self._models[i]
            logits = model.head(model.dropout(pooled[rows]))
            if model.regression:
                wanted = (labels[rows].float() - model.center) / model.scale
                total = total + nn.functional.mse_loss(logits.squeeze(-1), wanted, reduction="sum")
            else:
                total = total + nn.functional.cross_entropy(
                    logits, labels[rows].long(), reduction="sum"
                )
        return {"loss": total / len(task)}


def check_tasks(tasks: Sequence[Task]) -> None:
    """Refuse tasks that cannot share a training.

    Raises
    ------
    TransferError
        If there are none, two have one name, or one is of a kind without a label per example.
    """
    names = [t.name for t in tasks]
    twice = sorted({n for n in names if names.count(n) > 1})
    if not tasks or twice:
        raise TransferError(
            f"Task {twice[0]!r} is there twice." if twice else "There are no tasks.",
            "Tasks that are trained together have a head each, told apart by name.",
            "Name each once." if twice else "Name at least one source.",
        )
    for task in tasks:
        if task.kind not in SEQUENCE_KINDS:
            raise TransferError(
                f"Task {task.name!r} is of kind {task.kind}.",
                f"Tasks of kind {' and '.join(SEQUENCE_KINDS)} can be trained together.",
                "Leave it out, or use --strategy sequential.",
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
        Their training splits are mixed; ``recipe.examples`` and ``recipe.tokens`` bound each.
    encoder
        The model to start from.
    recipe
        Tuning, epochs, rates and seed. Where it asks for early stopping, the mean of the tasks'
        validation losses is what has to improve.
    temperature
        T of :func:`mixing_shares`.
    folder
        Checkpoints are kept there, once per epoch or every 200 steps, and training goes on from
        the last one.
    budget_seconds
        Training ends after the step that exceeds it.

    Raises
    ------
    TransferError
        If the tasks cannot be trained together.
    """
    from transformers import Trainer, TrainingArguments, set_seed
    from transformers.trainer_utils import get_last_checkpoint
    from transformers.utils import logging

    from taskscout.models import tuning

    check_tasks(tasks)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    prompt = recipe.prompt_length if recipe.tuning == "prompt" else 0
    data = [_rows(t, encoder, recipe, "train", prompt) for t in tasks]
    held = [
        [{**row, "task": i} for row in _rows(t, encoder, recipe, "validation", prompt)]
        for i, t in enumerate(tasks)
    ]
    patience = int(getattr(recipe, "early_stopping", 0)) if all(held) else 0
    sizes = [len(d) for d in data]
    per_epoch = -(-sum(sizes) // recipe.batch_size)
    epochs = min(20, max(recipe.epochs, -(-recipe.least_steps // per_epoch)))
    order = mixed_order(sizes, epochs=epochs, temperature=temperature, seed=recipe.seed)

    set_seed(recipe.seed)
    body = tuning._ready_to_train(encoder.load_model(), encoder, recipe)
    tuned_body = tuning.adapted(body, encoder, recipe)
    models = [sequence_model(t, encoder, tuned_body, seed=recipe.seed + i)
              for i, t in enumerate(tasks)]  # fmt: skip
    if recipe.dropout is not None:
        for each in models:
            each.dropout.p = recipe.dropout
    model = SharedModel(tuned_body, models, encoder)
    losses: list[float] = []

    def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        inputs = [{k: v for k, v in i.items() if k not in ("labels", "task")} for i in items]
        batch = encoder.tokenizer.pad(inputs, return_tensors="pt", return_attention_mask=True)
        return {
            **batch,
            "labels": torch.tensor([float(i["labels"]) for i in items]),
            "task": torch.tensor([i["task"] for i in items]),
        }

    class InOrder(Trainer):  # type: ignore[misc]  # transformers is not typed for us
        """A Trainer that takes the rows as they come: their order is the mixing."""

        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(range(len(order)))

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            mean = float(np.mean([_mean_loss(self.model, rows, collate, encoder) for rows in held]))
            losses.append(mean)
            metrics = {"eval_loss": mean}
            self.control: Any = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
            return metrics

    with contextlib.ExitStack() as stack:
        where = folder or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="taskscout-"))
        )
        saves = folder is not None or patience > 0
        arguments = TrainingArguments(
            output_dir=str(where),
            num_train_epochs=1,  # of the whole order
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            warmup_steps=0.06,
            bf16=encoder.resolved_precision == "bf16",
            use_cpu=encoder.device.type == "cpu",
            seed=recipe.seed,
            data_seed=recipe.seed,
            save_strategy="steps" if saves else "no",
            save_steps=min(per_epoch, 200) if patience == 0 else per_epoch,
            save_total_limit=2,
            eval_strategy="steps" if patience else "no",
            eval_steps=per_epoch if patience else None,
            load_best_model_at_end=patience > 0,
            metric_for_best_model="loss" if patience else None,
            greater_is_better=False if patience else None,
            logging_strategy="no",
            report_to=getattr(recipe, "report_to", "none") or "none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
        )
        trainer = InOrder(
            model=model,
            args=arguments,
            train_dataset=[{**data[t][r], "task": t} for t, r in order.tolist()],
            eval_dataset=held[0] if patience else None,
            data_collator=collate,
            optimizers=(_optimizer(model, recipe, encoder.device), None),
        )
        clock = _clock(budget_seconds)
        trainer.add_callback(clock)
        if patience:
            from transformers import EarlyStoppingCallback

            trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=patience))
        last = get_last_checkpoint(str(where)) if folder is not None and where.is_dir() else None
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):  # Trainer prints its summary
            trainer.train(resume_from_checkpoint=last)
        seconds = time.perf_counter() - start
        steps = int(trainer.state.global_step)
    parameters = tuning._arrays(tuned_body, encoder, recipe, copy=recipe.tuning != "full")
    if recipe.tuning == "lora":
        tuned_body = tuned_body.merge_and_unload()
        for each in models:
            each.body = tuned_body
    model.eval()
    drawn = np.bincount(order[: steps * recipe.batch_size, 0], minlength=len(tasks))
    return Together(
        tuple(t.name for t in tasks), tuned_body, tuple(m.eval() for m in models), recipe,
        parameters, seconds, sum(sizes), steps, tuple(drawn.tolist()), losses,
    )  # fmt: skip


def _rows(
    task: Task, encoder: Encoder, recipe: Recipe, split: str, prompt: int
) -> list[dict[str, Any]]:
    """Tokenized examples with labels, within the recipe's bounds."""
    from taskscout.models.tuning import _within_budget

    if split not in task.tables:
        return []
    task = task.sample(recipe.examples, split=split, seed=recipe.seed)
    texts, pairs = task.inputs(split)
    labels = task.labels(split)
    rows: list[dict[str, Any]] = encoder.tokenize(texts, pairs)
    shuffled = np.random.default_rng(recipe.seed).permutation(len(rows))
    chosen = _within_budget(rows, recipe.tokens, shuffled, prompt) if len(rows) else shuffled
    return [{**rows[i], "labels": labels[i].item()} for i in chosen]


def _mean_loss(model: Any, rows: list[dict[str, Any]], collate: Any, encoder: Encoder) -> float:
    """Mean loss over the rows of one task; ``task`` is in the rows."""
    training = model.training
    model.eval()
    total = 0.0
    with torch.inference_mode(), encoder.autocast():
        for i in range(0, len(rows), encoder.batch_size):
            items = rows[i : i + encoder.batch_size]
            batch = {k: v.to(encoder.device) for k, v in collate(items).items()}
            total += float(model(**batch)["loss"]) * len(items)
    model.train(training)
    return total / len(rows)


def _optimizer(
    model: SharedModel, recipe: Recipe, device: torch.device
) -> torch.optim.Optimizer | None:
    """AdamW with a rate for the heads; None, the Trainer's own, where the rates agree."""
    if recipe.head_learning_rate == recipe.learning_rate:
        return None
    model.to(device)
    groups: list[dict[str, Any]] = [
        {"params": list(model.head.parameters()), "lr": recipe.head_learning_rate}
    ]
    rest = [p for p in model.body.parameters() if p.requires_grad]
    if rest:
        groups.append({"params": rest})
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=0.0)


def _clock(seconds: float | None) -> Any:
    """Make a callback that ends training after so many seconds."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is not typed for us
        def __init__(self) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002
            if seconds is not None and time.perf_counter() - self.begun > seconds:
                control.should_training_stop = True

    return Clock()
