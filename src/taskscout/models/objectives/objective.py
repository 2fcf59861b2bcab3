"""What a kind of task has to say so that it can be tuned and scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from taskscout.errors import DataError, ModelError
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.tasks import Task

#: Features of one example as the model reads it, with its ``labels``.
Row = dict[str, Any]
#: Label of a token that takes no part in the loss.
IGNORED = -100


class Objective(ABC):
    """How examples of one kind become features, predictions and scores.

    Parameters
    ----------
    task
        Its training split gives classes, most frequent answers and the like.
    encoder
        Says how to tokenize and on which device to run.
    recipe
        Says the metric and the seed of a head.
    """

    #: Metrics of the kind; one may be chosen by ``Recipe.metric``.
    metrics: ClassVar[tuple[str, ...]]
    #: Tunings that make sense for the kind.
    tunings: ClassVar[tuple[str, ...]] = (
        "full", "lora", "prompt", "p-tuning-v2", "bitfit", "head"
    )  # fmt: skip

    def __init__(self, task: Task, encoder: Encoder, recipe: Recipe) -> None:
        self.task = task
        self.encoder = encoder
        self.recipe = recipe
        self.metric = recipe.metric or self.usual_metric()
        if self.metric not in self.metrics:
            raise ModelError(
                f"metric is {self.metric!r}.",
                f"A task of kind {task.kind} is scored by {', '.join(self.metrics)}.",
                "Choose one of these, or none for the usual one.",
            )
        if recipe.tuning not in self.tunings:
            raise ModelError(
                f"tuning is {recipe.tuning!r} and task {task.name!r} of kind {task.kind}.",
                f"Tasks of that kind can be tuned by {', '.join(self.tunings)}.",
                "Choose one of these.",
            )

    # -- what a kind says ------------------------------------------------------------

    @abstractmethod
    def usual_metric(self) -> str:
        """Name the metric that the field reports for the kind."""

    @abstractmethod
    def rows(self, split: str) -> list[list[Row]]:
        """Make the training features of each example: one row, or one per window."""

    @abstractmethod
    def model(self, body: nn.Module, *, seed: int) -> nn.Module:
        """Put a fresh head, drawn with a seed, on a body."""

    @abstractmethod
    def predict(self, model: Any, split: str) -> Sequence[Any] | NDArray[Any]:
        """Predict a split, in its order, as :meth:`measures` reads it."""

    @abstractmethod
    def measures(self, split: str, predictions: Any) -> dict[str, float]:
        """Measure predictions, as fractions."""

    @abstractmethod
    def trivial(self, split: str) -> list[Any]:
        """Answer without looking at any text, in one or several ways."""

    @abstractmethod
    def error(self, split: str, predictions: Any) -> float:
        """Standard error of the score over the examples of a split."""

    # -- what all share ----------------------------------------------------------------

    def load_body(self) -> Any:
        """Load what the head is put on."""
        return self.encoder.load_model()

    def length(self, row: Row) -> int:
        """Count the tokens of a row."""
        return len(row["input_ids"])

    def collate(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """Make one padded batch of rows, with labels."""
        batch = pad(self.encoder, rows)
        batch["labels"] = self.labels(rows, batch["input_ids"].shape[1])
        return batch

    def labels(self, rows: list[Row], width: int) -> torch.Tensor:  # noqa: ARG002
        """Stack the labels of a batch whose rows are padded to a width."""
        return torch.tensor([row["labels"] for row in rows])

    def scores(self, split: str, predictions: Any) -> dict[str, float]:
        """Scores of predictions: all measures, and ``score``, ``baseline`` and ``error``.

        ``score`` is the metric asked for, ``baseline`` the best of the trivial answers by it.
        """
        found = self.measures(split, predictions)
        blind = [self.measures(split, answer)[self.metric] for answer in self.trivial(split)]
        return {
            **found,
            "score": found[self.metric],
            "baseline": max(blind),
            "error": self.error(split, predictions),
        }

    def forward_all(self, model: Any, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Logits of each row, without those of padding."""
        out: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(rows)
        model.to(self.encoder.device).eval()
        with torch.inference_mode(), self.encoder.autocast():
            for chosen in self.encoder.batches(rows):
                batch = pad(self.encoder, [rows[i] for i in chosen])
                batch = {k: v.to(self.encoder.device) for k, v in batch.items()}
                logits = model(**batch)["logits"].float().cpu().numpy()
                for i, array in zip(chosen.tolist(), logits, strict=True):
                    out[i] = array[: len(rows[i]["input_ids"])]
        return out


