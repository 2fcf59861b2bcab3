"""Scores of features for the target's labels, on source models and on space maps.

Each score is one class. What it scores comes from one of the backends of
:mod:`taskscout.methods.source_features`: what the source's own tuned model makes of the target's
texts (``logme``, ``h-score``, ...), or the source's space map in its place (``esm-logme``,
``esm-h-score``, ...). The mathematics is in :mod:`taskscout.methods.evidence` and
:mod:`taskscout.methods.scores`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from taskscout.methods.evidence import MapEvidence, logme
from taskscout.methods.evidence_rows import EvidenceRows
from taskscout.methods.feature_score import (
    CLASSES,
    FeatureScore,
    at_least,
    label_columns_of,
    one_of,
)
from taskscout.methods.method import Description, Factory
from taskscout.methods.prediction_scores import Leep, Nce, NLeep
from taskscout.methods.proxy_scores import FrozenTransfer, Knn, LinearProbe, Parc
from taskscout.methods.scores import (
    gbc,
    h_score,
    h_scores_of_maps,
    transrate,
)
from taskscout.methods.source_features import (
    Backend,
    LayeredMaps,
    MapBatch,
    SourceModels,
    SpaceMaps,
)
from taskscout.methods.statistics import Centring, target_statistics
from taskscout.models.workbench import Workbench

Array = NDArray[np.float64]


class LogME(FeatureScore):
    """LogME of the target's embeddings under each source's own model.

    How well can a Bayesian linear regression on the features F tell the labels, judged without
    held-out data? For every label column y (one class against the rest, or the standardised
    value for regression)

        y = F w + noise,   w ~ N(0, I / alpha),   noise ~ N(0, I / beta),

        score = mean over columns of (1/n) max over alpha, beta of ln p(y | F, alpha, beta).

    It rewards features that explain the labels along a few strong directions, and charges for
    the freedom to fit noise.

    *Options.* ``centring`` (``both``, ``features``, ``none``) and ``unit_norm``: the score
    depends on mean and scale of the features, so both are taken out by default. ``compat``: as
    released, which leaves out the zero eigenvalues' part of the determinant and with fewer rows
    than dimensions ranks almost at random; features and labels then stay as they are, unless
    ``centring`` and ``unit_norm`` are given too.

    *Cost.* One forward pass over the target's texts per source (10 sources and a few hundred
    texts: seconds; kept on disk), then some 50 ms per source at 384 dimensions.

    *Fails* where the best source's use is not linear in its last layer, and cannot serve a
    target without labels. In the pilot its first pick gained 2.0 points, that of ``esm-logme``
    1.2: hence ``esm-logme>logme``.

    *Reference.* You et al. 2021 (ICML); as a source selector Schulte et al. 2024 (arXiv
    2410.15148).
    """

    plain = "logme"
    paper = "You et al. 2021"
    on_maps = (
        "*On space maps.* All that the evidence needs follows from sums over the target's\n"
        "rows, which are kept on disk: about a millisecond per source, and a second ranking\n"
        "of the same target makes no pass over its rows. A map adds no information, it\n"
        "re-weighs what the base embedding holds; ``esm-logme>logme`` asks the real models for\n"
        "the ten best."
    )

    def __init__(
        self,
        backend: Backend,
        *,
        compat: bool = False,
        centring: Centring | None = None,
        unit_norm: bool | None = None,
    ) -> None:
        super().__init__(backend)
        if centring is None:
            centring = "none" if compat else "both"
        one_of(self, "centring", centring, get_args(Centring))
        self.compat = compat
        self.centring: Centring = centring
        self.unit_norm = (not compat) if unit_norm is None else unit_norm

    def rate_rows(self, rows: EvidenceRows, features: Array, source: Description) -> float:  # noqa: ARG002  # of the protocol
        """Compute the score; where features count about means, of contrasts, which have none."""
        columns = label_columns_of(rows.labels, compat=self.compat)
        if rows.within:
            features, columns = rows.contrasts(features), rows.contrasts(columns)
        else:
            order = rows.order()
            features, columns = features[order], columns[order]
        return logme(
            features,
            columns,
            compat=self.compat,
            centring="none" if rows.within else self.centring,
            unit_norm=self.unit_norm,
        )

    def rate_maps(
        self,
        rows: EvidenceRows,
        batches: Iterable[tuple[NDArray[np.int64], MapBatch]],
        bench: Workbench,
    ) -> Iterator[tuple[NDArray[np.int64], Array]] | None:
        """Score maps by the target's statistics alone."""
        columns = label_columns_of(rows.labels, compat=self.compat)
        middle = self.backend.middle
        scorer = MapEvidence(
            target_statistics(rows, columns, bench, middle=middle),
            compat=self.compat,
            centring="none" if rows.within else self.centring,
            unit_norm=self.unit_norm,
            dimension=bench.encoder.dimension,
        )
        return scorer.over(batches)


