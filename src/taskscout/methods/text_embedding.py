"""Text embeddings: a task is the mean of its texts, or its texts one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.descriptions import (
    EXAMPLES,
    EXPERTS,
    SAMPLE,
    SAMPLE_ROWS,
    describe_experts,
    describe_sample,
    embedded_otherwise,
    expert_sample,
    once,
    pooled_otherwise,
    sample_of,
    unit_rows,
    unit_sample,
)
from taskscout.methods.embedding_divergence import MOMENTS, describe_moments
from taskscout.methods.method import BaseMethod, Cost, Description, Factory
from taskscout.models.encoder import Layers, Pooling
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task

#: Training texts, at most, where the forward pass serves this description alone. The mean of so
#: many lies within 1/30 of the texts' spread of the mean of all.
OWN_PASS = 1_000


def _cosines(mean: NDArray[np.floating], means: NDArray[np.floating]) -> NDArray[np.float64]:
    return unit_rows(means) @ unit_rows(mean)


class TextEmbedding(BaseMethod):
    """TextEmb: cosine of mean text embeddings.

        score = cos(m1, m2), m = mean over texts of the mean over tokens of the last layer

    m1 and m2 are taken over at most 3,000 training texts of the target and the source, under
    the untouched encoder. Padding does not count; the tokens of a pair are averaged together.

    Cost: one forward pass over the target's texts, shared with every other method that reads
    its embeddings where the encoder pools by the mean anyway, as the default one does. A source
    is compared in microseconds and keeps one vector, 1.5 KB at 384 dimensions.

    It sees domain and genre, and nothing of the labels: two tasks over the same texts score 1.
    It fails among sources of one domain, and with encoders whose embeddings all point the same
    way, where all cosines are near 1 and only their last digits tell.

    Reference: Vu et al. 2020 (arXiv 2005.00770), TextEmb. Their models are BERT; Lin et al. 2024
    and Poth et al. 2021 use it too.
    """

    name = "text-embedding"
    aliases = ("TextEmb",)
    key = "text-embedding"
    cost: Cost = "embedding"
    paper = "Vu et al. 2020"
    pooling: ClassVar[Pooling] = "mean"
    layers: ClassVar[Layers] = "last"
    #: Training texts, at most.
    examples: ClassVar[int] = EXAMPLES

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Average the embeddings of the source's training texts."""

        def make() -> Description:
            x = embedded_otherwise(source, bench, self.pooling, self.layers, self.examples)
            header = {"encoder": self._space(bench), "rows": len(x)}
            mean = x.mean(0, dtype=np.float64).astype(np.float32)
            return Description(self.key, source.name, header, {"mean": mean})

        return once(bench, source, (self.key,), make)

    def _space(self, bench: Workbench) -> str:
        return pooled_otherwise(bench, self.pooling, self.layers).encoder.fingerprint

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Cosine per source; NaN for means of another encoder."""
        own = self.describe(target, bench)
        return _cosines_of_means(own, sources)


def _cosines_of_means(own: Description, sources: Sequence[Description]) -> NDArray[np.float64]:
    out = np.full(len(sources), np.nan)
    known = [sources[i] for i in range(len(sources))]
    at = [i for i, s in enumerate(known) if s.header.get("encoder") == own.header["encoder"]]
    if at:
        out[at] = _cosines(own.arrays["mean"], np.stack([known[i].arrays["mean"] for i in at]))
    return out


class TextEmbeddingPooler(TextEmbedding):
    """TextEmb from the model's own pooler.

        score = cos(m1, m2), m = mean over texts of the pooler output

    The pooler is the dense layer with tanh over the first token that BERT models carry; m1 and
    m2 are taken over at most 1,000 training texts of the target and the source.

    Cost: one forward pass over the target's texts of its own, because the encoder pools
    otherwise; embeddings are cached like all others. A source is compared in microseconds and
    keeps one vector, 1.5 KB at 384 dimensions.

    It fails where the pooler was never trained for anything: that of sentence encoders such as
    the default one is a leftover of pre-training, and ``text-embedding`` is the better choice.
    Encoders without a pooler give an error.

    Reference: TextEmb as Schulte et al. 2024 (arXiv 2410.15148) compute it.
    """

    name = "text-embedding-pooler"
    key = "text-embedding-pooler"
    paper = "Schulte et al. 2024"
    pooling = "pooler"
    examples = OWN_PASS


class TextEmbeddingLayers(TextEmbedding):
    """TextEmb from the mean of all layers.

        score = cos(m1, m2), m = mean over texts, tokens and layers

    The embedding layer is left out; m1 and m2 are taken over at most 1,000 training texts of
    the target and the source. Lower layers hold form and words, upper ones what the model was
    trained for; the mean holds some of each.

    Cost: one forward pass over the target's texts of its own, because the encoder pools
    otherwise; embeddings are cached like all others. A source is compared in microseconds and
    keeps one vector, 1.5 KB at 384 dimensions.

    It fails as ``text-embedding`` does: it sees texts, not labels.

    Reference: TextEmb of Vu et al. 2020, with the layer mean that Garbaciauskas et al. 2024
    found to lift other transferability scores.
    """

    name = "text-embedding-layers"
    key = "text-embedding-layers"
    paper = "Vu et al. 2020; Garbaciauskas et al. 2024"
    layers = "mean"
    examples = OWN_PASS


class SentenceEmbedding(BaseMethod):
    """SEmb: cosine of mean sentence embeddings.

        score = cos(m1, m2), m = mean over texts of e / |e|

    e is the embedding of a text under the encoder's own pooling, scaled to unit length before
    it is averaged, so that every text counts the same; at most 3,000 training texts of the
    target and the source. The default encoder is a sentence encoder, which is what this method
    wants; with a plain language model it is little more than ``text-embedding``.

    Cost: one forward pass over the target's texts, shared with every other method that reads
    its embeddings. A source is compared in microseconds; it keeps its moments, 26 KB at 384
    dimensions, shared with divergences.

    In Poth et al. it was among the best methods, ahead of ones that train. It sees what texts
    are about, not what is asked about them, and fails among sources of one domain.

    Reference: Poth et al. 2021 (arXiv 2104.08247), SEmb.
    """

    name = "sentence-embedding"
    aliases = ("SEmb", "embeddings-cosine")
    key = MOMENTS
    cost: Cost = "embedding"
    paper = "Poth et al. 2021"

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Take the moments of the source's unit embeddings, their mean among them."""
        return describe_moments(source, bench)

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Cosine per source; NaN for another encoder or pooling."""
        return _cosines_of_means(self.describe(target, bench), sources)


class NearestExample(BaseMethod):
    """For each target example its nearest source example, by the texts alone.

        score = mean over target examples x of max over source examples y of x·y

    x are the unit embeddings of 32 training texts of the target, y those of 100 of the source,
    drawn by the texts themselves and never by labels. Unlike a mean, it asks whether the source
    has something near each target text, whatever else it holds. It is ``retrieval-of-experts``
    without the answer choices, so two tasks over the same texts score 1.

    Cost: one forward pass over the target's texts, shared with every other method that reads
    its embeddings; tens of microseconds per source. A source keeps its sample, 39 KB at 384
    dimensions, shared with divergences.

    It fails with few examples of broad tasks: 100 texts of a source with many topics miss most
    of them, so narrow sources near one of the target's topics win; between two draws the order
    of 17 sources kept a Spearman correlation of 0.81.

    Reference: a variant of retrieval of experts, Jang et al. 2023 (arXiv 2302.03202).

    Parameters
    ----------
    target_examples
        Target texts.
    source_examples
        Source texts; at most those the description holds (100).
    """

    name = "nearest-example"
    key = SAMPLE
    cost: Cost = "embedding"
    paper = "variant of Jang et al. 2023"

    def __init__(self, *, target_examples: int = 32, source_examples: int = SAMPLE_ROWS) -> None:
        if min(target_examples, source_examples) < 1:
            raise MethodError(
                f"{self.name} was given {target_examples} target examples and "
                f"{source_examples} source examples.",
                "Each side has one example or more.",
                "Leave them out for 32 and 100.",
            )
        self.target_examples = target_examples
        self.source_examples = source_examples

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Draw a sample of the source's unit embeddings."""
        return describe_sample(source, bench, max(self.source_examples, SAMPLE_ROWS))

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Mean best dot product per source; NaN for another encoder or pooling."""
        x, encoder = self._target(target, bench)
        out = np.full(len(sources), np.nan)
        for i in range(len(sources)):
            source = sources[i]
            if source.header.get("encoder") == encoder:
                out[i] = self._reduce(x @ sample_of(source)[: self.source_examples].T)
        return out

    def _target(self, target: Task, bench: Workbench) -> tuple[NDArray[np.float64], str]:
        """Embed the target's examples; with the fingerprint of the encoder that did."""
        return unit_sample(target, bench, self.target_examples), bench.encoder.fingerprint

    def _reduce(self, similar: NDArray[np.float64]) -> float:
        """One number of the similarities, target examples by source examples."""
        return float(similar.max(1).mean())


