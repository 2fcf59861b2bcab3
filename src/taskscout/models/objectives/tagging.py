"""Tagging: a label per word, learnt and read at the word's first sub-word."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from taskscout.models.objectives.objective import (
    IGNORED,
    Objective,
    Row,
    TokenModel,
    fast_tokenizer,
    ratio_error,
)

Tags = list[NDArray[np.int64]]


class Tagging(Objective):
    """A head on every token; predictions are class ids, one array per example.

    Labels that name entities (O, B-…, I-…) are scored by seqeval's F1 of whole entities, others,
    such as parts of speech, by the mean of accuracy and macro-F1 over words. A word that no token
    begins with, because the text was cut before it or the tokenizer dropped it, is predicted as
    the most frequent tag of the training split, and counts.
    """

    metrics: ClassVar[tuple[str, ...]] = (
        "entity_f1", "accuracy", "macro_f1", "accuracy_and_macro_f1"
    )  # fmt: skip

    @cached_property
    def has_entities(self) -> bool:
        """Whether labels mark entities by their beginnings and insides."""
        return are_entities(self.task.label_names)

    def usual_metric(self) -> str:
        """Name the F1 of entities where there are any."""
        return "entity_f1" if self.has_entities else "accuracy_and_macro_f1"

    @cached_property
    def most_frequent(self) -> int:
        """The most frequent tag of the training split."""
        counts = np.zeros(self.task.n_classes, np.int64)
        for row in self.task.column("train", "label"):
            np.add.at(counts, row, 1)
        return int(counts.argmax())

    def aligned(self, split: str) -> tuple[list[Row], list[NDArray[np.int64]]]:
        """Tokenize a split; and for each text the token that each word begins with, or -1."""
        tokenizer = fast_tokenizer(self.encoder, self.task.kind)
        rows: list[Row] = []
        firsts: list[NDArray[np.int64]] = []
        for words in self.task.column(split, "tokens"):
            made = tokenizer(
                " ".join(words),
                truncation=True,
                max_length=self.encoder.max_length,
                return_attention_mask=False,
                return_offsets_mapping=True,
            )
            firsts.append(first_tokens(words, made.pop("offset_mapping")))
            rows.append(dict(made))
        return rows, firsts

    def rows(self, split: str) -> list[list[Row]]:
        """Make one row per example: a label at the first sub-word of each word."""
        out = []
        labels = self.task.column(split, "label")
        for row, first, tags in zip(*self.aligned(split), labels, strict=True):
            of_tokens = np.full(len(row["input_ids"]), IGNORED)
            there = first >= 0
            of_tokens[first[there]] = np.asarray(tags, np.int64)[there]
            out.append([{**row, "labels": of_tokens.tolist()}])
        return out

    def labels(self, rows: list[Row], width: int) -> torch.Tensor:
        """Pad labels as their tokens are."""
        padded = [row["labels"] + [IGNORED] * (width - len(row["labels"])) for row in rows]
        return torch.tensor(padded)

    def model(self, body: nn.Module, *, seed: int) -> nn.Module:
        """Put a head of one output per tag on a body."""
        torch.manual_seed(seed)
        return TokenModel(body, self.encoder, self.task.n_classes)

    def predict(self, model: Any, split: str) -> Tags:
        """Tags of all words."""
        rows, firsts = self.aligned(split)
        out = []
        for logits, first in zip(self.forward_all(model, rows), firsts, strict=True):
            tags = np.full(len(first), self.most_frequent)
            tags[first >= 0] = logits[first[first >= 0]].argmax(1)
            out.append(tags)
        return out

    def _named(self, tags: Any) -> list[list[str]]:
        return [[self.task.label_names[t] for t in row] for row in tags]

    def measures(self, split: str, predictions: Tags) -> dict[str, float]:
        """Accuracy and macro-F1 over words, and the F1 of entities."""
        from sklearn.metrics import accuracy_score, f1_score

        wanted = self.task.column(split, "label")
        flat, said = (np.array([t for row in rows for t in row]) for rows in (wanted, predictions))
        accuracy = float(accuracy_score(flat, said))
        macro = float(f1_score(flat, said, average="macro", zero_division=0))
        out = {
            "accuracy": accuracy,
            "macro_f1": macro,
            "accuracy_and_macro_f1": (accuracy + macro) / 2,
        }
        parts, wholes = self._entities(split, predictions)
        out["entity_f1"] = float(parts.sum() / wholes.sum()) if wholes.any() else 0.0
        return out

    def _entities(
        self, split: str, predictions: Tags
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Per example: twice the entities found, and those predicted plus those there."""
        if not self.has_entities:
            return np.zeros(len(predictions)), np.zeros(len(predictions))
        from seqeval.metrics.sequence_labeling import get_entities

        parts, wholes = [], []
        for wanted, said in zip(
            self._named(self.task.column(split, "label")), self._named(predictions), strict=True
        ):
            there, found = set(get_entities(wanted)), set(get_entities(said))
            parts.append(2.0 * len(there & found))
            wholes.append(float(len(there) + len(found)))
        return np.array(parts), np.array(wholes)

    def trivial(self, split: str) -> list[Any]:
        """Call every word by the most frequent tag."""
        return [
            [np.full(len(row), self.most_frequent) for row in self.task.column(split, "tokens")]
        ]

    def error(self, split: str, predictions: Tags) -> float:
        """Standard error of the entities' F1, or of the accuracy, over sentences."""
        if self.metric == "entity_f1":
            return ratio_error(*self._entities(split, predictions))
        right = [
            float((np.asarray(wanted) == said).sum())
            for wanted, said in zip(self.task.column(split, "label"), predictions, strict=True)
        ]
        return ratio_error(np.array(right), np.array([float(len(p)) for p in predictions]))


def are_entities(names: tuple[str, ...]) -> bool:
    """Whether tags are those of entities: O and prefixed names."""
    marked = [n for n in names if n != "O"]
    return bool(marked) and all(n[:2] in ("B-", "I-", "E-", "S-", "L-", "U-") for n in marked)


def first_tokens(words: list[str], offsets: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Find the token that each word of a text joined by spaces begins with, or -1.

    Parameters
    ----------
    words
        The words.
    offsets
        Characters (from, to) of each token; nothing for special tokens. A token may begin with
        the space before its word.
    """
    text = " ".join(words)
    ends = np.cumsum([len(w) + 1 for w in words]) - 1
    out = np.full(len(words), -1)
    for token, (start, end) in enumerate(offsets):
        while start < end and text[start] == " ":
            start += 1
        if start >= end:
            continue
        word = int(np.searchsorted(ends, start, side="right"))
        if out[word] < 0:
            out[word] = token
    return out
