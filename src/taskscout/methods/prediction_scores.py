"""Scores of what sources predict for the target's texts: LEEP, NCE and NLEEP."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.feature_score import (
    CLASSES,
    FeatureScore,
    at_least,
    one_of,
)
from taskscout.methods.method import Description
from taskscout.methods.scores import (
    leep,
    nce,
    nleep,
)
from taskscout.methods.source_features import (
    Backend,
)
from taskscout.models.workbench import Workbench

Array = NDArray[np.float64]


class PredictionScore(FeatureScore):
    """What all scores share of what the source's head predicts for the target's texts."""

    kinds = CLASSES
    about_means = False

    def none(self, bench: Workbench) -> Description | None:  # noqa: ARG002
        """No score: the untouched encoder predicts no classes."""
        return None

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:
        """Score the head's predictions; NaN for a source without a head for classes or tags."""
        has_classes = source.header.get("kind") in ("classification", "tagging")
        if not has_classes or "head.weight" not in source.arrays:
            return float("nan")
        weight = source.arrays["head.weight"].astype(np.float64)
        return self.rate_logits(features @ weight.T + source.arrays["head.bias"], labels)

    def rate_logits(self, logits: Array, labels: NDArray[Any]) -> float:
        """Score logits (n × Z) of the source's classes for labels."""
        raise NotImplementedError


class Leep(PredictionScore):
    """LEEP: how well the source's own predictions on the target's texts tell the labels.

    The source's head gives every target text a distribution theta over the *source's* classes
    z. Counting them beside the target's labels y gives P(y|z), and

        score = (1/n) sum_i ln sum_z P(y_i|z) theta_z(x_i)

    is the mean log probability of the labels under the classifier "source head, then P(y|z)". 0
    is perfect; minus the labels' entropy is what predictions score that say nothing.

    *Cost.* Microseconds.

    *Fails* for sources with few classes: a head with two outputs cannot tell six emotions
    apart, however good its encoder. Regression sources have no score (NaN), regression targets
    are not served, and there is none for "use no source". Sources with many classes fit few
    labels by chance: P(y|z) is counted on the rows it is scored on.

    *Reference.* Nguyen et al. 2020 (ICML, arXiv 2002.12462); as a source selector Schulte et
    al. 2024.
    """

    plain = "leep"
    paper = "Nguyen et al. 2020"
    on_maps = (
        "*On space maps.* softmax(head_s(map_s(f(x)))) stands for what the source's model\n"
        "would predict: the head is kept beside the map. A head is read at its decision\n"
        "boundary, where errors of the map weigh most."
    )

    def rate_logits(self, logits: Array, labels: NDArray[Any]) -> float:
        """Compute the score."""
        from scipy.special import softmax

        return leep(softmax(logits, axis=1), labels)


class Nce(PredictionScore):
    """NCE: what is left to know of the target's labels once the source has predicted its own.

    z is the class that the source's head gives a target text, and the score is minus the
    conditional entropy of the label,

        score = -H(Y|Z) = (1/n) sum_yz n_yz ln(n_yz / n_z).

    It is ``leep`` with the predictions made hard: how sure the source is plays no part. 0 where
    the predictions tell the labels.

    *Cost.* Microseconds.

    *Fails* as ``leep`` does, and more often: one class predicted for every text scores as if
    the source knew nothing, even where its probabilities move with the label. Classification
    sources and targets only; none for "use no source". With many source classes and few rows
    the entropy is estimated too low.

    *Reference.* Tran et al. 2019 (ICCV, arXiv 1908.08142); as a source selector Schulte et al.
    2024.
    """

    plain = "nce"
    paper = "Tran et al. 2019"
    on_maps = (
        "*On space maps.* argmax head_s(map_s(f(x))) stands for the class that the source's\n"
        "model would predict. On texts unlike its own a source often predicts one class\n"
        "throughout."
    )

    def rate_logits(self, logits: Array, labels: NDArray[Any]) -> float:
        """Compute the score."""
        return nce(logits.argmax(1), labels)


class NLeep(FeatureScore):
    """NLEEP: LEEP with clusters of the source's features in place of its classes.

    The target's features under the source's model are reduced by PCA (80% of the variance) and
    a mixture of Gaussians is fitted to them, five per target class, without labels. The
    mixture's posteriors take the place of the source's predicted classes in LEEP,

        score = (1/n) sum_i ln sum_v P(y_i|v) P(v|x_i).

    So it needs no head of the source, serves regression sources, and has a score for "use no
    source". It asks whether the source's space falls into clusters that are the target's
    classes.

    *Options.* ``components`` per class, ``energy``, ``covariance`` (``full``, ``diag``, ...),
    ``seed``.

    *Cost.* A mixture fitted per source: tenths of a second, more with many classes.

    *Fails* with few rows: P(y|v) is counted on the rows the mixture was fitted on, and a
    component with three rows tells their label whatever it is. No more than one component per
    10 rows is taken (one per class at least), so below some 50 rows per class it is not the
    published method any more. It depends on the mixture's start. Classification targets only.

    *Reference.* Li et al. 2021 (CVPR, arXiv 2011.11200).
    """

    plain = "nleep"
    paper = "Li et al. 2021"
    kinds = CLASSES
    on_maps = (
        "*On space maps.* A map that stretches the directions its source needed changes what\n"
        "PCA keeps and where the clusters fall."
    )

    def __init__(
        self,
        backend: Backend,
        *,
        components: int = 5,
        energy: float = 0.8,
        covariance: Literal["full", "tied", "diag", "spherical"] = "full",
        seed: int = 0,
    ) -> None:
        super().__init__(backend)
        at_least(self, 1, components=components)
        one_of(self, "covariance", covariance, ("full", "tied", "diag", "spherical"))
        if not 0 < energy < 1:
            raise MethodError(
                f"{self.name} was given energy {energy:g}.",
                "It is the share of the variance that PCA keeps.",
                "Give a number between 0 and 1.",
            )
        self.components, self.energy, self.seed = components, energy, seed
        self.covariance: Literal["full", "tied", "diag", "spherical"] = covariance

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:  # noqa: ARG002
        """Compute the score."""
        return nleep(
            features,
            labels,
            components=self.components,
            energy=self.energy,
            covariance=self.covariance,
            seed=self.seed,
        )
