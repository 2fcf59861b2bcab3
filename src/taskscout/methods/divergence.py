"""Divergences between domains: over terms, over topics, over embeddings.

None of them looks at a label, of the target or of the source, so they serve targets that have
none. They say how alike two tasks' *texts* are, not how alike the tasks are. A score is minus
the divergence. The mathematics is in :mod:`taskscout.methods.measures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods import measures
from taskscout.methods.descriptions import (
    EXAMPLES,
    SAMPLE,
    SAMPLE_ROWS,
    TERMS,
    TEXTS,
    describe_sample,
    describe_terms,
    embedded,
    once,
    sample_of,
    term_counts,
    unit_rows,
    vocabulary_fingerprint,
)
from taskscout.methods.method import BaseMethod, Cost, Description, Factory
from taskscout.methods.topics import TopicModel, digest, fingerprint_of
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task

Array = NDArray[np.float64]

MOMENTS = "moments"
#: Topics where nothing else is asked for.
TOPICS = 20

#: Numbers of one array held at a time while sources are compared (32 MB in float64).
_NUMBERS = 2**22


def _batches(
    sources: Sequence[Description], head: str, value: str, numbers: int
) -> Iterator[tuple[list[int], list[Description]]]:
    """Positions and descriptions whose header has a value, each read once, some at a time."""
    most = max(1, _NUMBERS // numbers)
    at: list[int] = []
    batch: list[Description] = []
    for i in range(len(sources)):
        source = sources[i]
        if source.header.get(head) == value:
            at.append(i)
            batch.append(source)
        if len(batch) == most:
            yield at, batch
            at, batch = [], []
    if batch:
        yield at, batch


# -- over terms -----------------------------------------------------------------------------


class TermDivergence(BaseMethod):
    """What all divergences over term distributions share.

    Parameters
    ----------
    smoothing
        Share of the uniform distribution that is mixed into every term distribution.
    """

    key = TERMS
    cost: Cost = "words"
    #: The measure, of p (V) and q (S × V).
    measure: ClassVar[Callable[[Array, Array], Array]]

    def __init__(self, *, smoothing: float = 0.01) -> None:
        self.smoothing = _share(smoothing, "smoothing", self.name)

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Count the terms of the source's training texts."""
        return describe_terms(source, bench, TEXTS)

    def divergence(self, p: Array, q: Array) -> Array:
        """Compute the divergence of each source (q, S × V) from the target (p, V)."""
        return type(self).measure(p, q)

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Minus the divergence; NaN for counts of another tokenizer or truncation."""
        p = measures.smoothed(term_counts(self.describe(target, bench)), self.smoothing)
        out = np.full(len(sources), np.nan)
        fingerprint = vocabulary_fingerprint(bench)
        for at, batch in _batches(sources, "vocabulary", fingerprint, len(p)):
            counts = np.stack([term_counts(s) for s in batch])
            out[at] = -self.divergence(p, measures.smoothed(counts, self.smoothing))
        return out


class TopicDivergence(TermDivergence):
    """What all divergences over topic distributions share.

    Parameters
    ----------
    smoothing
        Share of the uniform distribution that is mixed into every topic distribution.
    topics
        Number of topics; 20 unless the model says otherwise.
    seed
        Of the fit; 0 unless the model says otherwise.
    model
        A topic model, or a file that ``TopicModel.save`` wrote; None to fit one over the
        sources that are ranked, once per workbench.
    pool_model
        The file that a pool keeps, which a ranking gives: read in place of fitting, unless it
        has other topics, another seed or another tokenizer than asked for.
    """

    def __init__(
        self,
        *,
        smoothing: float = 0.01,
        topics: int | None = None,
        seed: int | None = None,
        model: TopicModel | str | Path | None = None,
        pool_model: str | Path | None = None,
    ) -> None:
        super().__init__(smoothing=smoothing)
        if topics is not None and topics < 2:
            raise MethodError(
                f"{self.name} was asked for {topics} topics.",
                "With one topic all tasks are alike.",
                "Ask for two or more.",
            )
        self.topics = topics
        self.seed = seed
        self.model = model
        self.pool_model = pool_model

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Minus the divergence; NaN for counts of another tokenizer or truncation.

        Raises
        ------
        MethodError
            If a topic model was given that cannot be read, or knows another tokenizer.
        """
        out = np.full(len(sources), np.nan)
        fingerprint = vocabulary_fingerprint(bench)
        fitting = [
            (i, s) for i, s in enumerate(sources) if s.header.get("vocabulary") == fingerprint
        ]
        if not fitting:
            return out
        described = [s for _, s in fitting]
        model, mixtures = self._mixtures(described, fingerprint, bench)
        own = model.mixtures(term_counts(self.describe(target, bench))[None])[0]
        p = measures.smoothed(own, self.smoothing)
        out[[i for i, _ in fitting]] = -self.divergence(
            p, measures.smoothed(mixtures, self.smoothing)
        )
        return out

    def _mixtures(
        self, sources: Sequence[Description], fingerprint: str, bench: Workbench
    ) -> tuple[TopicModel, Array]:
        """Get the topic model and the sources' topic shares, S × K; the workbench keeps both."""
        given = self._pool_model(fingerprint, bench) if self.model is None else self.model
        which = str(given) if isinstance(given, str | Path) else id(given)
        content = fingerprint_of(sources)

        def fit() -> TopicModel:
            if given is None:
                return TopicModel.fit(sources, topics=self.topics or TOPICS, seed=self.seed or 0)
            model = given if isinstance(given, TopicModel) else TopicModel.read(given)
            if model.vocabulary != fingerprint:
                raise MethodError(
                    f"{self.name} was given a topic model of another tokenizer or truncation.",
                    "Its topics are over other token ids than those counted here.",
                    "Give one fitted with this encoder, or none: then one is fitted.",
                )
            return model

        fitted = ("topics", content if given is None else which, self.topics, self.seed)
        model: TopicModel = bench.once(fitted, fit)

        def mix() -> dict[bytes, Array]:
            return {digest(s): model.shares(s) for s in sources}

        rows: dict[bytes, Array] = bench.once((*fitted, "mixtures", content), mix)
        return model, np.stack([rows[digest(s)] for s in sources])

    def _pool_model(self, fingerprint: str, bench: Workbench) -> TopicModel | None:
        """Read the pool's model; None where there is none, or not what was asked for."""
        path = self.pool_model
        if path is None:
            return None
        model: TopicModel = bench.once(("topics", str(path)), lambda: TopicModel.read(path))
        fits = (
            model.vocabulary == fingerprint
            and self.topics in (None, model.topics)
            and self.seed in (None, model.seed)
        )
        return model if fits else None


