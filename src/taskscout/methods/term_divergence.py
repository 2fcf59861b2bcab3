"""Divergences between domains, over terms and over topics.

None of them looks at a label, of the target or of the source, so they serve targets that have
none. They say how alike two tasks' *texts* are, not how alike the tasks are. A score is minus
the divergence. The mathematics is in :mod:`taskscout.methods.measures`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods import measures
from taskscout.methods.descriptions import (
    TERMS,
    TEXTS,
    batches,
    describe_terms,
    term_counts,
    vocabulary_fingerprint,
)
from taskscout.methods.method import BaseMethod, Cost, Description, Factory
from taskscout.methods.topics import TopicModel, digest, fingerprint_of
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task

Array = NDArray[np.float64]

#: Topics where nothing else is asked for.
TOPICS = 20


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
        for at, batch in batches(sources, "vocabulary", fingerprint, len(p)):
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


METHODS: dict[str, Factory] = {
    f"{over}-{entry.suffix}": _class(entry, over)
    for over in ("terms", "topics")
    for entry in _ENTRIES
}
