"""Scores of features for the target's labels, on source models and on space maps.

Every score exists twice: on what the source's own tuned model makes of the target's texts
(``logme``, ``h-score``, ...), and with the source's space map in its place (``esm-logme``,
``esm-h-score``, ...). The mathematics is in :mod:`taskscout.methods.evidence` and
:mod:`taskscout.methods.scores`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from taskscout.errors import MethodError
from taskscout.methods.descriptions import by_text
from taskscout.methods.evidence import (
    MapEvidence,
    label_columns,
    logme_of_features,
)
from taskscout.methods.method import BaseMethod, Cost, Description, Factory, Material
from taskscout.methods.scores import (
    frozen_transfer,
    gbc,
    h_score,
    h_scores_of_maps,
    knn,
    leep,
    linear_probe,
    nce,
    nleep,
    parc,
    transrate,
)
from taskscout.methods.space_map import Moments, SpaceMap, fit_maps, identity_map
from taskscout.methods.statistics import Centring, target_statistics
from taskscout.models.workbench import Workbench
from taskscout.tasks import Kind, Task
from taskscout.tasks.task import SEQUENCE_KINDS

Array = NDArray[np.float64]

#: Key of the description that keeps the tuned model itself: adapter and head.
TUNED = "tuned"
#: Sources scored at a time; bounds memory whatever the size of the pool.
_BATCH = 32
#: Arrays of a space map.
_MAP = ("inner", "outer", "offset")
#: Kinds of targets for scores that know classes only.
_CLASSES: tuple[Kind, ...] = ("classification",)


def label_matrix(target: Task, *, compat: bool = False) -> NDArray[np.float64]:
    """Label columns of a target's training rows; regression labels standardised."""
    labels = target.labels("train")
    if target.kind == "regression" and not compat:
        labels = (labels - labels.mean()) / max(float(labels.std()), 1e-12)
    return label_columns(labels, compat=compat)


def fixed_order(target: Task) -> NDArray[np.int64]:
    """Order a target's training rows by content, so that where they stood plays no part."""
    by_label = np.argsort(target.labels("train"), kind="stable")
    texts, pairs = target.inputs("train")
    order = by_text(
        [texts[i] for i in by_label], None if pairs is None else [pairs[i] for i in by_label]
    )
    return by_label[order]


class FeatureMethod(BaseMethod):
    """What all methods share that score what a source makes of the target's texts."""

    kinds = SEQUENCE_KINDS
    needs = frozenset({"labels"})
    describes_from: Material = "tuned model"

    def features(
        self, target: Task, source: Description, bench: Workbench
    ) -> NDArray[np.floating[Any]] | None:
        """Embed the target's training texts as the source does, n × d; None if it cannot."""
        raise NotImplementedError

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:
        """Score features (n × d) for labels; NaN where the source has no such score."""
        raise NotImplementedError

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Score per source.

        NaN for a target of another kind, a source of another encoder or pooling, one whose
        features are not finite, and one that has no such score.
        """
        out = np.full(len(sources), np.nan)
        if target.kind not in self.kinds:
            return out
        order = fixed_order(target)
        labels = target.labels("train")[order]
        if target.kind == "classification":
            label_columns(labels)  # one class only is an error, whatever the score
        for i in range(len(sources)):
            source = sources[i]
            features = self.features(target, source, bench)
            if features is not None and np.isfinite(features).all():
                # On one thread: see evidence._one_thread.
                with threadpool_limits(1):
                    out[i] = self.rate(features[order].astype(np.float64), labels, source)
        return out


def head_arrays(task: Task, bench: Workbench) -> dict[str, NDArray[np.float16]]:
    """Take the head of a task's tuned model, in half precision."""
    head = bench.tuned(task).model.head
    arrays = {"head.weight": head.weight, "head.bias": head.bias}
    return {k: v.detach().cpu().numpy().astype(np.float16) for k, v in arrays.items()}


def describe_tuned(task: Task, bench: Workbench) -> Description:
    """Keep the tuned model itself: adapter and head in half precision."""
    tuned = bench.tuned(task)
    model = tuned.model
    arrays = {name: a.astype(np.float16) for name, a in tuned.adapter.items()}
    arrays.update(head_arrays(task, bench))
    header = {
        "kind": task.kind,
        "center": model.center,
        "scale": model.scale,
        "encoder": bench.encoder.fingerprint,
        "tuning": tuned.recipe.tuning,
    }
    return Description(TUNED, task.name, header, arrays)