def _share(value: float, what: str, method: str) -> float:
    if not 0.0 <= value < 1.0:
        raise MethodError(
            f"{method} was given {what} {value}.",
            "It is a share, 0 or more and less than 1.",
            f"Give a {what} such as 0.01.",
        )
    return value


@dataclass(frozen=True)
class _Entry:
    """One measure of distributions, and what a user has to know about it."""

    suffix: str
    title: str
    formula: str
    remark: str
    measure: Callable[[Array, Array], Array]
    reference: str
    #: A measure that gives the same order, whose name finds this one.
    same_order: str = ""


_OVER_TERMS = """Cost: the target's texts are tokenized and counted, no forward pass; a source is
compared in a fraction of a millisecond. A source keeps its counts, about 20 KB.

It fails where tasks differ and texts do not: sentiment and topic of the same reviews have the
same terms. It is a good filter for the worst sources and a weak ranker among related ones.
Small targets have noisy term distributions; below some fifty texts prefer embeddings."""

_TERMS = """p and q are the target's and the source's distributions over the token ids of the
encoder's tokenizer, from at most 10,000 training texts each, special tokens left out, each mixed
with 1% of the uniform distribution (option ``smoothing``)."""

_OVER_TOPICS = """Cost: a pool can keep one topic model, fitted over the term counts of its
sources, as the built-in one does (``taskscout pool describe --method topics-kl``); without it, or
with other ``topics`` or ``seed``, one is fitted over the ranked sources when the workbench first
needs it (some seconds for a hundred). The target is described under it in milliseconds. A source
keeps its term counts.

It fails where the pool is small: topics are then single sources. Scores depend on the sources that
the topics were fitted on; give a file of one's own as ``model`` to choose them. As with terms, it
sees what texts are about, not what is asked about them."""

_TOPICS = """p and q are the target's and the source's shares of K topics (option ``topics``, 20),
of one latent Dirichlet allocation fitted with each source's term counts as one document of
10,000 tokens; shares are mixed with 1% of the uniform distribution (option ``smoothing``)."""

_PAPER = "Pugantsov and McCreadie 2023"
_SURVEY = "Kashyap et al. 2021 (arXiv 2010.12198) survey such measures"

