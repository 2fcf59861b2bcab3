"""Scores by stand-ins for the transfer: neighbours, distances, and heads trained on features."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskscout.methods.evidence_rows import EvidenceRows
from taskscout.methods.feature_score import (
    CLASSES,
    FeatureScore,
    at_least,
    one_of,
)
from taskscout.methods.method import Description
from taskscout.methods.scores import (
    frozen_transfer,
    knn,
    linear_probe,
    parc,
)
from taskscout.methods.source_features import (
    Backend,
)

Array = NDArray[np.float64]


class Parc(FeatureScore):
    """PARC: whether texts that differ in label are those that differ in the source's space.

        score = Spearman( 1 - Pearson(f_i, f_j), [y_i != y_j] )   over all pairs i < j

    f are the target's features under the source's model, every dimension brought to mean 0 and
    variance 1. 1 where all pairs of unlike label are farther apart than all pairs of like label,
    0 where distance has nothing to do with labels.

    *Options.* ``rows``: at most 500 texts are drawn (125 thousand pairs), by ``seed`` and
    without regard to labels; ``standardise=False`` leaves the features as they are.

    *Cost.* Some 40 ms per source.

    *Fails* where the labels are one direction among many: all dimensions count the same, so a
    label that a linear head reads with ease moves distances little. With many classes nearly all
    pairs are unlike, and the score stays near 0. Classification only: for values the paper
    defines nothing.

    *Reference.* Bolya et al. 2021 (NeurIPS, arXiv 2111.06977).
    """

    plain = "parc"
    paper = "Bolya et al. 2021"
    kinds = CLASSES
    on_maps = (
        "*On space maps.* Every dimension is brought to variance 1 after the map, which\n"
        "undoes stretching along single dimensions; what a map mixes between dimensions\n"
        "stays. ``standardise=False`` lets the map count for more."
    )

    def __init__(
        self, backend: Backend, *, rows: int = 500, standardise: bool = True, seed: int = 0
    ) -> None:
        super().__init__(backend)
        at_least(self, 3, rows=rows)
        self.rows, self.standardise, self.seed = rows, standardise, seed

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:  # noqa: ARG002  # of the protocol
        """Compute the score."""
        return parc(features, labels, rows=self.rows, standardise=self.standardise, seed=self.seed)


class Knn(FeatureScore):
    """kNN: how often a text's nearest neighbours in the source's space share its label.

    Leave one out: every labelled text of the target is given the majority label of its k = 3
    nearest other texts under the source's model (the nearest one's where labels tie), and

        score = share of texts given their own label,

    which is micro-F1 with one label per text. For regression, the Pearson correlation of the
    label with the neighbours' mean.

    *Options.* ``k``; ``metric``: ``euclidean`` or ``cosine``.

    *Cost.* Some 40 ms per source at 1,000 texts; it grows with the square of the texts.

    *Fails* as ``parc`` does where the label is one direction among many; and with few texts the
    score is coarse (one text of 200 is half a point), so sources tie.

    *Reference.* Puigcerver et al. 2021 (ICLR); as a proxy for sources in Poth et al. 2021 (arXiv
    2104.08247); computed as the package transformer-ranker does.
    """

    plain = "knn"
    paper = "Puigcerver et al. 2021; Poth et al. 2021"
    on_maps = (
        "*On space maps.* Most maps leave most texts their neighbours, so the score moves in\n"
        "steps of one text and ties often."
    )

    def __init__(
        self, backend: Backend, *, k: int = 3, metric: Literal["euclidean", "cosine"] = "euclidean"
    ) -> None:
        super().__init__(backend)
        at_least(self, 1, k=k)
        one_of(self, "metric", metric, ("euclidean", "cosine"))
        self.k = k
        self.metric: Literal["euclidean", "cosine"] = metric

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:  # noqa: ARG002  # of the protocol
        """Compute the score."""
        return knn(features, labels, k=self.k, metric=self.metric)


class LinearProbe(FeatureScore):
    """Linear probe: cross-validated score of a linear head on the source's frozen features.

    Five folds; logistic regression on standardised features for classes, ridge with its
    strength chosen inside the training folds for values:

        score = accuracy of the out-of-fold predictions,

    or the mean of their Pearson and Spearman correlation with the labels. It is what transfer
    with a frozen encoder would reach, with the head trained to its end instead of for three
    epochs (``frozen-transfer``).

    *Options.* ``folds``, ``strength`` (L2 penalty of the logistic regression), ``seed`` of the
    folds.

    *Cost.* Five heads: tenths of a second per source, more with many classes.

    *Fails* with few texts: the score is coarse and noisy, and the head has more weights than
    examples. It shows what the features hold, not what full fine-tuning makes of them; a source
    near the target's domain may probe well and transfer little.

    *Reference.* A standard probe; as a proxy for sources in Poth et al. 2021 (arXiv 2104.08247).
    """

    plain = "linear-probe"
    paper = "Poth et al. 2021"
    on_maps = (
        "*On space maps.* A head trained to its end can undo any invertible map; what remains\n"
        "is how the map moves the head's penalty, the less the more texts there are. ``esm-\n"
        "logme`` asks much the same without folds, a hundred times faster, and charges for\n"
        "the freedom to fit."
    )

    def __init__(
        self, backend: Backend, *, folds: int = 5, strength: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__(backend)
        at_least(self, 2, folds=folds)
        at_least(self, 1e-12, strength=strength)
        self.folds, self.strength, self.seed = folds, strength, seed

    def rate_rows(self, rows: EvidenceRows, features: Array, source: Description) -> float:  # noqa: ARG002  # of the protocol
        """Compute the score, rows of one example in one fold."""
        order = rows.order()
        return linear_probe(
            rows.about_means(features)[order],
            rows.labels[order],
            folds=self.folds,
            strength=self.strength,
            seed=self.seed,
            groups=rows.groups(order),
        )


class FrozenTransfer(FeatureScore):
    """Frozen transfer: a fresh head trained for three epochs on the frozen source model.

    The released recipe: a linear head drawn from N(0, 0.02²), dropout 0.1, AdamW at a learning
    rate of 2e-5 with linear decay, weight decay 0.01, batches of 32, gradients clipped at 1, on
    four fifths of the target's texts;

        score = accuracy on the last fifth

    (mean of Pearson and Spearman correlation for regression). Held-out texts, head, order and
    dropout are the same for all sources.

    *Options.* ``epochs``, ``learning_rate``, ``batch_size``, ``seed``.

    *Cost.* Some 50 ms per source: the encoder is frozen, so its features are made once and not
    every epoch.

    *Fails* as published: in 75 steps at 2e-5 a weight moves by less than 0.001 while it began at
    0.02, so the score is nearly that of the random head. ``learning_rate=0.01`` trains one;
    ``linear-probe`` trains it to its end, on all texts by cross-validation.

    *Reference.* Schulte et al. 2024 (arXiv 2410.15148), as a baseline.
    """

    plain = "frozen-transfer"
    paper = "Schulte et al. 2024"

    def __init__(
        self,
        backend: Backend,
        *,
        epochs: int = 3,
        learning_rate: float = 2e-5,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(backend)
        at_least(self, 1, epochs=epochs, batch_size=batch_size)
        at_least(self, 0, learning_rate=learning_rate)
        self.epochs, self.learning_rate = epochs, learning_rate
        self.batch_size, self.seed = batch_size, seed

    def rate_rows(self, rows: EvidenceRows, features: Array, source: Description) -> float:  # noqa: ARG002  # of the protocol
        """Compute the score, rows of one example on one side."""
        order = rows.order()
        return frozen_transfer(
            rows.about_means(features)[order],
            rows.labels[order],
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            seed=self.seed,
            groups=rows.groups(order),
        )
