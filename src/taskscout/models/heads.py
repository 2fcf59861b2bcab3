"""Heads: what turns an encoder's pooled vector into a prediction, and the loss it is tuned by."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from taskscout.models.encoder import Encoder
from taskscout.tasks import Task

#: Metrics of classification; ``score`` is the first where none is named.
CLASS_METRICS = ("accuracy_and_macro_f1", "accuracy", "macro_f1", "matthews")
#: Metrics of regression; ``score`` is the first where none is named.
NUMBER_METRICS = ("pearson_and_spearman", "pearson", "spearman")


class SequenceModel(nn.Module):
    """An encoder body with pooling and a linear head, for classification and regression.

    Regression labels are standardised for training; :meth:`predict` gives them in the task's
    units again.

    Parameters
    ----------
    body
        The transformer, as :meth:`Encoder.load_model` returns it (or wrapped by ``peft``).
    encoder
        Says how to pool.
    outputs
        Classes, or 1 for regression.
    center, scale
        Mean and standard deviation of the training labels, for regression.
    """

    def __init__(
        self,
        body: nn.Module,
        encoder: Encoder,
        outputs: int,
        *,
        regression: bool = False,
        center: float = 0.0,
        scale: float = 1.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.body = body
        self.encoder = encoder
        self.regression = regression
        self.center = center
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.dimension, outputs)

    def forward(self, labels: torch.Tensor | None = None, **batch: Any) -> dict[str, torch.Tensor]:
        """Logits (batch × outputs), and the loss where labels are given."""
        logits = self.head(self.dropout(self.encoder.pooled(self.body, batch)))
        if labels is None:
            return {"logits": logits}
        if self.regression:
            wanted = (labels.float() - self.center) / self.scale
            loss = nn.functional.mse_loss(logits.squeeze(-1), wanted)
        else:
            loss = nn.functional.cross_entropy(logits, labels.long())
        return {"loss": loss, "logits": logits}

    def predict(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Head outputs (n × outputs) on pooled vectors (n × d), regression in task units."""
        weight = self.head.weight.detach().cpu().numpy()
        bias = self.head.bias.detach().cpu().numpy()
        out: NDArray[np.float32] = (features @ weight.T + bias).astype(np.float32)
        return out * np.float32(self.scale) + np.float32(self.center) if self.regression else out


def sequence_model(task: Task, encoder: Encoder, body: nn.Module, *, seed: int) -> SequenceModel:
    """A fresh head for ``task`` on ``body``, initialised by ``seed``."""
    torch.manual_seed(seed)
    if task.kind == "regression":
        labels = task.labels("train")
        return SequenceModel(
            body,
            encoder,
            1,
            regression=True,
            center=float(labels.mean()),
            scale=float(labels.std()) or 1.0,
        )
    return SequenceModel(body, encoder, task.n_classes)


def score_of(
    task: Task, split: str, outputs: NDArray[np.floating[Any]], *, metric: str = ""
) -> dict[str, float]:
    """Test scores of head outputs (n × outputs), as fractions.

    Classification: accuracy and macro-F1; ``score`` is their mean, and ``baseline`` the better
    of two answers that look at no text: always the training majority, or by the training
    frequencies p (expected accuracy: sum of p times test frequency; expected F1 of a class: 2 p q
    / (p + q) with test frequency q). Regression: Pearson and Spearman correlation; ``score`` is
    their mean and ``baseline`` 0. ``error`` is the standard error of the accuracy, or of a
    correlation of 0.

    ``log_likelihood`` is the mean log-likelihood of the test labels in nats, which tells runs apart
    that give the same answers: log softmax at the right class; for regression the log density of
    a normal distribution around the output, labels in standard deviations of the training labels
    and of unit variance, as the training loss has it.

    With a ``metric`` of :data:`CLASS_METRICS` or :data:`NUMBER_METRICS`, ``score`` and
    ``baseline`` are by it. Matthews' correlation, of which chance and majority have 0, is
    measured only where it is asked for.
    """
    labels = task.labels(split)
    if task.kind == "regression":
        from scipy.stats import norm, pearsonr, spearmanr

        values = outputs[:, 0]
        scale = float(task.labels("train").std()) or 1.0
        if np.ptp(values) == 0 or np.ptp(labels) == 0:
            pearson = spearman = 0.0
        else:
            pearson = float(pearsonr(values, labels)[0])
            spearman = float(spearmanr(values, labels)[0])
        return {
            "pearson": pearson,
            "spearman": spearman,
            "score": {"pearson": pearson, "spearman": spearman}.get(
                metric, (pearson + spearman) / 2
            ),
            "baseline": 0.0,
            "error": 1 / math.sqrt(max(len(labels) - 3, 1)),
            "log_likelihood": float(norm.logpdf((labels - values) / scale).mean()),
        }
    from scipy.special import log_softmax
    from sklearn.metrics import accuracy_score, f1_score

    def scores(predicted: NDArray[Any]) -> tuple[float, float]:
        f1 = f1_score(labels, predicted, average="macro", zero_division=0)
        return float(accuracy_score(labels, predicted)), float(f1)

    counts = np.bincount(task.labels("train"), minlength=task.n_classes)
    majority = scores(np.full_like(labels, counts.argmax()))
    p = counts / counts.sum()
    q = np.bincount(labels, minlength=task.n_classes) / len(labels)
    there = q > 0
    by_chance = float(p @ q), float(np.mean(2 * p[there] * q[there] / (p + q)[there]))
    predicted = outputs.argmax(1)
    accuracy, macro_f1 = scores(predicted)
    out = {
        "accuracy": accuracy,
        "macro_f1": macro_f1,
        "score": (accuracy + macro_f1) / 2,
        "majority_accuracy": majority[0],
        "baseline": max(sum(majority), sum(by_chance)) / 2,
        "error": math.sqrt(accuracy * (1 - accuracy) / len(labels)),
        "log_likelihood": float(log_softmax(outputs, 1)[np.arange(len(labels)), labels].mean()),
    }
    if metric == "matthews":
        from sklearn.metrics import matthews_corrcoef

        out["matthews"] = out["score"] = float(matthews_corrcoef(labels, predicted))
        out["baseline"] = 0.0
    elif metric in ("accuracy", "macro_f1"):
        which = ("accuracy", "macro_f1").index(metric)
        out["score"] = (accuracy, macro_f1)[which]
        out["baseline"] = max(majority[which], by_chance[which])
    return out