_ENTRIES = (
    _Entry(
        "kl",
        "Kullback-Leibler divergence of the source from the target",
        "D = sum p log(p / q)",
        "What coding the target's words with the source's distribution costs beyond their own. "
        "It asks whether the source covers the target; what else the source holds matters little.",
        measures.kl,
        "Kullback and Leibler 1951",
    ),
    _Entry(
        "kl-reverse",
        "Kullback-Leibler divergence of the target from the source",
        "D = sum q log(q / p)",
        "The other direction: it asks whether the target covers the source, and so prefers "
        "narrow sources inside the target's domain over broad ones that contain it.",
        measures.kl_reverse,
        "Kullback and Leibler 1951",
    ),
    _Entry(
        "jensen-shannon",
        "Jensen-Shannon divergence",
        "D = KL(p, m) / 2 + KL(q, m) / 2, m = (p + q) / 2",
        "Symmetric, between 0 and log 2, and the least sensitive to smoothing of its kind: the "
        "first to try.",
        measures.jensen_shannon,
        "Lin 1991; for choosing domains: Ruder and Plank 2017",
    ),
    _Entry(
        "renyi",
        "Renyi divergence",
        "D = log(sum p^a q^(1 - a)) / (a - 1), a = 0.99 (option ``alpha``)",
        "Close to ``kl`` at 0.99, and finite where the source lacks a term; smaller orders "
        "look more at shared terms than at missing ones.",
        measures.renyi,
        "Renyi 1961; order 0.99 for domains: Van Asch and Daelemans 2010",
    ),
    _Entry(
        "hellinger",
        "Hellinger distance",
        "D = sqrt(1 - sum sqrt(p q))",
        "Symmetric, between 0 and 1. Rare terms count for more than in ``total-variation`` and "
        "for less than in ``kl``. The Bhattacharyya distance, -log sum sqrt(p q), gives the same "
        "order and is another name of this method.",
        measures.hellinger,
        "Hellinger 1909; as a distance of its own Bhattacharyya 1943",
        "bhattacharyya",
    ),
    _Entry(
        "total-variation",
        "total variation",
        "D = sum |p - q| / 2",
        "Symmetric, between 0 and 1: the share of one text that would have to be replaced. "
        "Frequent terms decide it. The Manhattan distance is twice this, gives the same order and "
        "is another name of this method.",
        measures.total_variation,
        "Kashyap et al. 2021",
        "manhattan",
    ),
    _Entry(
        "cosine",
        "cosine distance",
        "D = 1 - p·q / (|p| |q|)",
        "Symmetric. The few most frequent terms decide it almost alone.",
        measures.cosine,
        "Salton 1975",
    ),
    _Entry(
        "euclidean",
        "Euclidean distance",
        "D = sqrt sum (p - q)²",
        "Symmetric. The few most frequent terms decide it almost alone, and a peaked "
        "distribution is far from everything.",
        measures.euclidean,
        "Kashyap et al. 2021",
    ),
)


def _text(entry: _Entry, over: str, what: str, rest: str, parameters: str) -> str:
    """Compose what ``taskscout methods NAME`` shows."""
    title = entry.title[0].upper() + entry.title[1:]
    reference = (
        f"Reference: {entry.reference}. {_SURVEY}; Pugantsov and McCreadie 2023 (arXiv "
        "2302.05735) choose source tasks for targets without labels by them."
    )
    return (
        f"{title}, over {over}.\n\n    {entry.formula}, score = -D\n\n"
        + "\n\n".join(
            fill(part, 96) for part in (what, entry.remark, *rest.split("\n\n"), reference)
        )
        + f"\n\nParameters\n----------\n{parameters}"
    )


def _parameters(base: type[TermDivergence], extra: str = "") -> str:
    lines = (base.__doc__ or "").partition("----------\n")[2]
    return "\n".join(line.removeprefix("    ") for line in lines.rstrip().splitlines()) + extra


class _TermRenyi(TermDivergence):
    __doc__ = TermDivergence.__doc__

    def __init__(self, *, smoothing: float = 0.01, alpha: float = 0.99) -> None:
        super().__init__(smoothing=smoothing)
        self.alpha = _order(alpha, self.name)

    def divergence(self, p: Array, q: Array) -> Array:
        return measures.renyi(p, q, self.alpha)


class _TopicRenyi(TopicDivergence):
    __doc__ = TopicDivergence.__doc__

    def __init__(
        self,
        *,
        smoothing: float = 0.01,
        topics: int | None = None,
        seed: int | None = None,
        model: TopicModel | str | Path | None = None,
        pool_model: str | Path | None = None,
        alpha: float = 0.99,
    ) -> None:
        super().__init__(
            smoothing=smoothing, topics=topics, seed=seed, model=model, pool_model=pool_model
        )
        self.alpha = _order(alpha, self.name)

    def divergence(self, p: Array, q: Array) -> Array:
        return measures.renyi(p, q, self.alpha)