class HScore(FeatureScore):
    """H-score, regularised: variance between classes, with redundant features counted once.

        score = tr( ((1 - a) S + a mu I)^-1 (1 - a) S_between )

    S is the covariance of the target's features under the source's model, S_between that of
    their class means, mu the mean variance of a feature, and a the shrinkage of Ledoit and
    Wolf, which keeps S invertible where there are fewer rows than dimensions. High where class
    means lie far apart in directions in which the features vary little otherwise; from 0 to
    about C - 1.

    *Options.* ``shrinkage=None``: the first H-score, without regularisation. With fewer rows
    than dimensions it is C - 1 for every source, and says nothing.

    *Cost.* Some 15 ms per source at 384 dimensions.

    *Fails* where a class is spread over several clusters, for it sees means only. Shrinkage
    differs from source to source with few rows, and then decides with the features.
    Classification only. Bai et al. 2023 found it the best compromise of quality and cost on
    GLUE, for choosing models.

    *Reference.* Bao et al. 2019 (ICIP); regularised by Ibrahim et al. 2022 (arXiv 2110.06893).
    """

    plain = "h-score"
    paper = "Bao et al. 2019; Ibrahim et al. 2022"
    kinds = CLASSES
    on_maps = (
        "*On space maps.* Both covariances follow from the target's own moments and the map,\n"
        "so no mapped features are formed: a few milliseconds per source. Without shrinkage\n"
        "the score is the same for every invertible map; it is the shrinkage that lets a\n"
        "map's stretching count, and with many rows it vanishes."
    )

    def __init__(
        self, backend: Backend, *, shrinkage: Literal["ledoit-wolf"] | None = "ledoit-wolf"
    ) -> None:
        super().__init__(backend)
        one_of(self, "shrinkage", shrinkage, ("ledoit-wolf", None))
        self.shrinkage: Literal["ledoit-wolf"] | None = shrinkage

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:  # noqa: ARG002  # of the protocol
        """Compute the score."""
        return h_score(features, labels, shrinkage=self.shrinkage)

    def rate_maps(
        self,
        rows: EvidenceRows,
        batches: Iterable[tuple[NDArray[np.int64], MapBatch]],
        bench: Workbench,
    ) -> Iterator[tuple[NDArray[np.int64], Array]] | None:
        """Score maps by moments of the target's own features, where there is shrinkage."""
        if self.shrinkage is None:
            return None
        features, labels = rows.about_means(rows.features(bench)), rows.labels

        def scored() -> Iterator[tuple[NDArray[np.int64], Array]]:
            for positions, (scale, inner, outer, _) in batches:
                with threadpool_limits(1):
                    yield positions, h_scores_of_maps(features, labels, scale, inner, outer)

        return scored()