class SourceModelMethod(FeatureMethod):
    """What all methods share that run the target's texts through the source's tuned model."""

    key = TUNED
    needs = frozenset({"labels", "tuned source"})
    cost: Cost = "source models"

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Tune the encoder on the source, and keep adapter and head.

        Raises
        ------
        MethodError
            If the workbench's recipe tunes otherwise than by an adapter.
        """
        tuning = bench.recipe.tuning
        if tuning not in ("lora", "head"):
            raise MethodError(
                f"{self.name} cannot describe a source tuned by {tuning!r}.",
                "It keeps the source's model as an adapter.",
                "Use tuning 'lora'.",
            )
        return describe_tuned(source, bench)

    def none(self, bench: Workbench) -> Description | None:
        """Describe the untouched encoder: no adapter, no head."""
        return Description(TUNED, "none", {"encoder": bench.encoder.fingerprint})

    def features(
        self, target: Task, source: Description, bench: Workbench
    ) -> NDArray[np.floating[Any]] | None:
        """Embed the target with the source's model.

        None for one of another encoder, and for one tuned otherwise than by an adapter.
        """
        if source.header.get("encoder") != bench.encoder.fingerprint:
            return None
        arrays = source.arrays
        adapted = any(name.endswith(".lora_A") for name in arrays)
        if not adapted and arrays and source.header.get("tuning") != "head":
            return None  # a head whose encoder was tuned in a way that is not kept
        return bench.source_embeddings(target, arrays, source=source.source)


class SpaceMapMethod(FeatureMethod):
    """What all methods share that put a space map in the place of the source's model."""

    key = "space-map"
    cost: Cost = "embedding"
    paper = "Schulte et al. 2024"

    #: Rank of the maps made by :meth:`describe`.
    rank: int = 16
    #: Whether they read the base encoder's middle layer beside its last.
    middle: bool = False
    #: Whether the source's head is kept beside the map: what scores of its predictions read.
    keeps_head: bool = True
    #: At most so many rows of the source are fitted on, and so many tokens; a quarter as many
    #: rows more choose the strength.
    examples: int = 800
    tokens: int = 40_000

    def expect(self, bench: Workbench) -> None:
        """Announce that the middle layer will be read, where it will be."""
        if self.middle:
            bench.expect_middle()

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Fit the map from base to tuned embeddings of the source's own texts."""
        # Long texts cost more and tell more: fewer of them do. The model is that of all rows.
        texts, pairs = source.sample(200).inputs("train")
        length = sum(len(r["input_ids"]) for r in bench.encoder.tokenize(texts, pairs)) / len(texts)
        rows = min(self.examples, max(8, int(self.tokens / length)))
        fitted = source.sample(rows)
        if "validation" in fitted.tables:
            fitted = fitted.sample(rows // 4, split="validation")
            train, held_out = (
                Moments.of(
                    bench.embeddings(fitted, s, middle=self.middle),
                    bench.tuned_embeddings(fitted, s, of=source),
                )
                for s in ("train", "validation")
            )
        else:
            base = bench.embeddings(fitted, middle=self.middle)
            tuned = bench.tuned_embeddings(fitted, of=source)
            cut = max(1, len(base) // 5)
            held_out, train = (
                Moments.of(base[:cut], tuned[:cut]),
                Moments.of(base[cut:], tuned[cut:]),
            )
        low, full = fit_maps(train, held_out, ranks=(self.rank, None))
        space_map = low.half()
        return Description(
            self.key,
            source.name,
            {
                "kind": source.kind,
                "scale": space_map.scale,
                "rank": space_map.rank,
                "strength": space_map.strength,
                "explained": round(space_map.explained(held_out), 4),
                "explained_by_full_map": round(full.explained(held_out), 4),
                "encoder": bench.encoder.fingerprint,
            },
            {
                "inner": space_map.inner,
                "outer": space_map.outer,
                "offset": space_map.offset,
                **(head_arrays(source, bench) if self.keeps_head else {}),
            },
        )

    def none(self, bench: Workbench) -> Description | None:
        """Describe the untouched encoder: the identity map."""
        d = bench.encoder.dimension
        same = identity_map(d, (1 + self.middle) * d)
        return Description(
            self.key,
            "none",
            {"scale": same.scale, "rank": 0, "encoder": bench.encoder.fingerprint},
            {"inner": same.inner, "outer": same.outer, "offset": same.offset},
        )

    def features(
        self, target: Task, source: Description, bench: Workbench
    ) -> NDArray[np.floating[Any]] | None:
        """Map the target's base embeddings; None for a map of another encoder or pooling."""
        if source.header.get("encoder") != bench.encoder.fingerprint:
            return None
        arrays = source.arrays
        space_map = SpaceMap(
            source.header["scale"], arrays["inner"], arrays["outer"], arrays["offset"]
        )
        return space_map(bench.embeddings(target, middle=self.middle))


def _finite(array: NDArray[Any]) -> bool:
    """Whether all numbers are finite; half precision is looked at as bits, many times as fast."""
    if array.dtype == np.float16:
        return bool(((array.view(np.uint16) & 0x7C00) != 0x7C00).all())
    return bool(np.isfinite(array).all())


def _maps(
    sources: Sequence[Description], bench: Workbench
) -> Iterator[tuple[NDArray[np.int64], tuple[Array, NDArray[Any], NDArray[Any], NDArray[Any]]]]:
    """Stack the maps of this encoder, those of one rank together, a batch at a time.

    Sources are read once, in their order; a map that holds numbers that are not finite is passed
    over.

    Yields
    ------
    Their places among the sources; and their scales, U, V and offsets.
    """
    waiting: dict[int, list[tuple[int, Description]]] = {}

    def stacked(rank: int) -> tuple[NDArray[np.int64], tuple[Any, Any, Any, Any]]:
        batch = waiting.pop(rank)
        inner, outer, offset = (np.stack([s.arrays[a] for _, s in batch]) for a in _MAP)
        scale = np.array([s.header["scale"] for _, s in batch])
        return np.array([i for i, _ in batch]), (scale, inner, outer, offset)

    for i in range(len(sources)):
        source = sources[i]
        if source.header.get("encoder") != bench.encoder.fingerprint:
            continue
        if all(_finite(source.arrays[a]) for a in _MAP):
            rank: int = source.header["rank"]
            waiting.setdefault(rank, []).append((i, source))
            if len(waiting[rank]) == _BATCH:
                yield stacked(rank)
    for rank in sorted(waiting):
        yield stacked(rank)


# -- the scores, whatever the features come from ----------------------------------------------


def _known(method: BaseMethod, option: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise MethodError(
            f"{method.name} was given {option} {value!r}.",
            f"It knows {', '.join(map(str, allowed))}.",
            "Choose one of these.",
        )


def _at_least(method: BaseMethod, least: float, **options: float | None) -> None:
    for option, value in options.items():
        if value is not None and not value >= least:
            raise MethodError(
                f"{method.name} was given {option} {value:g}.",
                f"It is {least:g} or more.",
                "Leave it out for the default.",
            )


class _LogME(FeatureMethod):
    def __init__(
        self, *, compat: bool = False, centring: Centring = "both", unit_norm: bool = True
    ) -> None:
        _known(self, "centring", centring, get_args(Centring))
        self.compat = compat
        self.centring: Centring = centring
        self.unit_norm = unit_norm


class _Predictions(FeatureMethod):
    """Scores of what the source's head predicts for the target's texts."""

    kinds = _CLASSES

    def none(self, bench: Workbench) -> Description | None:  # noqa: ARG002
        """No score: the untouched encoder predicts no classes."""
        return None

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:
        if source.header.get("kind") != "classification" or "head.weight" not in source.arrays:
            return float("nan")
        weight = source.arrays["head.weight"].astype(np.float64)
        return self._of(features @ weight.T + source.arrays["head.bias"], labels)

    def _of(self, logits: Array, labels: NDArray[Any]) -> float:
        raise NotImplementedError


class _Leep(_Predictions):
    def _of(self, logits: Array, labels: NDArray[Any]) -> float:
        from scipy.special import softmax

        return leep(softmax(logits, axis=1), labels)


class _Nce(_Predictions):
    def _of(self, logits: Array, labels: NDArray[Any]) -> float:
        return nce(logits.argmax(1), labels)


class _NLeep(FeatureMethod):
    kinds = _CLASSES

    def __init__(
        self,
        *,
        components: int = 5,
        energy: float = 0.8,
        covariance: Literal["full", "tied", "diag", "spherical"] = "full",
        seed: int = 0,
    ) -> None:
        _at_least(self, 1, components=components)
        _known(self, "covariance", covariance, ("full", "tied", "diag", "spherical"))
        if not 0 < energy < 1:
            raise MethodError(
                f"{self.name} was given energy {energy:g}.",
                "It is the share of the variance that PCA keeps.",
                "Give a number between 0 and 1.",
            )
        self.components, self.energy, self.seed = components, energy, seed
        self.covariance: Literal["full", "tied", "diag", "spherical"] = covariance

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:  # noqa: ARG002
        return nleep(
            features,
            labels,
            components=self.components,
            energy=self.energy,
            covariance=self.covariance,
            seed=self.seed,
        )


class _HScore(FeatureMethod):
    kinds = _CLASSES

    def __init__(self, *, shrinkage: Literal["ledoit-wolf"] | None = "ledoit-wolf") -> None:
        _known(self, "shrinkage", shrinkage, ("ledoit-wolf", None))
        self.shrinkage: Literal["ledoit-wolf"] | None = shrinkage

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:  # noqa: ARG002
        return h_score(features, labels, shrinkage=self.shrinkage)


class _TransRate(FeatureMethod):
    def __init__(self, *, eps: float = 1e-4, unit_norm: bool = True, bins: int = 10) -> None:
        _at_least(self, 1e-12, eps=eps)
        _at_least(self, 2, bins=bins)
        self.eps, self.unit_norm, self.bins = eps, unit_norm, bins

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:  # noqa: ARG002
        return transrate(features, labels, eps=self.eps, unit_norm=self.unit_norm, bins=self.bins)


class _Gbc(FeatureMethod):
    kinds = _CLASSES

    def __init__(
        self,
        *,
        covariance: Literal["spherical", "diagonal"] = "spherical",
        components: int | None = 64,
    ) -> None:
        _known(self, "covariance", covariance, ("spherical", "diagonal"))
        _at_least(self, 1, components=components)
        self.covariance: Literal["spherical", "diagonal"] = covariance
        self.components = components

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:  # noqa: ARG002
        return gbc(features, labels, covariance=self.covariance, components=self.components)


class _Parc(FeatureMethod):
    kinds = _CLASSES

    def __init__(self, *, rows: int = 500, standardise: bool = True, seed: int = 0) -> None:
        _at_least(self, 3, rows=rows)
        self.rows, self.standardise, self.seed = rows, standardise, seed

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:  # noqa: ARG002
        return parc(features, labels, rows=self.rows, standardise=self.standardise, seed=self.seed)


class _Knn(FeatureMethod):
    def __init__(self, *, k: int = 3, metric: Literal["euclidean", "cosine"] = "euclidean") -> None:
        _at_least(self, 1, k=k)
        _known(self, "metric", metric, ("euclidean", "cosine"))
        self.k = k
        self.metric: Literal["euclidean", "cosine"] = metric

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:  # noqa: ARG002
        return knn(features, labels, k=self.k, metric=self.metric)


class _LinearProbe(FeatureMethod):
    def __init__(self, *, folds: int = 5, strength: float = 1.0, seed: int = 0) -> None:
        _at_least(self, 2, folds=folds)
        _at_least(self, 1e-12, strength=strength)
        self.folds, self.strength, self.seed = folds, strength, seed

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:  # noqa: ARG002
        return linear_probe(
            features, labels, folds=self.folds, strength=self.strength, seed=self.seed
        )


class _FrozenTransfer(FeatureMethod):
    def __init__(
        self, *, epochs: int = 3, learning_rate: float = 2e-5, batch_size: int = 32, seed: int = 0
    ) -> None:
        _at_least(self, 1, epochs=epochs, batch_size=batch_size)
        _at_least(self, 0, learning_rate=learning_rate)
        self.epochs, self.learning_rate = epochs, learning_rate
        self.batch_size, self.seed = batch_size, seed

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:  # noqa: ARG002
        return frozen_transfer(
            features,
            labels,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            seed=self.seed,
        )


# -- on source models -------------------------------------------------------------------------


class LogME(_LogME, SourceModelMethod):
    """LogME of the target's embeddings under each source's own model.

    How well can a Bayesian linear regression on the features F tell the labels, judged without
    held-out data? For every label column y (one class against the rest, or the standardised
    value for regression)

        y = F w + noise,   w ~ N(0, I / alpha),   noise ~ N(0, I / beta),

        score = mean over columns of (1/n) max over alpha, beta of ln p(y | F, alpha, beta).

    It rewards features that explain the labels along a few strong directions, and charges for
    the freedom to fit noise.

    *Options.* ``compat``: the published formula, which leaves out the zero eigenvalues' part of
    the determinant and with fewer rows than dimensions ranks almost at random. ``centring``
    (``both``, ``features``, ``none``) and ``unit_norm``: the score depends on mean and scale of
    the features, so both are taken out by default.

    *Cost.* One forward pass over the target's texts per source (10 sources and a few hundred
    texts: seconds; kept on disk), then some 50 ms per source at 384 dimensions. A source keeps
    adapter and head.

    *Fails* where the best source's use is not linear in its last layer, and cannot serve a
    target without labels. In the pilot its first pick gained 2.0 points, that of ``esm-logme``
    1.2: hence ``esm-logme>logme``.

    *Reference.* You et al. 2021 (ICML); as a source selector Schulte et al. 2024 (arXiv
    2410.15148).
    """

    name = "logme"
    paper = "You et al. 2021"

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """LogME per source; NaN for one of another encoder, or tuned without an adapter."""
        out = np.full(len(sources), np.nan)
        if target.kind not in self.kinds:
            return out
        columns = label_matrix(target, compat=self.compat)
        for i in range(len(sources)):
            features = self.features(target, sources[i], bench)
            if features is not None and np.isfinite(features).all():
                out[i] = logme_of_features(
                    features,
                    columns,
                    compat=self.compat,
                    centring=self.centring,
                    unit_norm=self.unit_norm,
                )
        return out


class Leep(_Leep, SourceModelMethod):
    """LEEP: how well the source's own predictions on the target's texts tell the labels.

    The source's head gives every target text a distribution theta over the *source's* classes
    z. Counting them beside the target's labels y gives P(y|z), and

        score = (1/n) sum_i ln sum_z P(y_i|z) theta_z(x_i)

    is the mean log probability of the labels under the classifier "source head, then P(y|z)". 0
    is perfect; minus the labels' entropy is what predictions score that say nothing.

    *Cost.* One forward pass over the target's texts per source (kept on disk); the rest is
    microseconds. A source keeps adapter and head.

    *Fails* for sources with few classes: a head with two outputs cannot tell six emotions
    apart, however good its encoder. Regression sources have no score (NaN), regression targets
    are not served, and there is none for "use no source". Sources with many classes fit few
    labels by chance: P(y|z) is counted on the rows it is scored on.

    *Reference.* Nguyen et al. 2020 (ICML, arXiv 2002.12462); as a source selector Schulte et
    al. 2024.
    """

    name = "leep"
    paper = "Nguyen et al. 2020"


class Nce(_Nce, SourceModelMethod):
    """NCE: what is left to know of the target's labels once the source has predicted its own.

    z is the class that the source's head gives a target text, and the score is minus the
    conditional entropy of the label,

        score = -H(Y|Z) = (1/n) sum_yz n_yz ln(n_yz / n_z).

    It is ``leep`` with the predictions made hard: how sure the source is plays no part. 0 where
    the predictions tell the labels.

    *Cost.* One forward pass over the target's texts per source (kept on disk); the rest is
    microseconds. A source keeps adapter and head.

    *Fails* as ``leep`` does, and more often: one class predicted for every text scores as if
    the source knew nothing, even where its probabilities move with the label. Classification
    sources and targets only; none for "use no source". With many source classes and few rows
    the entropy is estimated too low.

    *Reference.* Tran et al. 2019 (ICCV, arXiv 1908.08142); as a source selector Schulte et al.
    2024.
    """

    name = "nce"
    paper = "Tran et al. 2019"


class NLeep(_NLeep, SourceModelMethod):
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

    *Cost.* One forward pass over the target's texts per source (kept on disk), and a mixture
    fitted per source: tenths of a second, more with many classes.

    *Fails* with few rows: P(y|v) is counted on the rows the mixture was fitted on, and a
    component with three rows tells their label whatever it is. No more than one component per
    10 rows is taken (one per class at least), so below some 50 rows per class it is not the
    published method any more. It depends on the mixture's start. Classification targets only.

    *Reference.* Li et al. 2021 (CVPR, arXiv 2011.11200).
    """

    name = "nleep"
    paper = "Li et al. 2021"


class HScore(_HScore, SourceModelMethod):
    """H-score, regularised: variance between classes, with redundant features counted once.

        score = tr( ((1 - a) S + a mu I)^-1 (1 - a) S_between )

    S is the covariance of the target's features under the source's model, S_between that of
    their class means, mu the mean variance of a feature, and a the shrinkage of Ledoit and
    Wolf, which keeps S invertible where there are fewer rows than dimensions. High where class
    means lie far apart in directions in which the features vary little otherwise; from 0 to
    about C - 1.

    *Options.* ``shrinkage=None``: the first H-score, without regularisation. With fewer rows
    than dimensions it is C - 1 for every source, and says nothing.

    *Cost.* One forward pass over the target's texts per source (kept on disk), then some 15 ms
    per source at 384 dimensions. A source keeps adapter and head.

    *Fails* where a class is spread over several clusters, for it sees means only. Shrinkage
    differs from source to source with few rows, and then decides with the features.
    Classification only. Bai et al. 2023 found it the best compromise of quality and cost on
    GLUE, for choosing models.

    *Reference.* Bao et al. 2019 (ICIP); regularised by Ibrahim et al. 2022 (arXiv 2110.06893).
    """

    name = "h-score"
    paper = "Bao et al. 2019; Ibrahim et al. 2022"


class TransRate(_TransRate, SourceModelMethod):
    """TransRate: bits to code the features, less bits to code them class by class.

        score = R(F) - (1/C) sum_c R(F_c),   R(F) = 1/2 ln det(I + F'F / (n eps))

    over the target's features F under the source's model, centred once over all rows. R is the
    rate at which n vectors can be coded with distortion eps: the volume they fill. The
    difference estimates how much of that volume the classes explain, the mutual information of
    features and labels: high where every class fills little and all together fill much.

    *Options.* ``eps``; ``unit_norm`` (default): features are scaled to a mean square norm of 1,
    without which a source that blows up its features scores high; ``False`` is the published
    listing. ``bins``: regression labels are cut into so many classes of equal counts.

    *Cost.* One forward pass over the target's texts per source (kept on disk), then some 20 ms
    per source at 384 dimensions.

    *Fails* with few rows: R(F_c) of a class with fewer rows than dimensions grows with its rows,
    not with its spread, and then features that fill many dimensions win, those of the untouched
    encoder first. Rare classes count as much as frequent ones, and the order of sources can
    change with eps.

    *Reference.* Huang et al. 2022 (ICML, arXiv 2106.09362).
    """

    name = "transrate"
    paper = "Huang et al. 2022"


class Gbc(_Gbc, SourceModelMethod):
    """GBC: how much the target's classes overlap in the source's space.

    Every class is taken for a Gaussian, and

        score = - sum over c != c' of exp(-D(c, c')),

    where D is the Bhattacharyya distance: 1/8 of the squared distance of the means in units of
    the mean covariance, plus a term for unlike covariances. exp(-D) is 1 for classes that
    coincide and 0 for ones that are apart, so 0 is best.

    *Options.* ``covariance``: ``spherical`` (one variance per class) or ``diagonal``.
    ``components``: features are reduced to 64 by PCA first; None leaves them.

    *Cost.* One forward pass over the target's texts per source (kept on disk), then some 25 ms
    per source at 384 dimensions, most of it PCA.

    *Fails* where classes are no Gaussians, such as a class of two clusters around another.
    Pairs that coincide decide, well separated ones hardly count. With many dimensions and
    ``components=None`` all terms vanish and sources tie. Classification only.

    *Reference.* Pándy et al. 2022 (CVPR, arXiv 2111.12780). The released code takes the
    determinant of a spherical covariance for one variance; here it is the determinant.
    """

    name = "gbc"
    paper = "Pándy et al. 2022"


class Parc(_Parc, SourceModelMethod):
    """PARC: whether texts that differ in label are those that differ in the source's space.

        score = Spearman( 1 - Pearson(f_i, f_j), [y_i != y_j] )   over all pairs i < j

    f are the target's features under the source's model, every dimension brought to mean 0 and
    variance 1. 1 where all pairs of unlike label are farther apart than all pairs of like label,
    0 where distance has nothing to do with labels.

    *Options.* ``rows``: at most 500 texts are drawn (125 thousand pairs), by ``seed`` and
    without regard to labels; ``standardise=False`` leaves the features as they are.

    *Cost.* One forward pass over the target's texts per source (kept on disk), then some 40 ms
    per source.

    *Fails* where the labels are one direction among many: all dimensions count the same, so a
    label that a linear head reads with ease moves distances little. With many classes nearly all
    pairs are unlike, and the score stays near 0. Classification only: for values the paper
    defines nothing.

    *Reference.* Bolya et al. 2021 (NeurIPS, arXiv 2111.06977).
    """

    name = "parc"
    paper = "Bolya et al. 2021"


class Knn(_Knn, SourceModelMethod):
    """kNN: how often a text's nearest neighbours in the source's space share its label.

    Leave one out: every labelled text of the target is given the majority label of its k = 3
    nearest other texts under the source's model (the nearest one's where labels tie), and

        score = share of texts given their own label,

    which is micro-F1 with one label per text. For regression, the Pearson correlation of the
    label with the neighbours' mean.

    *Options.* ``k``; ``metric``: ``euclidean`` or ``cosine``.

    *Cost.* One forward pass over the target's texts per source (kept on disk), then some 40 ms
    per source at 1,000 texts; it grows with the square of the texts.

    *Fails* as ``parc`` does where the label is one direction among many; and with few texts the
    score is coarse (one text of 200 is half a point), so sources tie.

    *Reference.* Puigcerver et al. 2021 (ICLR); as a proxy for sources in Poth et al. 2021 (arXiv
    2104.08247); computed as the package transformer-ranker does.
    """

    name = "knn"
    paper = "Puigcerver et al. 2021; Poth et al. 2021"


class LinearProbe(_LinearProbe, SourceModelMethod):
    """Linear probe: cross-validated score of a linear head on the source's frozen features.

    Five folds; logistic regression on standardised features for classes, ridge with its
    strength chosen inside the training folds for values:

        score = accuracy of the out-of-fold predictions,

    or the mean of their Pearson and Spearman correlation with the labels. It is what transfer
    with a frozen encoder would reach, with the head trained to its end instead of for three
    epochs (``frozen-transfer``).

    *Options.* ``folds``, ``strength`` (L2 penalty of the logistic regression), ``seed`` of the
    folds.

    *Cost.* One forward pass over the target's texts per source (kept on disk), then five heads:
    tenths of a second per source, more with many classes.

    *Fails* with few texts: the score is coarse and noisy, and the head has more weights than
    examples. It shows what the features hold, not what full fine-tuning makes of them; a source
    near the target's domain may probe well and transfer little.

    *Reference.* A standard probe; as a proxy for sources in Poth et al. 2021 (arXiv 2104.08247).
    """

    name = "linear-probe"
    paper = "Poth et al. 2021"


class FrozenTransfer(_FrozenTransfer, SourceModelMethod):
    """Frozen transfer: a fresh head trained for three epochs on the frozen source model.

    The released recipe: a linear head drawn from N(0, 0.02²), dropout 0.1, AdamW at a learning
    rate of 2e-5 with linear decay, weight decay 0.01, batches of 32, gradients clipped at 1, on
    four fifths of the target's texts;

        score = accuracy on the last fifth

    (mean of Pearson and Spearman correlation for regression). Held-out texts, head, order and
    dropout are the same for all sources.

    *Options.* ``epochs``, ``learning_rate``, ``batch_size``, ``seed``.

    *Cost.* One forward pass over the target's texts per source (kept on disk), then some 50 ms
    per source: the encoder is frozen, so its features are made once and not every epoch.

    *Fails* as published: in 75 steps at 2e-5 a weight moves by less than 0.001 while it began at
    0.02, so the score is nearly that of the random head. ``learning_rate=0.01`` trains one;
    ``linear-probe`` trains it to its end, on all texts by cross-validation.

    *Reference.* Schulte et al. 2024 (arXiv 2410.15148), as a baseline.
    """

    name = "frozen-transfer"
    paper = "Schulte et al. 2024"


# -- on space maps ----------------------------------------------------------------------------


class SpaceMapLogME(_LogME, SpaceMapMethod):
    """ESM-LogME: LogME of the target's embeddings under each source's space map.

    A space map is a small linear map, fitted once per source, from the base model's embeddings
    to those of the source's tuned model. Put in the place of that model it makes a forward pass
    through every source unnecessary: the target is embedded once, and

        score = LogME(map_s(F), labels),

    the log evidence per row of a Bayesian linear regression of the labels on the mapped features
    (see ``logme``), centred and scaled to unit norm.

    *Options.* As ``logme``: ``compat``, ``centring``, ``unit_norm``. ``screen=128`` first orders
    by the evidence of so many principal components, then scores the ``shortlist`` (100) best
    exactly and leaves the others without a score. On real targets a quarter of the sources,
    chosen so, held 86% of the ten best (99% with 256 components) and the first one always; but a
    score is so cheap that little time is saved (``docs/benchmarks.md``). ``device`` computes on a
    GPU (a torch device).

    *Cost.* One forward pass over the target's texts, shared with all methods that read its
    embeddings; then about a millisecond per source, for all that the evidence needs follows from
    sums over the target's rows, which are kept on disk: a second ranking of the same target makes
    no pass over its rows at all. A source keeps its map at rank 16 and its head: 26 KB at 384
    dimensions.

    *Fails* where tuning did what no linear map of the last layer can do, text pairs above all.
    A map adds no information, it re-weighs what the base embedding holds: ``layered-esm-logme``
    reads the middle layer too. ``esm-logme>logme`` asks the real models for the ten best.

    *Reference.* Schulte et al. 2024 (arXiv 2410.15148), with the real evidence, maps in closed
    form, and features centred and scaled (see ``docs/benchmarks.md``).
    """

    name = "esm-logme"
    aliases = ("ESM-LogME",)

    def __init__(
        self,
        *,
        compat: bool = False,
        centring: Centring = "both",
        unit_norm: bool = True,
        screen: int | None = None,
        shortlist: int = 100,
        device: str | None = None,
    ) -> None:
        super().__init__(compat=compat, centring=centring, unit_norm=unit_norm)
        _at_least(self, 1, screen=screen, shortlist=shortlist)
        self.screen, self.shortlist, self.device = screen, shortlist, device
        if screen is not None and compat:
            raise MethodError(
                f"{self.name} was given both compat and screen.",
                "The published formula's order under principal components is nearly reversed.",
                "Leave one of them out.",
            )

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """LogME per source; NaN for a map made for another encoder or pooling."""
        out = np.full(len(sources), np.nan)
        if target.kind not in self.kinds:
            return out
        columns = label_matrix(target, compat=self.compat)
        statistics = target_statistics(target, columns, bench, middle=self.middle)

        def scored(rows: NDArray[np.int64], components: int | None) -> None:
            scorer = MapEvidence(
                statistics,
                compat=self.compat,
                centring=self.centring,
                unit_norm=self.unit_norm,
                dimension=bench.encoder.dimension,
                components=components,
                device=self.device,
            )
            chosen = [sources[i] for i in rows] if len(rows) < len(sources) else sources
            for places, values in scorer.over(_maps(chosen, bench)):
                out[rows[places]] = values

        everything = np.arange(len(sources))
        if self.screen is None or len(sources) <= self.shortlist:
            scored(everything, None)
            return out
        scored(everything, self.screen)
        order = np.argsort(-np.where(np.isnan(out), -np.inf, out), kind="stable")
        none = [i for i in (len(sources) - 1,) if sources[i].source == "none"]
        best = np.union1d(order[: self.shortlist], none).astype(np.int64)
        out[:] = np.nan
        scored(best, None)
        return out


class LayeredMapLogME(SpaceMapLogME):
    """Layered ESM-LogME: ``esm-logme`` with maps that read the encoder's middle layer too.

    A space map predicts what a source's tuned model makes of a text from what the base model
    makes of it. The last layer has forgotten part of what tuning brings to the fore, of text
    pairs above all; the middle layer, which the same forward pass gives, still has it. With f the
    last layer's embedding and g the middle one's, pooled alike, a source's map is

        map_s(f, g) = s f + V U'[f, g] + b,

    fitted as space maps are, and the score as in ``esm-logme``,

        score = LogME(map_s(F, G), labels).

    On other tasks' texts it explains more of what tuning did, and its scores agree more with those
    of the real source models (``logme``) than those of space maps of any rank that were fitted on
    the same texts (``docs/benchmarks.md``).

    *Options.* As ``esm-logme``.

    *Cost.* As ``esm-logme``: one forward pass over the target's texts, then about a millisecond
    per source. A source keeps its map at rank 8, 19 KB at 384 dimensions.

    *Fails* as ``esm-logme`` does where tuning did what no linear map of these two layers can do,
    though less often.

    *Reference.* Ours; after Schulte et al. 2024 (arXiv 2410.15148).
    """

    name = "layered-esm-logme"
    key = "layered-map"
    paper = "after Schulte et al. 2024"
    rank = 8
    middle = True
    keeps_head = False


class SpaceMapLeep(_Leep, SpaceMapMethod):
    """ESM-LEEP: the source's head on mapped embeddings, and LEEP of its predictions.

    The source's classification head is kept beside its space map, so

        theta(x) = softmax(head_s(map_s(f(x))))

    stands for what the source's model would predict for a target text, without a forward pass
    through it; then as in ``leep``

        score = (1/n) sum_i ln sum_z P(y_i|z) theta_z(x_i),

    the mean log probability of the target's labels given the source's classes.

    *Cost.* One forward pass over the target's texts, shared with all methods that read its
    embeddings; well below a millisecond per source and 1,000 texts. Nothing is kept beside what
    ``esm-logme`` reads.

    *Fails* as ``leep`` does (sources with few classes; none for regression sources or for "use
    no source"), and where the map is poor: a head is read at its decision boundary, where errors
    of the map weigh most.

    *Reference.* Maps: Schulte et al. 2024 (arXiv 2410.15148); LEEP: Nguyen et al. 2020. The
    combination is ours.
    """

    name = "esm-leep"
    paper = "Schulte et al. 2024; Nguyen et al. 2020"


class SpaceMapNce(_Nce, SpaceMapMethod):
    """ESM-NCE: the source's head on mapped embeddings, and the entropy its classes leave.

    z = argmax head_s(map_s(f(x))) stands for the class that the source's model would predict for
    a target text, without a forward pass through it, and

        score = -H(Y|Z)

    as in ``nce``: what is left to know of the target's labels once z is known.

    *Cost.* One forward pass over the target's texts, shared with all methods that read its
    embeddings; well below a millisecond per source and 1,000 texts. Nothing is kept beside what
    ``esm-logme`` reads.

    *Fails* as ``nce`` does: hard predictions forget how sure they were, and on texts unlike its
    own a source often predicts one class throughout. Classification sources and targets only;
    none for "use no source".

    *Reference.* Maps: Schulte et al. 2024 (arXiv 2410.15148); NCE: Tran et al. 2019. The
    combination is ours.
    """

    name = "esm-nce"
    paper = "Schulte et al. 2024; Tran et al. 2019"


class SpaceMapNLeep(_NLeep, SpaceMapMethod):
    """ESM-NLEEP: NLEEP of the target's embeddings under each source's space map.

    As ``nleep``, with map_s(F) in place of the features of the source's model: PCA to 80% of the
    variance, a mixture of Gaussians, five per target class, and

        score = (1/n) sum_i ln sum_v P(y_i|v) P(v|x_i).

    A map that stretches the directions its source needed changes what PCA keeps and where the
    clusters fall.

    *Options.* ``components`` per class, ``energy``, ``covariance``, ``seed``.

    *Cost.* One forward pass over the target's texts, shared; then a mixture per source, tenths
    of a second and more with many classes.

    *Fails* with few rows and depends on the mixture's start, as ``nleep`` does. Classification
    targets only.

    *Reference.* Maps: Schulte et al. 2024 (arXiv 2410.15148); NLEEP: Li et al. 2021. The
    combination is ours.
    """

    name = "esm-nleep"
    paper = "Schulte et al. 2024; Li et al. 2021"


class SpaceMapHScore(_HScore, SpaceMapMethod):
    """ESM-H-score: the regularised H-score under each source's space map.

    As ``h-score``, with map_s(F) in place of the features of the source's model:

        score = tr( ((1 - a) S + a mu I)^-1 (1 - a) S_between ),

    S and S_between the covariances of the mapped features and of their class means, a the
    shrinkage of Ledoit and Wolf. Both follow from the target's own moments and the map, so no
    mapped features are formed.

    Without shrinkage the score would be the same for every invertible map: here it is the
    shrinkage that lets a map's stretching count.

    *Options.* ``shrinkage=None``: not regularised, which with maps says nothing (see above).

    *Cost.* One forward pass over the target's texts, shared with all methods that read its
    embeddings; then a few milliseconds per source.

    *Fails* with many rows: shrinkage vanishes, and with it what tells maps apart. Classification
    only.

    *Reference.* Maps: Schulte et al. 2024 (arXiv 2410.15148); H-score: Bao et al. 2019, Ibrahim
    et al. 2022. The combination is ours.
    """

    name = "esm-h-score"
    paper = "Schulte et al. 2024; Ibrahim et al. 2022"

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """H-score per source; NaN for a map made for another encoder or pooling."""
        if self.shrinkage is None or target.kind not in self.kinds:
            return super().score(target, sources, bench)
        out = np.full(len(sources), np.nan)
        labels = target.labels("train")
        for chosen, (scale, inner, outer, _) in _maps(sources, bench):
            with threadpool_limits(1):
                out[chosen] = h_scores_of_maps(
                    bench.embeddings(target), labels, scale, inner, outer
                )
        return out


class SpaceMapTransRate(_TransRate, SpaceMapMethod):
    """ESM-TransRate: coding rate reduction under each source's space map.

    As ``transrate``, with map_s(F) in place of the features of the source's model:

        score = R(F) - (1/C) sum_c R(F_c),   R(F) = 1/2 ln det(I + F'F / (n eps)),

    centred, and scaled to a mean square norm of 1. A map that stretches directions along which
    the classes differ fills more volume between classes than within.

    *Options.* ``eps``, ``unit_norm``, ``bins`` for regression.

    *Cost.* One forward pass over the target's texts, shared; then some 20 ms per source at 384
    dimensions and 1,000 texts.

    *Fails* as ``transrate`` does: few rows per class, and sensitive to eps. Where eps is small
    against all variances, the score is nearly the same for every invertible map.

    *Reference.* Maps: Schulte et al. 2024 (arXiv 2410.15148); TransRate: Huang et al. 2022. The
    combination is ours.
    """

    name = "esm-transrate"
    paper = "Schulte et al. 2024; Huang et al. 2022"


class SpaceMapGbc(_Gbc, SpaceMapMethod):
    """ESM-GBC: overlap of the target's classes under each source's space map.

    As ``gbc``, with map_s(F) in place of the features of the source's model:

        score = - sum over c != c' of exp(-D(c, c')),

    D being the Bhattacharyya distance of two classes, each taken for a spherical Gaussian, after
    PCA to 64 dimensions. A map that stretches what its source had to tell apart moves class
    means against the spread within classes.

    *Options.* ``covariance``, ``components``.

    *Cost.* One forward pass over the target's texts, shared; then some 25 ms per source at 384
    dimensions, most of it PCA.

    *Fails* as ``gbc`` does: classes that are no Gaussians, and pairs that coincide decide alone.
    Classification only.

    *Reference.* Maps: Schulte et al. 2024 (arXiv 2410.15148); GBC: Pándy et al. 2022. The
    combination is ours.
    """

    name = "esm-gbc"
    paper = "Schulte et al. 2024; Pándy et al. 2022"


class SpaceMapParc(_Parc, SpaceMapMethod):
    """ESM-PARC: distances against labels, under each source's space map.

    As ``parc``, with map_s(F) in place of the features of the source's model:

        score = Spearman( 1 - Pearson(f_i, f_j), [y_i != y_j] )   over all pairs of 500 texts.

    Every dimension is brought to variance 1 after the map, which undoes stretching along single
    dimensions; what a map mixes between dimensions stays.

    *Options.* ``rows``, ``standardise``, ``seed``.

    *Cost.* One forward pass over the target's texts, shared; then some 40 ms per source.

    *Fails* as ``parc`` does: a label that is one direction among many moves distances little.
    ``standardise=False`` lets the map count for more. Classification only.

    *Reference.* Maps: Schulte et al. 2024 (arXiv 2410.15148); PARC: Bolya et al. 2021. The
    combination is ours.
    """

    name = "esm-parc"
    paper = "Schulte et al. 2024; Bolya et al. 2021"


class SpaceMapKnn(_Knn, SpaceMapMethod):
    """ESM-kNN: nearest neighbours under each source's space map.

    As ``knn``, with map_s(F) in place of the features of the source's model: the share of the
    target's texts whose k = 3 nearest other texts have their label by majority; for regression
    the Pearson correlation with the neighbours' mean. A map that stretches directions in which
    labels differ brings texts of one label together.

        score = (1/n) sum_i [ majority label of the neighbours of i is y_i ]

    *Options.* ``k``, ``metric``.

    *Cost.* One forward pass over the target's texts, shared; then some 40 ms per source at 1,000
    texts, growing with their square.

    *Fails* as ``knn`` does, and ties often: most maps leave most texts their neighbours, and the
    score moves in steps of one text.

    *Reference.* Maps: Schulte et al. 2024 (arXiv 2410.15148); kNN: Puigcerver et al. 2021. The
    combination is ours.
    """

    name = "esm-knn"
    paper = "Schulte et al. 2024; Puigcerver et al. 2021"


class SpaceMapLinearProbe(_LinearProbe, SpaceMapMethod):
    """ESM linear probe: a cross-validated linear head under each source's space map.

    As ``linear-probe``, with map_s(F) in place of the features of the source's model: five
    folds, logistic regression or ridge,

        score = accuracy (or mean correlation) of the out-of-fold predictions.

    A head trained to its end can undo any invertible map; what remains is how the map moves the
    head's penalty, the less the more texts there are.

    *Options.* ``folds``, ``strength``, ``seed``.

    *Cost.* One forward pass over the target's texts, shared; then five heads, tenths of a second
    per source.

    *Fails* for the reason above: with many texts all maps score alike. ``esm-logme`` asks much
    the same question without folds, a hundred times faster, and charges for the freedom to fit.

    *Reference.* Maps: Schulte et al. 2024 (arXiv 2410.15148); probes: Poth et al. 2021. The
    combination is ours.
    """

    name = "esm-linear-probe"
    paper = "Schulte et al. 2024; Poth et al. 2021"


class SpaceMapFrozenTransfer(_FrozenTransfer, SpaceMapMethod):
    """ESM frozen transfer: a fresh head trained for three epochs under each source's space map.

    As ``frozen-transfer``, with map_s(F) in place of the features of the source's model: the
    published recipe (AdamW, 2e-5, three epochs) on four fifths of the target's texts,

        score = accuracy (or mean correlation) on the last fifth,

    with the same held-out texts, head, order and dropout for all sources.

    *Options.* ``epochs``, ``learning_rate``, ``batch_size``, ``seed``.

    *Cost.* One forward pass over the target's texts, shared; then some 50 ms per source.

    *Fails* as ``frozen-transfer`` does: at the published learning rate the head stays nearly
    random; ``learning_rate=0.01`` trains one.

    *Reference.* Schulte et al. 2024 (arXiv 2410.15148) for maps and for frozen transfer. The
    combination is ours.
    """

    name = "esm-frozen-transfer"
    paper = "Schulte et al. 2024"


METHODS: dict[str, Factory] = {
    m.name: m
    for m in (
        LayeredMapLogME,
        SpaceMapLogME,
        LogME,
        SpaceMapHScore,
        HScore,
        SpaceMapLeep,
        Leep,
        SpaceMapNce,
        Nce,
        SpaceMapNLeep,
        NLeep,
        SpaceMapTransRate,
        TransRate,
        SpaceMapGbc,
        Gbc,
        SpaceMapParc,
        Parc,
        SpaceMapKnn,
        Knn,
        SpaceMapLinearProbe,
        LinearProbe,
        SpaceMapFrozenTransfer,
        FrozenTransfer,
    )
}