def _order(alpha: float, method: str) -> float:
    if not 0.0 < alpha <= 1.0:
        raise MethodError(
            f"{method} was given alpha {alpha}.",
            "The order is more than 0 and at most 1.",
            "Give an alpha such as 0.99.",
        )
    return alpha


def _class(entry: _Entry, prefix: str) -> type[TermDivergence]:
    """Make the method of one measure over one representation."""
    renyi = entry.suffix == "renyi"
    base: type[TermDivergence]
    if prefix == "terms":
        base = _TermRenyi if renyi else TermDivergence
        what, rest = _TERMS, _OVER_TERMS
    else:
        base = _TopicRenyi if renyi else TopicDivergence
        what, rest = _TOPICS, _OVER_TOPICS
    alpha = "\nalpha\n    Order; 1 is ``kl``." if renyi else ""
    name = f"{prefix}-{entry.suffix}"
    return type(
        "".join(part.capitalize() for part in name.split("-")),
        (base,),
        {
            "name": name,
            "paper": _PAPER,
            "aliases": (f"{prefix}-{entry.same_order}",) if entry.same_order else (),
            "measure": staticmethod(entry.measure),
            "__doc__": _text(entry, prefix, what, rest, _parameters(base, alpha)),
            "__module__": __name__,
        },
    )


# -- over embeddings ------------------------------------------------------------------------


def describe_moments(
    task: Task, bench: Workbench, rank: int | None = 24, examples: int = EXAMPLES
) -> Description:
    """Take the moments of a task's unit embeddings.

    Returns
    -------
    Arrays ``mean`` (d, float32), ``central`` (central moments 2 … 5 of every dimension, 4 × d,
    float32) and ``factor`` (d × r, float16): the leading r principal axes times their standard
    deviations. Together they give the covariance with its diagonal exact and its other entries
    to rank r (:func:`covariance_of`); with ``rank`` None all d axes are kept, and it is exact.
    """

    def make() -> Description:
        x = unit_rows(embedded(task, bench, examples))
        mean = x.mean(0)
        values, vectors = np.linalg.eigh((x - mean).T @ (x - mean) / len(x))
        leading = slice(None, None, -1) if rank is None else slice(-1, -rank - 1, -1)
        factor = (vectors * np.sqrt(np.maximum(values, 0.0)))[:, leading]
        header = {"encoder": bench.encoder.fingerprint, "rows": len(x), "rank": factor.shape[1]}
        arrays = {
            "mean": mean.astype(np.float32),
            "central": measures.central_moments(x).astype(np.float32),
            "factor": factor.astype(np.float16),
        }
        return Description(MOMENTS, task.name, header, arrays)

    return once(bench, task, (MOMENTS, rank, examples), make)


def covariance_of(description: Description, rank: int | None = None) -> Array:
    """Rebuild the covariance of unit embeddings, d × d: diagonal exact, the rest of rank r.

    Parameters
    ----------
    rank
        r; None for as many axes as the description holds.
    """
    factor = description.arrays["factor"][:, :rank].astype(np.float64)
    variance = description.arrays["central"][0].astype(np.float64)
    out = factor @ factor.T
    out[np.diag_indices_from(out)] = np.maximum(variance, np.diag(out))
    return out


class EmbeddingDivergence(BaseMethod):
    """What all divergences over embeddings share."""

    cost: Cost = "embedding"
    paper = _PAPER

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Minus the divergence; NaN for embeddings of another encoder or pooling."""
        own = self._own(target, bench)
        out = np.full(len(sources), np.nan)
        numbers = self._numbers(bench.encoder.dimension)
        for at, batch in _batches(sources, "encoder", bench.encoder.fingerprint, numbers):
            out[at] = -self._divergences(own, batch)
        return out

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Describe the source's embeddings."""
        raise NotImplementedError

    def _own(self, target: Task, bench: Workbench) -> Description:
        return self.describe(target, bench)

    def _divergences(self, own: Description, sources: Sequence[Description]) -> Array:
        raise NotImplementedError

    def _numbers(self, dimension: int) -> int:
        """Numbers that one source takes while it is compared."""
        raise NotImplementedError


class MomentDivergence(EmbeddingDivergence):
    """What all divergences between moments of embeddings share."""

    key = MOMENTS
    #: Axes of the covariance that are kept; None for all.
    rank: int | None = 24

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Take the moments of the source's unit embeddings."""
        return describe_moments(source, bench, self.rank)

    def _numbers(self, dimension: int) -> int:
        return 8 * dimension