class TransRate(FeatureScore):
    """TransRate: bits to code the features, less bits to code them class by class.

        score = R(F) - (1/C) sum_c R(F_c),   R(F) = 1/2 ln det(I + F'F / (n eps))

    over the target's features F under the source's model, centred once over all rows, as in the
    published listing. R is the rate at which n vectors can be coded with distortion eps: the volume
    they fill. The difference is meant as the mutual information of features and labels.

    *Options.* ``eps``; ``unit_norm``: scale features to a mean square norm of 1, which the paper
    does not, and without which a source that blows up its features scores high. ``bins``:
    regression labels are cut into so many classes of equal counts.

    *Cost.* Some 20 ms per source at 384 dimensions.

    *Fails* for two classes of equal size: as features are centred over all rows and not within a
    class, moving the two means apart adds the same direction to all features and to those of each
    class, and cancels. The score then sees how the classes spread and not how far apart they lie.
    With few rows, too: R(F_c) of a class with fewer rows than dimensions grows with its rows,
    not with its spread, and then features that fill many dimensions win, those of the untouched
    encoder first. Rare classes count as much as frequent ones, and the order of sources can
    change with eps.

    *Reference.* Huang et al. 2022 (ICML, arXiv 2106.09362).
    """

    plain = "transrate"
    paper = "Huang et al. 2022"
    on_maps = (
        "*On space maps.* Where eps is small against all variances, the score is nearly the\n"
        "same for every invertible map."
    )

    def __init__(
        self, backend: Backend, *, eps: float = 1e-4, unit_norm: bool = False, bins: int = 10
    ) -> None:
        super().__init__(backend)
        at_least(self, 1e-12, eps=eps)
        at_least(self, 2, bins=bins)
        self.eps, self.unit_norm, self.bins = eps, unit_norm, bins

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:  # noqa: ARG002  # of the protocol
        """Compute the score."""
        return transrate(features, labels, eps=self.eps, unit_norm=self.unit_norm, bins=self.bins)


class Gbc(FeatureScore):
    """GBC: how much the target's classes overlap in the source's space.

    Every class is taken for a Gaussian, and

        score = - sum over c != c' of exp(-D(c, c')),

    where D is the Bhattacharyya distance: 1/8 of the squared distance of the means in units of
    the mean covariance, plus a term for unlike covariances. exp(-D) is 1 for classes that
    coincide and 0 for ones that are apart, so 0 is best.

    *Options.* ``covariance``: ``spherical`` (one variance per class) or ``diagonal``.
    ``components``: features are reduced to 64 by PCA first; None leaves them.

    *Cost.* Some 25 ms per source at 384 dimensions, most of it PCA.

    *Fails* where classes are no Gaussians, such as a class of two clusters around another.
    Pairs that coincide decide, well separated ones hardly count. With many dimensions and
    ``components=None`` all terms vanish and sources tie. Classification only.

    *Reference.* Pándy et al. 2022 (CVPR, arXiv 2111.12780). The released code takes the
    determinant of a spherical covariance for one variance; here it is the determinant.
    """

    plain = "gbc"
    paper = "Pándy et al. 2022"
    kinds = CLASSES
    on_maps = (
        "*On space maps.* A map that stretches what its source had to tell apart moves class\n"
        "means against the spread within classes."
    )

    def __init__(
        self,
        backend: Backend,
        *,
        covariance: Literal["spherical", "diagonal"] = "spherical",
        components: int | None = 64,
    ) -> None:
        super().__init__(backend)
        one_of(self, "covariance", covariance, ("spherical", "diagonal"))
        at_least(self, 1, components=components)
        self.covariance: Literal["spherical", "diagonal"] = covariance
        self.components = components

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:  # noqa: ARG002  # of the protocol
        """Compute the score."""
        return gbc(features, labels, covariance=self.covariance, components=self.components)


def _both(score: type[FeatureScore]) -> tuple[Factory, Factory]:
    """Compose a score with both backends; space maps first, as lists of methods have them."""
    return partial(score, SpaceMaps()), partial(score, SourceModels())


METHODS: dict[str, Factory] = {
    factory().name: factory
    for factory in (
        partial(LogME, LayeredMaps()),
        *_both(LogME),
        *_both(HScore),
        *_both(Leep),
        *_both(Nce),
        *_both(NLeep),
        *_both(TransRate),
        *_both(Gbc),
        *_both(Parc),
        *_both(Knn),
        *_both(LinearProbe),
        *_both(FrozenTransfer),
    )
}
