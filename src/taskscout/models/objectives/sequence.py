"""Classification and regression, of texts and of pairs of texts: one label per example."""

from __future__ import annotations

from typing import Any, ClassVar

from numpy.typing import NDArray
from torch import nn

from taskscout.models.heads import CLASS_METRICS, NUMBER_METRICS, score_of, sequence_model
from taskscout.models.objectives.objective import Objective, Row


class Sequence(Objective):
    """A head on the pooled vector; predictions are its outputs, n × classes or n × 1."""

    metrics: ClassVar[tuple[str, ...]] = CLASS_METRICS

    def usual_metric(self) -> str:
        """Name the mean of accuracy and macro-F1."""
        return "accuracy_and_macro_f1"

    def rows(self, split: str) -> list[list[Row]]:
        """Make one row per example, with its class or number."""
        texts, pairs = self.task.inputs(split)
        labels = self.task.labels(split)
        tokens = self.encoder.tokenize(texts, pairs)
        return [[{**row, "labels": labels[i].item()}] for i, row in enumerate(tokens)]

    def model(self, body: nn.Module, *, seed: int) -> nn.Module:
        """Put a head on a body."""
        return sequence_model(self.task, self.encoder, body, seed=seed)

    def predict(self, model: Any, split: str) -> NDArray[Any]:
        """Outputs of the head; regression in the task's units."""
        texts, pairs = self.task.inputs(split)
        out: NDArray[Any] = model.predict(self.encoder.encode(texts, pairs, model=model.body))
        return out

    def scores(self, split: str, predictions: Any) -> dict[str, float]:
        """See :func:`taskscout.models.heads.score_of`."""
        return score_of(self.task, split, predictions, metric=self.recipe.metric)

    def measures(self, split: str, predictions: Any) -> dict[str, float]:
        """Measure predictions by all metrics of the kind."""
        return self.scores(split, predictions)

    def trivial(self, split: str) -> list[Any]:  # noqa: ARG002
        """Nothing: the baseline is in the scores, as it is known in closed form."""
        return []

    def error(self, split: str, predictions: Any) -> float:
        """Standard error of the accuracy, or of a correlation of 0."""
        return self.scores(split, predictions)["error"]


class Regression(Sequence):
    """A head of one output on the pooled vector."""

    metrics: ClassVar[tuple[str, ...]] = NUMBER_METRICS

    def usual_metric(self) -> str:
        """Name the mean of Pearson's and Spearman's correlation."""
        return "pearson_and_spearman"
