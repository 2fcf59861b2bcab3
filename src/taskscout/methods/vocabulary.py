"""Vocabulary overlap: which source uses the target's words."""

from __future__ import annotations

import hashlib
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.descriptions import (
    TERMS,
    TEXTS,
    describe_terms,
    once,
    term_mask,
    vocabulary_fingerprint,
)
from taskscout.methods.method import BaseMethod, Cost, Description, Factory
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task

NGRAMS = "ngrams"

Unit = Literal["word", "subword"]

#: English function words (the list of NLTK, from M. Porter), those without an apostrophe:
#: punctuation is gone when words are compared with it.
STOP_WORDS = frozenset(
    """
    i me my myself we our ours ourselves you your yours yourself yourselves he him his himself
    she her hers herself it its itself they them their theirs themselves what which who whom
    this that these those am is are was were be been being have has had having do does did doing
    a an the and but if or because as until while of at by for with about against between into
    through during before after above below to from up down in out on off over under again
    further then once here there when where why how all any both each few more most other some
    such no nor not only own same so than too very s t can will just don should now d ll m o re
    ve y ain aren couldn didn doesn hadn hasn haven isn ma mightn mustn needn shan shouldn wasn
    weren won wouldn
    """.split()  # noqa: SIM905  # a list is easier to read as text
)