class _Means(MomentDivergence):
    def _divergences(self, own: Description, sources: Sequence[Description]) -> Array:
        means = np.stack([s.arrays["mean"] for s in sources]).astype(np.float64)
        return self.divergence(own.arrays["mean"].astype(np.float64), means)

    def divergence(self, mean: Array, means: Array) -> Array:
        """Compute the divergence of each source's mean (S × d) from the target's (d)."""
        raise NotImplementedError


class EmbeddingsEuclidean(_Means):
    """Euclidean distance between mean embeddings.

        D = |m1 - m2|, score = -D

    m1 and m2 are the means of the unit embeddings of at most 3,000 training texts of the target
    and the source. It is the maximum mean discrepancy under a linear kernel.

    Cost: one forward pass over the target's texts, shared with every other method that reads
    its embeddings; a source is compared in microseconds. A source keeps its moments, 26 KB at
    384 dimensions.

    Beside what ``sentence-embedding`` sees, the length of a mean matters: it is short for a
    broad domain, so broad sources lie nearer to everything. It fails where two domains have one
    centre and different spread.

    Reference: Kashyap et al. 2021 (arXiv 2010.12198); Pugantsov and McCreadie 2023 (arXiv
    2302.05735).
    """

    name = "embeddings-euclidean"

    def divergence(self, mean: Array, means: Array) -> Array:
        """Euclidean distance."""
        return measures.euclidean(mean, means)


class EmbeddingsCmd(MomentDivergence):
    """Central moment discrepancy of order 5.

        D = |m1 - m2| / w + sum over k = 2 … 5 of |c_k1 - c_k2| / w^k, score = -D

    m is the mean of the unit embeddings of at most 3,000 training texts, c_k their k-th central
    moment, dimension by dimension, and w the width of an interval that holds every coordinate.
    Coordinates of unit vectors lie in [-1, 1], so w is 2; a smaller ``span`` gives the higher
    moments more weight.

    Cost: one forward pass over the target's texts, shared with every other method that reads
    its embeddings; a source is compared in microseconds. A source keeps its moments, 26 KB at
    384 dimensions, and the value is exact.

    With w = 2 the mean decides: in hundreds of dimensions coordinates are far smaller than 1.
    It fails where domains differ in how dimensions go together, which it does not look at
    (``embeddings-coral`` does).

    Reference: Zellinger et al. 2017 (arXiv 1702.08811).

    Parameters
    ----------
    span
        w.
    """

    name = "embeddings-cmd"

    def __init__(self, *, span: float = 2.0) -> None:
        if not span > 0:
            raise MethodError(
                f"{self.name} was given span {span}.",
                "It is the width of an interval.",
                "Give a number above 0; 2 holds every coordinate of a unit vector.",
            )
        self.span = span

    def _divergences(self, own: Description, sources: Sequence[Description]) -> Array:
        mean, central = (own.arrays[a].astype(np.float64) for a in ("mean", "central"))
        means, centrals = (
            np.stack([s.arrays[a] for s in sources]).astype(np.float64) for a in ("mean", "central")
        )
        return measures.cmd(mean, central, means, centrals, span=self.span)


class _Covariances(MomentDivergence):
    """Parameters as documented by the classes below."""

    def __init__(self, *, rank: int | None = 24) -> None:
        if rank is not None and rank < 1:
            raise MethodError(
                f"{self.name} was given rank {rank}.",
                "At least one axis of the covariance is kept.",
                "Give a rank of 1 or more, or None for all.",
            )
        self.rank = rank

    def _numbers(self, dimension: int) -> int:
        return dimension**2

    def _own(self, target: Task, bench: Workbench) -> Description:
        # All axes: each source is compared at its own rank, so that both leave out the same.
        return describe_moments(target, bench, None)

    def divergence(
        self, own: Description, covariance: Array, sources: Sequence[Description], others: Array
    ) -> Array:
        """Compute the divergences, given covariances at one rank."""
        raise NotImplementedError

    def _divergences(self, own: Description, sources: Sequence[Description]) -> Array:
        ranks = np.array([s.header["rank"] for s in sources])
        out = np.empty(len(sources))
        for rank in np.unique(ranks):
            at = np.flatnonzero(ranks == rank).tolist()
            batch = [sources[i] for i in at]
            others = np.stack([covariance_of(s) for s in batch])
            out[at] = self.divergence(own, covariance_of(own, int(rank)), batch, others)
        return out