class TokenModel(nn.Module):
    """An encoder body with a linear head on every token, for tagging and span answers.

    Parameters
    ----------
    body
        The transformer, as :meth:`Encoder.load_model` returns it (or made ready for tuning).
    encoder
        Says which layers are read.
    outputs
        Per token: tags, or 2 for the start and the end of a span.
    spans
        Whether logits are compared across the tokens of a text (labels: batch × outputs, token
        positions) in place of across the outputs of a token (labels: batch × tokens).
    """

    def __init__(
        self, body: nn.Module, encoder: Encoder, outputs: int, *, spans: bool = False
    ) -> None:
        super().__init__()
        self.body = body
        self.encoder = encoder
        self.spans = spans
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(encoder.dimension, outputs)

    def forward(self, labels: torch.Tensor | None = None, **batch: Any) -> dict[str, torch.Tensor]:
        """Logits (batch × tokens × outputs), and the loss where labels are given."""
        states = token_states(self.encoder, self.body, batch)
        logits = self.head(self.dropout(states))
        if labels is None:
            return {"logits": logits}
        of_classes = logits.float().transpose(1, 2)  # batch × outputs × tokens
        if self.spans:
            padding = batch["attention_mask"] == 0
            flat = of_classes.masked_fill(padding[:, None], -1e4).flatten(0, 1)
            loss = nn.functional.cross_entropy(flat, labels.flatten())
        else:
            loss = nn.functional.cross_entropy(of_classes, labels, ignore_index=IGNORED)
        return {"loss": loss, "logits": logits}


def token_states(encoder: Encoder, body: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """States of all tokens (batch × tokens × d, float32), of the layers the encoder reads."""
    return encoder.states_of(body(**batch, output_hidden_states=encoder.layers == "mean"))


def pad(encoder: Encoder, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """One padded batch of token ids with its mask, without labels, on the CPU."""
    names = encoder.tokenizer.model_input_names
    return dict(
        encoder.tokenizer.pad(
            [{k: v for k, v in row.items() if k in names} for row in rows],
            return_tensors="pt",
            return_attention_mask=True,
        )
    )


def fast_tokenizer(encoder: Encoder, kind: str) -> Any:
    """The tokenizer, where it can tell which characters a token stands for.

    Raises
    ------
    ModelError
        If it cannot.
    """
    if not encoder.tokenizer.is_fast:
        raise ModelError(
            f"The tokenizer of {encoder.model_id} does not tell where its tokens begin.",
            f"Tasks of kind {kind} have labels on parts of a text.",
            "Use an encoder with a tokenizer.json.",
        )
    return encoder.tokenizer


def check_split(task: Task, split: str) -> None:
    """Refuse a split without rows, or with nothing but empty texts.

    Raises
    ------
    DataError
        If there is nothing to read.
    """
    table = task.tables.get(split)
    if table is None or not table.num_rows:
        has = ", ".join(f"{s} {t.num_rows:,}" for s, t in task.rows()) or "none"
        raise DataError(
            f"Task {task.name!r} has no rows in split {split!r} (splits: {has}).",
            "A model is tuned on the training split and scored on another.",
            "Give more rows; or name the right column of splits with --split-column, or none, and "
            "splits are made (in Python: task.with_splits()).",
        )
    texts, pairs = task.inputs(split)
    if not any(t.strip() for t in [*texts, *(pairs or [])]):
        raise DataError(
            f"Task {task.name!r}: all {table.num_rows:,} texts of split {split!r} are empty.",
            "There is nothing to read in it.",
            "Name the right column of text, or fill the split.",
        )


def unknown_labels(task: Task, split: str) -> str:
    """Say which labels of a split the training split lacks; empty where it has all."""
    if task.kind not in ("classification", "tagging") or split not in task.tables:
        return ""

    def flat(of: str) -> NDArray[np.int64]:
        labels = task.column(of, "label")
        if task.kind == "tagging":
            labels = [label for row in labels for label in row]
        return np.asarray(labels, np.int64)

    here = flat(split)
    unknown = sorted(set(here.tolist()) - set(flat("train").tolist()))
    if not unknown:
        return ""
    names = ", ".join(repr(task.label_names[c]) for c in unknown[:5])
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    return (
        f"Task {task.name!r}: {names}{more} in split {split!r} "
        f"({int(np.isin(here, unknown).sum()):,} of {len(here):,} labels) never occurs in the "
        "training split, so it cannot be learnt and counts as wrong. Move some of its rows to the "
        "training split, or leave it out."
    )


def ratio_error(parts: NDArray[np.floating[Any]], wholes: NDArray[np.floating[Any]]) -> float:
    """Standard error of a ratio of sums over n examples, by its linearisation.

    For R = sum(parts) / sum(wholes): sqrt(sum (part - R whole)²) / sum(wholes).
    """
    whole = float(wholes.sum())
    if whole == 0:
        return 0.0
    ratio = float(parts.sum()) / whole
    spread = float(np.sqrt(((parts - ratio * wholes) ** 2).sum()))
    return spread / whole


def mean_error(values: NDArray[np.floating[Any]]) -> float:
    """Standard error of the mean of n values."""
    spread = float(np.std(values))
    return spread / float(np.sqrt(max(len(values), 1)))
