"""Multiple choice: every choice is read after its text and gets one score."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from taskscout.models.encoder import Encoder
from taskscout.models.objectives.objective import Objective, Row, mean_error, pad
from taskscout.tasks.parts import choices


class ChoiceModel(nn.Module):
    """An encoder body with pooling and a head of one output, run on every choice.

    Parameters
    ----------
    body
        The transformer, as :meth:`Encoder.load_model` returns it (or made ready for tuning).
    encoder
        Says how to pool.
    """

    def __init__(self, body: nn.Module, encoder: Encoder) -> None:
        super().__init__()
        self.body = body
        self.encoder = encoder
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(encoder.dimension, 1)

    def forward(
        self, labels: torch.Tensor | None = None, *, there: torch.Tensor, **batch: Any
    ) -> dict[str, torch.Tensor]:
        """Logits (batch × choices; minus infinity where ``there`` is false), and the loss.

        Inputs are batch × choices × tokens.
        """
        flat = {k: v.flatten(0, 1) for k, v in batch.items()}
        scores = self.head(self.dropout(self.encoder.pooled(self.body, flat)))
        logits = scores.float().reshape(there.shape).masked_fill(~there, -torch.inf)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class MultipleChoice(Objective):
    """Predictions are the scores of the choices, one array per example."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)

    def usual_metric(self) -> str:
        """Name the accuracy."""
        return "accuracy"

    def _flat(self, split: str) -> tuple[list[str], list[str], NDArray[np.int64]]:
        """Text and choice of all choices, and where each example ends."""
        texts, offered, owners = choices(self.task, split)
        return (
            texts,
            offered,
            np.cumsum(np.bincount(owners, minlength=self.task.tables[split].num_rows)),
        )

    def rows(self, split: str) -> list[list[Row]]:
        """Make one row per example, which holds a row per choice."""
        texts, offered, ends = self._flat(split)
        tokens = self.encoder.tokenize(texts, offered)
        labels = self.task.column(split, "label")
        begins = np.concatenate([[0], ends[:-1]]).tolist()
        return [
            [{"choices": tokens[a:b], "labels": label}]
            for a, b, label in zip(begins, ends.tolist(), labels, strict=True)
        ]

    def length(self, row: Row) -> int:
        """Count the tokens of all choices."""
        return sum(len(choice["input_ids"]) for choice in row["choices"])

    def collate(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """Make a batch × choices × tokens; where choices are fewer, the first is repeated."""
        most = max(len(row["choices"]) for row in rows)
        filled = [
            choice
            for row in rows
            for choice in row["choices"] + row["choices"][:1] * (most - len(row["choices"]))
        ]
        batch = {k: v.unflatten(0, (len(rows), most)) for k, v in pad(self.encoder, filled).items()}
        counts = torch.tensor([len(row["choices"]) for row in rows])
        batch["there"] = torch.arange(most) < counts[:, None]
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch

    def model(self, body: nn.Module, *, seed: int) -> nn.Module:
        """Put a head of one output on a body."""
        torch.manual_seed(seed)
        return ChoiceModel(body, self.encoder)

    def predict(self, model: Any, split: str) -> list[NDArray[np.float32]]:
        """Scores of the choices of each example."""
        texts, offered, ends = self._flat(split)
        features = self.encoder.encode(texts, offered, model=model.body)
        scores = features @ model.head.weight.detach().cpu().numpy()[0]
        return np.split(scores, ends[:-1])

    def _right(self, split: str, predictions: list[NDArray[Any]]) -> NDArray[np.float64]:
        """Chance that each example is answered rightly; ties are broken at random."""
        out = []
        for scores, label in zip(predictions, self.task.column(split, "label"), strict=True):
            best = np.flatnonzero(scores == scores.max())
            out.append(float(label in best) / len(best))
        return np.array(out)

    def measures(self, split: str, predictions: list[NDArray[Any]]) -> dict[str, float]:
        """Accuracy."""
        return {"accuracy": float(self._right(split, predictions).mean())}

    def trivial(self, split: str) -> list[Any]:
        """Guess; or always take the place that was most often right in the training split."""
        offered = self.task.column(split, "choices")
        place = int(np.bincount(self.task.column("train", "label")).argmax())
        return [
            [np.zeros(len(c)) for c in offered],
            [np.eye(len(c), max(place + 1, len(c)))[:, place] for c in offered],
        ]

    def error(self, split: str, predictions: list[NDArray[Any]]) -> float:
        """Standard error of the accuracy."""
        return mean_error(self._right(split, predictions))