class EmbeddingsCoral(_Covariances):
    """Distance between covariances of embeddings (CORAL).

        D = |C1 - C2|² / (4 d²) in Frobenius norm, score = -D

    C1 and C2 are the covariances (d × d) of the unit embeddings of at most 3,000 training texts
    of the target and the source: which directions texts vary in, wherever their centre is.

    Cost: one forward pass over the target's texts, shared with every other method that reads
    its embeddings; about 1 ms per source. A full covariance would take 148 KB per source in
    half precision, so a source keeps its variances exactly and the rest to rank 24 (26 KB with
    the other moments). Over 18 tasks this kept the order of the exact values to a Spearman
    correlation of 0.99; 100 stored embeddings kept it to 0.78. ``rank`` None keeps all.

    It fails where domains differ in their centre only.

    Reference: Sun and Saenko 2016 (arXiv 1607.01719).

    Parameters
    ----------
    rank
        Principal axes kept by ``describe``; None for all, which is exact.
    """

    name = "embeddings-coral"

    def divergence(
        self,
        own: Description,  # noqa: ARG002
        covariance: Array,
        sources: Sequence[Description],  # noqa: ARG002
        others: Array,
    ) -> Array:
        """Squared distance of covariances."""
        return measures.coral(covariance, others)


class EmbeddingsFrechet(_Covariances):
    """Frechet distance between Gaussians fitted to embeddings.

        D = |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), score = -D

    m and C are mean and covariance of the unit embeddings of at most 3,000 training texts of
    the target and the source. It is the squared Wasserstein-2 distance of the two Gaussians;
    under the name FID it judges generated images.

    Cost: one forward pass over the target's texts, shared with every other method that reads
    its embeddings; then one eigenvalue problem of size d per source, some 12 ms at 384
    dimensions. A full covariance would take 148 KB per source, so a source keeps its variances
    exactly and the rest to rank 24 (26 KB with the other moments). Over 18 tasks this kept the
    order of the exact values to a Spearman correlation of 0.95; 100 stored embeddings kept it
    to 0.88. ``rank`` None keeps all.

    It fails for small targets: with fewer texts than dimensions the covariance is poor, and D
    is too large for all sources, more so for broad ones.

    Reference: Dowson and Landau 1982; Heusel et al. 2017 (arXiv 1706.08500).

    Parameters
    ----------
    rank
        Principal axes kept by ``describe``; None for all, which is exact.
    """

    name = "embeddings-frechet"

    def divergence(
        self, own: Description, covariance: Array, sources: Sequence[Description], others: Array
    ) -> Array:
        """Squared Wasserstein-2 distance of the Gaussians."""
        means = np.stack([s.arrays["mean"] for s in sources]).astype(np.float64)
        return measures.frechet(own.arrays["mean"].astype(np.float64), covariance, means, others)


class SampleDivergence(EmbeddingDivergence):
    """What all divergences between samples of embeddings share.

    Parameters
    ----------
    rows
        Texts per task.
    """

    key = SAMPLE

    def __init__(self, *, rows: int = SAMPLE_ROWS) -> None:
        self.rows = _rows(rows, self.name)

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Draw a sample of the source's unit embeddings."""
        return describe_sample(source, bench, self.rows)

    def divergence(self, x: Array, y: Array) -> Array:
        """Compute the divergence of each source's sample (S × k × d) from the target's (m × d)."""
        raise NotImplementedError

    def _divergences(self, own: Description, sources: Sequence[Description]) -> Array:
        x = sample_of(own)[: self.rows]
        sizes = np.array([min(len(s.arrays["rows"]), self.rows) for s in sources])
        out = np.empty(len(sources))
        for size in np.unique(sizes):  # samples of one size are stacked
            at = np.flatnonzero(sizes == size).tolist()
            out[at] = self.divergence(x, np.stack([sample_of(sources[i])[:size] for i in at]))
        return out

    def _numbers(self, dimension: int) -> int:
        return self.rows * max(dimension, 2 * self.rows)


def _rows(rows: int, method: str) -> int:
    if rows < 2:
        raise MethodError(
            f"{method} was given {rows} rows per task.",
            "A sample has two texts or more.",
            f"Give more; {SAMPLE_ROWS} is the default.",
        )
    return rows


class EmbeddingsWasserstein(SampleDivergence):
    """Wasserstein-1 distance, dimension by dimension.

        D = mean over dimensions of the area between the two quantile functions, score = -D

    The two samples are the unit embeddings of 100 training texts each of the target and the
    source. In one dimension optimal transport is sorting, so D is exact for the samples.

    Cost: one forward pass over the target's texts, shared with every other method that reads
    its embeddings; under a millisecond per source. A source keeps its sample, 39 KB at 384
    dimensions.

    It fails where domains differ in how dimensions go together and not in any one of them; see
    ``embeddings-sliced-wasserstein``. A sample of 100 leaves some chance: between two draws the
    order of 17 sources kept a Spearman correlation of 0.96.

    Reference: Kashyap et al. 2021 (arXiv 2010.12198) and Pugantsov and McCreadie 2023 (arXiv
    2302.05735) for domains; Villani 2009 for the distance.

    Parameters
    ----------
    rows
        Texts per task.
    """

    name = "embeddings-wasserstein"

    def divergence(self, x: Array, y: Array) -> Array:
        """Mean over dimensions."""
        return measures.wasserstein_1d(x, y)