class Vocabulary(BaseMethod):
    """Jaccard index of the sets of tokens that occur.

        score = |A ∩ B| / |A ∪ B|, between 0 and 1

    A and B are the sets of token ids of the encoder's tokenizer that occur in at most 10,000
    training texts of the target and the source. Texts are cut at the encoder's longest input
    (128 tokens), and special and padding tokens count, as in the released code of the paper.

    Cost: the target's texts are tokenized, no forward pass; a source is compared in
    microseconds. A source keeps its term counts, which the divergences over terms share, about
    20 KB; the set itself is a bit per token id, 4 KB.

    It fails where sizes differ: a small target shares few tokens with a large source however
    close they are, because the union is large, so sources of the target's own size are
    preferred. How often a token occurs plays no part; ``terms-jensen-shannon`` looks at that.

    Reference: Schulte et al. 2024 (arXiv 2410.15148) use it as a baseline.
    """

    name = "vocabulary"
    aliases = ("Jaccard",)
    key = TERMS
    cost: Cost = "words"
    paper = "Schulte et al. 2024"

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Count the terms of the source's training texts."""
        return describe_terms(source, bench, TEXTS)

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Jaccard index per source; NaN for another tokenizer or truncation."""
        own = term_mask(self.describe(target, bench))
        fingerprint = vocabulary_fingerprint(bench)
        out = np.full(len(sources), np.nan)
        for i in range(len(sources)):
            source = sources[i]
            if source.header.get("vocabulary") == fingerprint:
                theirs = term_mask(source)
                out[i] = np.count_nonzero(own & theirs) / np.count_nonzero(own | theirs)
        return out


def _tokens(text: str, bench: Workbench, unit: Unit) -> list[str]:
    """Words or subwords of a text without punctuation and stop words."""
    plain = text.translate(_NO_PUNCTUATION)
    parts = plain.split() if unit == "word" else bench.encoder.tokenizer.tokenize(plain)
    return [w for w in parts if w.lower() not in STOP_WORDS]


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _ngrams(task: Task, bench: Workbench, unit: Unit, n: int) -> Iterator[str]:
    texts, pairs = task.sample(TEXTS).inputs("train")
    for i, text in enumerate(texts):
        words = _tokens(text if pairs is None else f"{text} {pairs[i]}", bench, unit)
        for j in range(len(words) - n + 1):
            yield " ".join(words[j : j + n])


def _most_frequent(grams: Iterator[str], top: int) -> NDArray[np.uint32]:
    """Hash the most frequent n-grams, most frequent first; ties by the n-gram itself."""
    counts = Counter(grams)
    best = sorted(counts, key=lambda g: (-counts[g], g))[:top]
    digests = [
        hashlib.blake2b(g.encode("utf-8", "surrogatepass"), digest_size=4).digest() for g in best
    ]
    return np.frombuffer(b"".join(digests), "<u4").astype(np.uint32)


def describe_ngrams(task: Task, bench: Workbench, unit: Unit, top: int) -> Description:
    """Count the most frequent unigrams and bigrams of a task's training texts.

    Returns
    -------
    Arrays ``unigrams`` and ``bigrams`` (uint32, at most ``top`` hashes, most frequent first).
    """

    def make() -> Description:
        header: dict[str, object] = {"unit": unit, "top": top}
        if unit == "subword":
            header["vocabulary"] = vocabulary_fingerprint(bench)
        arrays = {
            name: _most_frequent(_ngrams(task, bench, unit, n), top)
            for n, name in ((1, "unigrams"), (2, "bigrams"))
        }
        return Description(NGRAMS, task.name, header, arrays)

    return once(bench, task, (NGRAMS, unit, top), make)


class VocabularyUnigrams(BaseMethod):
    """Share of the most frequent words that two tasks have in common.

        score = |A ∩ B| / N, between 0 and 1

    A and B are the N = 1,000 most frequent words (option ``top``) of at most 10,000 training
    texts of the target and the source, after ASCII punctuation and English function words are
    removed; capitals are kept apart, as in the released code. With ``unit="subword"`` the
    encoder's tokens take the place of words. Ties at the N-th place are broken by the alphabet,
    so that the order of the rows does not matter.

    Cost: the target's words are counted, no forward pass; a source is compared in tens of
    microseconds. A source keeps 8 KB, the same for ``vocabulary-bigrams``. Words are kept as
    32-bit hashes; that two different ones of two lists meet has a chance of 1 in 4,000 per pair
    of tasks and would add 0.001.

    It fails for small targets, which have fewer than N words and so low scores throughout (the
    order of the sources is not touched), and for other languages than English, whose function
    words stay.

    Reference: in the released code of Lin et al. 2024 (arXiv 2407.16245), as 100 times this.

    Parameters
    ----------
    top
        N. Descriptions hold at most the N they were made with.
    unit
        ``word`` or ``subword``.
    """

    name = "vocabulary-unigrams"
    key = NGRAMS
    cost: Cost = "words"
    paper = "Lin et al. 2024"
    #: Array of the description that is compared.
    array: ClassVar[str] = "unigrams"

    def __init__(self, *, top: int = 1000, unit: Unit = "word") -> None:
        if top < 1 or unit not in get_args(Unit):
            raise MethodError(
                f"{self.name} was given top {top} and unit {unit!r}.",
                f"top is 1 or more, unit is {' or '.join(get_args(Unit))}.",
                "Leave them out for 1,000 words.",
            )
        self.top = top
        self.unit: Unit = unit

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Count the most frequent unigrams and bigrams of the source's training texts."""
        return describe_ngrams(source, bench, self.unit, self.top)

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Share in common; NaN for a description of another unit or with a smaller ``top``."""
        own = self.describe(target, bench)
        grams = own.arrays[self.array][: self.top]
        out = np.full(len(sources), np.nan)
        for i in range(len(sources)):
            source = sources[i]
            same = all(source.header.get(k) == own.header.get(k) for k in ("unit", "vocabulary"))
            if same and source.header.get("top", 0) >= self.top:
                theirs = source.arrays[self.array][: self.top]
                out[i] = len(np.intersect1d(grams, theirs)) / self.top
        return out


class VocabularyBigrams(VocabularyUnigrams):
    """Share of the most frequent pairs of words that two tasks have in common.

        score = |A ∩ B| / N, between 0 and 1

    A and B are the N = 1,000 most frequent pairs of neighbouring words (option ``top``) of at
    most 10,000 training texts of the target and the source. ASCII punctuation and English
    function words are removed first, so words that only those stood between are neighbours;
    capitals are kept apart, as in the released code. With ``unit="subword"`` the encoder's
    tokens take the place of words.

    Cost: the target's words are counted, no forward pass; a source is compared in tens of
    microseconds. A source keeps 8 KB, the same for ``vocabulary-unigrams``.

    Pairs say more than words about genre and setting ("million euros", "would recommend"), but
    most of a small target's pairs occur once, and then chance decides which N are kept: it
    fails below a few hundred texts.

    Reference: in the released code of Lin et al. 2024 (arXiv 2407.16245), as 100 times this.

    Parameters
    ----------
    top
        N. Descriptions hold at most the N they were made with.
    unit
        ``word`` or ``subword``.
    """

    name = "vocabulary-bigrams"
    array = "bigrams"


METHODS: dict[str, Factory] = {
    "vocabulary": Vocabulary,
    "vocabulary-unigrams": VocabularyUnigrams,
    "vocabulary-bigrams": VocabularyBigrams,
}