class NearestExampleReverse(NearestExample):
    """Retrieval of experts the other way round: for each source example its nearest target one.

        score = mean over source examples y of max over target examples x of x·y

    x are the unit embeddings of 32 training texts of the target, y those of 100 of the source.
    It asks whether the target covers the source, and so prefers narrow sources inside the
    target's domain over broad ones that contain it.

    Cost: one forward pass over the target's texts, shared with every other method that reads
    its embeddings; tens of microseconds per source. A source keeps its sample, 39 KB at 384
    dimensions, shared with divergences.

    It fails for broad sources that hold what the target needs among much else; compare it with
    ``nearest-example``, which does not mind the rest.

    Reference: the other direction of Jang et al. 2023 (arXiv 2302.03202).

    Parameters
    ----------
    target_examples
        Target texts.
    source_examples
        Source texts; at most those the description holds (100).
    """

    name = "nearest-example-reverse"

    def _reduce(self, similar: NDArray[np.float64]) -> float:
        return float(similar.max(0).mean())


class RetrievalOfExperts(NearestExample):
    """RoE, retrieval of experts: each target example's nearest source example, with choices.

        score = mean over target examples x of max over source examples y of x·y

    x are the unit embeddings of 32 training examples of the target, y those of 100 of the source,
    each written as ``choices</s>input`` and read up to 512 tokens. The choices are those of the
    example in multiple choice and else the names of the classes, so tasks over the same texts
    differ by what they ask. Which choice is right is never read. Examples are drawn by their
    texts.

    The papers' inputs are prompts of promptsource; here they are the plain texts, and the choices
    are joined by commas. Kinds without choices (regression, questions on a passage) have the text
    alone. Names such as 0 and 1 say nothing: give classes their names.

    Cost: a forward pass of its own over 32 examples of the target; tens of microseconds per
    source. A source keeps its sample, 39 KB at 384 dimensions.

    It fails as ``nearest-example`` does with broad tasks, and prefers sources whose classes happen
    to have the same names. TaskWeb's authors use it to find sources for multi-task training, and
    inside TaskShop.

    Reference: Jang et al. 2023 (arXiv 2302.03202); as Kim et al. 2023 (arXiv 2305.13256) use it.

    Parameters
    ----------
    target_examples
        Target examples.
    source_examples
        Source examples; at most those the description holds (100).
    """

    name = "retrieval-of-experts"
    aliases = ("RoE",)
    key = EXPERTS
    paper = "Jang et al. 2023"

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Draw a sample of the source's unit embeddings, choices included."""
        return describe_experts(source, bench, max(self.source_examples, SAMPLE_ROWS))

    def _target(self, target: Task, bench: Workbench) -> tuple[NDArray[np.float64], str]:
        x, reader = expert_sample(target, bench, self.target_examples)
        return x, reader.encoder.fingerprint


METHODS: dict[str, Factory] = {
    "text-embedding": TextEmbedding,
    "text-embedding-pooler": TextEmbeddingPooler,
    "text-embedding-layers": TextEmbeddingLayers,
    "sentence-embedding": SentenceEmbedding,
    "retrieval-of-experts": RetrievalOfExperts,
    "nearest-example": NearestExample,
    "nearest-example-reverse": NearestExampleReverse,
}