class EmbeddingsSlicedWasserstein(SampleDivergence):
    """Wasserstein-1 distance along random directions.

        D = mean over directions v of W1(x·v, y·v), score = -D

    x and y are the unit embeddings of 100 training texts each of the target and the source;
    the directions are 256 random unit vectors, the same for all tasks (option ``seed``). Unlike
    the distance dimension by dimension it does not depend on the axes, and it sees how
    dimensions go together.

    Cost: one forward pass over the target's texts, shared with every other method that reads
    its embeddings; about a millisecond per source. A source keeps its sample, 39 KB at 384
    dimensions.

    It fails where domains differ along few directions: the others average that away. A sample
    of 100 leaves some chance: between two draws the order of 17 sources kept a Spearman
    correlation of 0.96.

    Reference: Rabin et al. 2012; Bonneel et al. 2015.

    Parameters
    ----------
    rows
        Texts per task.
    directions
        Number of directions.
    seed
        Of the directions.
    """

    name = "embeddings-sliced-wasserstein"

    def __init__(self, *, rows: int = SAMPLE_ROWS, directions: int = 256, seed: int = 0) -> None:
        super().__init__(rows=rows)
        self.directions = directions
        self.seed = seed

    def divergence(self, x: Array, y: Array) -> Array:
        """Mean over directions."""
        v = measures.directions(x.shape[1], self.directions, self.seed)
        return measures.wasserstein_1d(x @ v, y @ v)


class EmbeddingsSinkhorn(SampleDivergence):
    """Entropic optimal transport between samples of embeddings.

        OT(x, y) = min over plans P of sum P |x - y| + e KL(P | uniform)
        D = OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2, score = -D

    x and y are the unit embeddings of 100 training texts each of the target and the source; P
    says how much of each source text moves to each target text. The two last terms take out
    what the entropy alone adds, so D is 0 between equals (``debiased=False`` gives the cost of
    the plan instead, as ``ot.sinkhorn2`` of POT does). e is ``epsilon``; distances of unit
    vectors lie between 0 and 2.

    Cost: one forward pass over the target's texts, shared with every other method that reads
    its embeddings; some 20 ms per source for Sinkhorn's iterations. A source keeps its sample,
    39 KB at 384 dimensions.

    It sees whether every target text has a source text near it and the other way round. It
    fails in high dimension with few texts: every text is then nearest to itself by far, the
    two last terms hardly differ between sources, and D is the cost of transport less a
    constant; with ``epsilon`` 0.5 or more they tell, and D comes near a discrepancy of means.
    Between two draws of 100 texts the order of 17 sources kept a Spearman correlation of 0.94.

    Reference: Cuturi 2013 (arXiv 1306.0895); Feydy et al. 2019 (arXiv 1810.08278).

    Parameters
    ----------
    rows
        Texts per task.
    epsilon
        Strength of the entropy.
    debiased
        Whether the two own terms are taken off.
    """

    name = "embeddings-sinkhorn"

    def __init__(
        self, *, rows: int = SAMPLE_ROWS, epsilon: float = 0.1, debiased: bool = True
    ) -> None:
        super().__init__(rows=rows)
        if not epsilon >= 0.005:
            raise MethodError(
                f"{self.name} was given epsilon {epsilon}.",
                "Below 0.005 the iterations underflow.",
                "Give 0.005 or more; 0.1 is the default.",
            )
        self.epsilon = epsilon
        self.debiased = debiased

    def divergence(self, x: Array, y: Array) -> Array:
        """Sinkhorn divergence, or the cost of the plan."""
        return measures.sinkhorn_divergence(x, y, self.epsilon, debiased=self.debiased)


