"""Rows of evidence: what methods that read labels read of a target, whatever its kind.

A score such as LogME asks how well features tell labels, row by row. Classification and regression
have a label per text, so an example is a row. What a row is for the other kinds the papers leave
open; it is decided here, once, for all scores.

**Tagging.** A row is a word, its features are the state of its first sub-word, its label is its
tag: that is where a tagger's head reads and learns. Most words are outside of every entity (`O`).
At most as many of them are kept as there are other words, for a score over all words would be one
of the outside alone.

**Multiple choice.** A row is a choice, read behind its question as a model reads it; the label says
whether it is right. Features are taken about their mean over the choices of a question, because a
model compares the choices of one question, so that what all of them share (the topic of the
question, above all) decides nothing.

**Span QA.** A row is a sentence of the context, read behind its question; the label says whether
the answer, or a part of it, is in it. Features are about their mean over the context, as above:
all of them share the question. The other definition, the words that the answer begins and ends
with (``spans="words"``), asks for states that embeddings of sentences were never trained to have;
sentences are read the way sources of text pairs read. Which is better is open: against the built-in
pool words recognise the other source of questions more often (``benchmarks/evidence_rows.py``), and
real transfer has not been asked. Questions without an answer have no right
sentence and no row, and contexts of one sentence none.

**Text-to-text.** Where outputs are few, they are classes of the prompts, with the features that the
encoder pools (the last token's, of a language model). Free text has no rows, and methods without
labels stand in.

Rows of an example belong together: folds never part them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from taskscout.errors import MethodError
from taskscout.methods.descriptions import by_text
from taskscout.models.words import Words
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task
from taskscout.tasks.kinds import SEQUENCE_KINDS
from taskscout.tasks.parts import choices, sentences

Array = NDArray[np.float64]

#: Rows at most where each takes a pass of its own through the encoder, and where a row is a word.
TEXT_ROWS, WORD_ROWS = 2_000, 5_000
#: Different outputs of a text-to-text task, at most, that are classes; with two rows each on
#: average.
MOST_CLASSES = 50
#: Tag of words outside of every entity.
OUTSIDE = "O"
#: Words of a context that are read at a time.
_WINDOW = 60


class NoEvidenceError(MethodError):
    """A target of which no row can be made that has features and a label."""


@dataclass(frozen=True, eq=False)
class EvidenceRows:
    """Rows of features and labels of a target.

    Attributes
    ----------
    task
        Its training rows are the texts that are read; of kind classification or regression, but
        where rows are words.
    labels
        Class ids or values (n).
    examples
        Number of the target's example that each row is of (n); rows of one example are adjacent.
    within
        Whether features count about their mean over an example.
    words
        Where the words stand that are rows; None where texts are.
    said
        What a row is, for the user; empty where it is an example.
    """

    task: Task
    labels: NDArray[Any]
    examples: NDArray[np.int64]
    within: bool = False
    words: Words | None = None
    said: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_classes(self) -> bool:
        """Whether labels are classes, not values."""
        return self.labels.dtype.kind != "f"

    def features(self, bench: Workbench, *, middle: bool = False) -> NDArray[np.float32]:
        """Embed all rows by the base encoder, n × d, or n × 2d with the middle layer's beside."""
        return bench.embeddings(self.task, middle=middle, words=self.words)

    def source_features(
        self, bench: Workbench, adapter: Mapping[str, NDArray[Any]], source: str
    ) -> NDArray[np.float32]:
        """Embed all rows by a source's model, n × d."""
        return bench.source_embeddings(self.task, adapter, source=source, words=self.words)

    def about_means(self, features: ArrayLike) -> Array:
        """Take features (n × d) about their means over each example, where they count so."""
        f = np.asarray(features, np.float64)
        if not self.within:
            return f
        first = np.flatnonzero(np.diff(self.examples, prepend=-1))
        sizes = np.diff(first, append=len(f))
        means: Array = np.add.reduceat(f, first) / sizes[:, None]
        return f - np.repeat(means, sizes, axis=0)

    def contrasts(self, columns: ArrayLike) -> Array:
        """Turn columns (n × m) into what is free to differ within examples, (n - examples) × m.

        Row p + 1 of an example, for p from 1 on, becomes (the sum of rows 1 to p, less p times row
        p + 1) over sqrt(p (p + 1)): Helmert's contrasts. Their products are those of
        :meth:`about_means`, but k choices give k - 1 rows, which is what they tell: in a question
        of two choices either row says all.
        """
        x = np.asarray(columns, np.float64)
        first = np.flatnonzero(np.diff(self.examples, prepend=-1))
        sizes = np.diff(first, append=len(x))
        place = np.arange(len(x)) - np.repeat(first, sizes)
        before = np.cumsum(x, axis=0) - x
        before -= np.repeat(before[first], sizes, axis=0)
        p = place[place > 0, None]
        out: Array = (before[place > 0] - p * x[place > 0]) / np.sqrt(p * (p + 1))
        return out

    def groups(self, order: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Examples of the rows in an order; None where every row is an example of its own."""
        alone = len(np.unique(self.examples)) == len(self)
        return None if alone else self.examples[order]

    def order(self) -> NDArray[np.int64]:
        """Order the rows by content, so that where they stood in a file plays no part."""
        if self.said:
            return np.arange(len(self))  # made in such an order
        by_label = np.argsort(self.labels, kind="stable")
        texts, pairs = self.task.inputs("train")
        order = by_text(
            [texts[i] for i in by_label], None if pairs is None else [pairs[i] for i in by_label]
        )
        return by_label[order]


def evidence_rows(
    target: Task,
    bench: Workbench | None = None,
    *,
    outside: Literal["all", "as many", "none"] = "as many",
    spans: Literal["sentences", "words"] = "sentences",
) -> EvidenceRows:
    """Make the rows of evidence of a target's training rows; see the module for what they are.

    Parameters
    ----------
    target
        Of any kind.
    bench
        Keeps the rows for the next method; None to make them anew.
    outside
        How many words outside of every entity stay: all, as many as there are others, or none.
    spans
        What is a row of span QA.

    Raises
    ------
    NoEvidenceError
        If the target has no such rows: free text to write, questions with one choice only or
        without an answer.
    """
    if target.kind in SEQUENCE_KINDS:
        labels = target.labels("train")
        return EvidenceRows(target, labels, np.arange(len(labels)))

    def make() -> EvidenceRows:
        digests = target._row_digests("train", key=b"evidence")
        ordered = target.take({"train": sorted(range(len(digests)), key=digests.__getitem__)})
        if target.kind == "tagging":
            return _of_tags(ordered, outside)
        if target.kind == "multiple_choice":
            return _of_choices(ordered)
        if target.kind == "span_qa":
            return _of_sentences(ordered) if spans == "sentences" else _of_ends(ordered)
        return _of_outputs(ordered)

    key = (target.fingerprint, "evidence rows", outside, spans)
    rows: EvidenceRows = make() if bench is None else bench.once(key, make)
    return rows


def _of_tags(target: Task, outside: str) -> EvidenceRows:
    """Take the words of sentences, with their tags."""
    sentences_ = target.column("train", "tokens")
    tags = [np.asarray(row, np.int64) for row in target.column("train", "label")]
    sizes = [len(words) for words in sentences_]
    owners = np.repeat(np.arange(len(sizes)), sizes)
    starts = np.concatenate(
        [np.cumsum([0, *(len(w) + 1 for w in words[:-1])]) for words in sentences_]
    )
    labels = np.concatenate(tags)
    stay = np.ones(len(labels), bool)
    names = target.label_names
    if OUTSIDE in names and outside != "all":
        is_out = labels == names.index(OUTSIDE)
        others = int((~is_out).sum()) if outside == "as many" else 0
        stay &= ~is_out | _spread(is_out, others)
    stay = _spread(stay, WORD_ROWS)
    if len(np.unique(labels[stay])) < 2:
        raise NoEvidenceError(
            f"All {int(stay.sum())} words of {target.name!r} have the same tag.",
            "With one tag every source explains the tags equally well.",
            "Give sentences with two tags or more, or use a method that reads no labels.",
        )
    return EvidenceRows(
        target,
        labels[stay],
        owners[stay],
        words=Words(owners[stay], starts[stay].astype(np.int64)),
        said=f"{int(stay.sum()):,} words of {len(np.unique(owners[stay])):,} sentences, "
        "by their tags",
    )


def _spread(among: NDArray[np.bool_], most: int) -> NDArray[np.bool_]:
    """Keep at most so many of the true places, drawn with one seed."""
    places = np.flatnonzero(among)
    out = np.zeros(len(among), bool)
    draw = np.random.default_rng(0)
    out[places if len(places) <= most else draw.choice(places, most, replace=False)] = True
    return out


def _of_choices(target: Task) -> EvidenceRows:
    """Take the choices of questions, right or wrong."""
    texts, offered, owners = choices(target, "train")
    right = np.asarray(target.column("train", "label"), np.int64)
    place = np.arange(len(owners)) - np.searchsorted(owners, owners)
    labels = (place == right[owners]).astype(np.int64)
    return _of_pairs(target, texts, offered, labels, owners, "choices", ("wrong", "right"))


def _of_sentences(target: Task) -> EvidenceRows:
    """Take the sentences of contexts, with the answer or without."""
    texts, seconds, labels, owners = [], [], [], []
    for i, (question, context, answer, start) in enumerate(_questions(target)):
        if start >= 0 and answer:
            for begin, end in sentences(context):
                texts.append(question)
                seconds.append(context[begin:end])
                labels.append(int(begin < start + len(answer) and end > start))
                owners.append(i)
    return _of_pairs(
        target, texts, seconds, np.asarray(labels, np.int64), np.asarray(owners, np.int64),
        "sentences", ("without the answer", "with the answer"),
    )  # fmt: skip


def _questions(target: Task) -> list[tuple[str, str, str, int]]:
    """List question, context, answer and where it begins."""
    names = ("question", "context", "answer_text", "answer_start")
    return list(zip(*(target.column("train", name) for name in names), strict=True))


def _of_pairs(
    target: Task,
    texts: Sequence[str],
    seconds: Sequence[str],
    labels: NDArray[np.int64],
    owners: NDArray[np.int64],
    what: str,
    names: tuple[str, str],
) -> EvidenceRows:
    """Take rows of which one or more of an example are right, as far as there is room.

    Examples without a right row, or without a wrong one, tell nothing.
    """
    n = target.tables["train"].num_rows
    right = np.bincount(owners[labels == 1], minlength=n)
    wrong = np.bincount(owners[labels == 0], minlength=n)
    usable = (right > 0) & (wrong > 0)
    usable &= np.cumsum(np.where(usable, right + wrong, 0)) <= TEXT_ROWS
    rows = np.flatnonzero(usable[owners])
    if not len(rows):
        raise NoEvidenceError(
            f"None of the {n} questions of {target.name!r} has both {what} that are "
            f"{names[1]} and {what} that are {names[0]}.",
            "There is nothing to tell apart: the questions have no answer, or one choice or "
            "sentence each.",
            "Use a method that reads no labels, or give other questions.",
        )
    table = pa.table(
        {
            "text": pa.array([texts[i] for i in rows.tolist()], pa.string()),
            "text_pair": pa.array([seconds[i] for i in rows.tolist()], pa.string()),
            "label": labels[rows],
        }
    )
    task = Task(target.name, "classification", {"train": table}, names)
    said = f"{len(rows):,} {what} of {int(usable.sum()):,} questions, {' or '.join(names)}"
    return EvidenceRows(task, labels[rows], owners[rows], within=True, said=said)


def _of_ends(target: Task) -> EvidenceRows:
    """Take words of contexts: those that answers begin and end with, and three others for each.

    Contexts are read in pieces of 60 words, each behind the question. Labels: 0 for other words,
    1 where the answer begins, 2 where it ends, 3 for an answer of one word.
    """
    texts, seconds, owners, starts, labels, examples = [], [], [], [], [], []
    for i, (question, context, answer, start) in enumerate(_questions(target)):
        words = context.split(" ")
        begins = np.cumsum([0, *(len(w) + 1 for w in words[:-1])])
        last = start + len(answer) - 1
        if start < 0 or not answer:
            continue
        first_word, last_word = (
            int(np.searchsorted(begins, at, "right")) - 1 for at in (start, last)
        )
        others = _spread(np.arange(len(words)) >= 0, 6)
        others[[first_word, last_word]] = True
        pieces = np.flatnonzero(others) // _WINDOW
        for piece in np.unique(pieces).tolist():
            low = piece * _WINDOW
            texts.append(question)
            seconds.append(" ".join(words[low : low + _WINDOW]))
            for word in np.flatnonzero(others)[pieces == piece].tolist():
                owners.append(len(texts) - 1)
                starts.append(int(begins[word] - begins[low]))
                ends = (word == first_word) + 2 * (word == last_word)
                labels.append(ends)
                examples.append(i)
    rows = np.arange(len(labels))[:WORD_ROWS]
    if not len(rows):
        raise NoEvidenceError(
            f"No question of {target.name!r} has an answer.",
            "There is no word that an answer begins or ends with.",
            "Use a method that reads no labels, or give questions with answers.",
        )
    table = pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "text_pair": pa.array(seconds, pa.string()),
            "label": np.zeros(len(texts), np.int64),
        }
    )
    return EvidenceRows(
        Task(target.name, "classification", {"train": table}, ("context",)),
        np.asarray(labels, np.int64)[rows],
        np.asarray(examples, np.int64)[rows],
        within=True,
        words=Words(np.asarray(owners, np.int64)[rows], np.asarray(starts, np.int64)[rows], True),
        said=f"{len(rows):,} words, by whether an answer begins or ends there",
    )


def _of_outputs(target: Task) -> EvidenceRows:
    """Take prompts, with their outputs as classes where they are few."""
    outputs = [text.strip() for text in target.column("train", "completion")]
    names = sorted(Counter(outputs))
    if len(names) < 2 or len(names) > min(MOST_CLASSES, len(outputs) // 2):
        raise NoEvidenceError(
            f"The {len(outputs)} outputs of {target.name!r} are {len(names)} different texts.",
            f"Outputs are classes where there are 2 to {MOST_CLASSES} of them, with two rows or "
            "more for each on average; free text has no labels.",
            "Use a method that reads no labels, such as text-embedding.",
        )
    number = {name: i for i, name in enumerate(names)}
    labels = np.array([number[text] for text in outputs], np.int64)
    table = pa.table({"text": target.tables["train"].column("prompt"), "label": labels})
    task = Task(target.name, "classification", {"train": table}, tuple(names))
    said = f"{len(labels):,} prompts, by their {len(names)} outputs"
    return EvidenceRows(task, labels, np.arange(len(labels)), said=said)