class EmbeddingsMmd(SampleDivergence):
    """Maximum mean discrepancy with a Gaussian kernel.

        D = mean k(x, x') + mean k(y, y') - 2 mean k(x, y), score = -D
        k(a, b) = exp(-|a - b|² / (2 s²))

    x and y are the unit embeddings of 100 training texts each of the target and the source; s
    is the median distance between two texts of both samples together. D is 0 exactly where the
    distributions agree: unlike the distance of means it sees every difference, given enough
    texts.

    Cost: one forward pass over the target's texts, shared with every other method that reads
    its embeddings; about a millisecond per source. A source keeps its sample, 39 KB at 384
    dimensions.

    It fails where the difference is far finer than s (``embeddings-mmd-multi`` looks at several
    scales), and s differs from source to source, so close scores of distant sources should not
    be compared. All pairs count, a text with itself too, which adds up to 2 / 100 to every D.
    Between two draws of 100 texts the order of 17 sources kept a Spearman correlation of 0.97.

    Reference: Gretton et al. 2012, JMLR 13.

    Parameters
    ----------
    rows
        Texts per task.
    """

    name = "embeddings-mmd"
    #: Bandwidths, in units of the median distance.
    factors: tuple[float, ...] = (1.0,)

    def divergence(self, x: Array, y: Array) -> Array:
        """Squared discrepancy."""
        return measures.mmd(x, y, self.factors)


class EmbeddingsMmdMulti(EmbeddingsMmd):
    """Maximum mean discrepancy with Gaussian kernels of several widths.

        D = mean k(x, x') + mean k(y, y') - 2 mean k(x, y), score = -D
        k(a, b) = mean over f in (1/4, 1/2, 1, 2, 4) of exp(-|a - b|² / (2 f² s²))

    x and y are the unit embeddings of 100 training texts each of the target and the source; s
    is the median distance between two texts of both samples together. Narrow kernels see
    whether texts have close neighbours on the other side, wide ones compare the means.

    Cost: one forward pass over the target's texts, shared with every other method that reads
    its embeddings; some milliseconds per source. A source keeps its sample, 39 KB at 384
    dimensions.

    It fails with few texts: the narrowest kernel then sees each text alone, which adds the same
    to every D. s differs from source to source, as for ``embeddings-mmd``.

    Reference: Gretton et al. 2012, JMLR 13; several widths as in Long et al. 2015 (arXiv
    1502.02791).

    Parameters
    ----------
    rows
        Texts per task.
    """

    name = "embeddings-mmd-multi"
    factors = (0.25, 0.5, 1.0, 2.0, 4.0)


class EmbeddingsADistance(SampleDivergence):
    """Proxy A-distance: how well a linear classifier tells the two domains apart.

        D = 2 (1 - 2 err), not below 0, score = -D

    err is the error, cross-validated in five parts, of a linear classifier that tells the unit
    embeddings of 100 training texts of the target from those of 100 of the source. The
    classifier is ridge regression, so every fit is in closed form and all sources are fitted at
    once. D is 2 where the classifier never errs and 0 where it does no better than chance.

    Cost: one forward pass over the target's texts, shared with every other method that reads
    its embeddings; about 5 ms per source. A source keeps its sample, 39 KB at 384 dimensions.

    It fails for distant sources: whatever can be told apart perfectly has D = 2, and they all
    tie; D moves in steps of 1 / 50. Between two draws of 100 texts the order of 17 sources kept
    a Spearman correlation of 0.70 only, the least of all divergences over embeddings. Good for
    asking whether a source is the target's own domain, which it never missed there.

    Reference: Ben-David et al. 2007; Blitzer et al. 2007.

    Parameters
    ----------
    rows
        Texts per task.
    penalty
        Ridge strength on the sum of squared errors.
    """

    name = "embeddings-a-distance"

    def __init__(self, *, rows: int = SAMPLE_ROWS, penalty: float = 1.0) -> None:
        super().__init__(rows=rows)
        if not penalty > 0:
            raise MethodError(
                f"{self.name} was given penalty {penalty}.",
                "Without one a classifier in more dimensions than texts is not defined.",
                "Give a number above 0; 1 is the default.",
            )
        self.penalty = penalty

    def divergence(self, x: Array, y: Array) -> Array:
        """Proxy A-distance; NaN where a task has one text."""
        return measures.a_distance(x, y, penalty=self.penalty)


METHODS: dict[str, Factory] = {
    **{f"terms-{e.suffix}": _class(e, "terms") for e in _ENTRIES},
    **{f"topics-{e.suffix}": _class(e, "topics") for e in _ENTRIES},
    "embeddings-euclidean": EmbeddingsEuclidean,
    "embeddings-wasserstein": EmbeddingsWasserstein,
    "embeddings-sliced-wasserstein": EmbeddingsSlicedWasserstein,
    "embeddings-sinkhorn": EmbeddingsSinkhorn,
    "embeddings-mmd": EmbeddingsMmd,
    "embeddings-mmd-multi": EmbeddingsMmdMulti,
    "embeddings-coral": EmbeddingsCoral,
    "embeddings-cmd": EmbeddingsCmd,
    "embeddings-frechet": EmbeddingsFrechet,
    "embeddings-a-distance": EmbeddingsADistance,
}
