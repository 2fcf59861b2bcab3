"""Span QA: the answer is a part of the context, which is read in overlapping windows."""

from __future__ import annotations

import re
import string
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from taskscout.models.objectives.objective import (
    Objective,
    Row,
    TokenModel,
    fast_tokenizer,
    mean_error,
)

#: Tokens of the longest answer that is looked for.
LONGEST_ANSWER = 30
#: Tokens that two windows share, as a fraction of the longest input.
OVERLAP = 1 / 3


@dataclass
class Window:
    """A question with a part of its context.

    Attributes
    ----------
    row
        Token ids.
    offsets
        Characters of the context (from, to) of each token; (-1, -1) for all other tokens.
    """

    row: Row
    offsets: NDArray[np.int64]


class SpanQA(Objective):
    """A start and an end logit per token; predictions are texts, empty for "no answer".

    Windows and decoding are those of Devlin et al. (2019, section 4.2 and 4.3): a window without
    the answer points to its first token, the best span over all windows is taken, and where the
    training split has unanswerable questions, the least "no answer" score of all windows is
    compared with it.
    """

    metrics: ClassVar[tuple[str, ...]] = ("f1", "exact_match")

    def usual_metric(self) -> str:
        """Name the F1 of words."""
        return "f1"

    @cached_property
    def has_unanswerable(self) -> bool:
        """Whether the training split has questions without an answer."""
        return bool(min(self.task.column("train", "answer_start")) < 0)

    def windows(self, split: str) -> list[list[Window]]:
        """Cut contexts into windows, at least one per question."""
        tokenizer = fast_tokenizer(self.encoder, self.task.kind)
        longest = self.encoder.max_length
        out = []
        for question, context in zip(
            self.task.column(split, "question"), self.task.column(split, "context"), strict=True
        ):
            # A question never takes more than half of the window.
            cut = tokenizer(
                question, add_special_tokens=False, truncation=True, max_length=longest // 2,
                return_offsets_mapping=True,
            )["offset_mapping"]  # fmt: skip
            made = tokenizer(
                question[: cut[-1][1]] if cut else "",
                context,
                truncation="only_second",
                max_length=longest,
                stride=int(longest * OVERLAP / 2) if longest < 64 else int(longest * OVERLAP),
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                return_attention_mask=False,
            )
            offsets = made.pop("offset_mapping")
            made.pop("overflow_to_sample_mapping", None)
            names = list(made.keys())
            windows = []
            for i, spans in enumerate(offsets):
                of_context = np.array([s == 1 for s in made.sequence_ids(i)])
                array = np.asarray(spans, np.int64).reshape(-1, 2)
                empty = array[:, 0] == array[:, 1]
                array[~of_context | empty] = -1
                windows.append(Window({n: made[n][i] for n in names}, array))
            out.append(windows)
        return out

    def rows(self, split: str) -> list[list[Row]]:
        """Make one row per window, with the tokens that the answer begins and ends with."""
        out = []
        for windows, text, start in zip(
            self.windows(split),
            self.task.column(split, "answer_text"),
            self.task.column(split, "answer_start"),
            strict=True,
        ):
            end = start + len(text)
            out.append([{**w.row, "labels": span_of(w.offsets, start, end)} for w in windows])
        return out

    def model(self, body: nn.Module, *, seed: int) -> nn.Module:
        """Put a head of two outputs per token on a body."""
        torch.manual_seed(seed)
        return TokenModel(body, self.encoder, 2, spans=True)

    def predict(self, model: Any, split: str) -> list[str]:
        """Answers; empty where there is none."""
        windows = self.windows(split)
        logits = iter(self.forward_all(model, [w.row for each in windows for w in each]))
        answers = []
        for context, each in zip(self.task.column(split, "context"), windows, strict=True):
            best, nothing, answer = -np.inf, np.inf, ""
            for window in each:
                starts, ends = next(logits).T
                nothing = min(nothing, float(starts[0] + ends[0]))
                score, first, last = best_span(starts, ends, window.offsets[:, 0] >= 0)
                if score > best:
                    best = score
                    answer = context[window.offsets[first, 0] : window.offsets[last, 1]]
            answers.append("" if self.has_unanswerable and nothing > best else answer)
        return answers

    def _per_question(self, split: str, predictions: list[str]) -> dict[str, NDArray[np.float64]]:
        pairs = list(zip(predictions, self.task.column(split, "answer_text"), strict=True))
        return {
            "exact_match": np.array([float(normalised(a) == normalised(b)) for a, b in pairs]),
            "f1": np.array([word_f1(a, b) for a, b in pairs]),
        }

    def measures(self, split: str, predictions: list[str]) -> dict[str, float]:
        """Exact match and F1 of words, as SQuAD's script has them."""
        return {k: float(v.mean()) for k, v in self._per_question(split, predictions).items()}

    def trivial(self, split: str) -> list[Any]:
        """No answer to any question, or the first words of the context.

        As many words as the median answer of the training split has.
        """
        answers = [a for a in self.task.column("train", "answer_text") if a] or [""]
        words = max(1, int(np.median([len(a.split()) for a in answers])))
        contexts = self.task.column(split, "context")
        return [[""] * len(contexts), [" ".join(c.split()[:words]) for c in contexts]]

    def error(self, split: str, predictions: list[str]) -> float:
        """Standard error of the mean over questions."""
        return mean_error(self._per_question(split, predictions)[self.metric])


def span_of(offsets: NDArray[np.int64], start: int, end: int) -> list[int]:
    """Find the first and last token of characters start to end; [0, 0] where not all are there."""
    inside = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start) & (offsets[:, 0] >= 0))
    if start < 0 or end <= start or not len(inside):
        return [0, 0]
    first, last = int(inside[0]), int(inside[-1])
    # A window may begin or end within the answer: the spans of its tokens then do not cover it.
    covered = offsets[first, 0] <= start and offsets[last, 1] >= end
    return [first, last] if covered else [0, 0]


def best_span(
    starts: NDArray[np.floating[Any]],
    ends: NDArray[np.floating[Any]],
    allowed: NDArray[np.bool_],
    longest: int = LONGEST_ANSWER,
) -> tuple[float, int, int]:
    """Find the span of allowed tokens with the greatest sum of its start and end logit.

    Parameters
    ----------
    starts, ends
        Logits (t).
    allowed
        Tokens that a span may begin or end with (t).
    longest
        Tokens of the longest span.

    Returns
    -------
    Its score, first and last token; minus infinity where there is none.
    """
    at = np.flatnonzero(allowed)
    if not len(at):
        return -np.inf, 0, 0
    length = at[None, :] - at[:, None]
    scores = starts[at][:, None] + ends[at][None, :]
    scores = np.where((length >= 0) & (length < longest), scores, -np.inf)
    first, last = divmod(int(scores.argmax()), len(at))
    return float(scores[first, last]), int(at[first]), int(at[last])


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """Lower case, without punctuation, articles and doubled spaces (Rajpurkar et al. 2016)."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def word_f1(answer: str, wanted: str) -> float:
    """F1 of the words of a normalised answer; where one of them has none, whether both have."""
    said, there = normalised(answer).split(), normalised(wanted).split()
    if not said or not there:
        return float(said == there)
    shared = sum((Counter(said) & Counter(there)).values())
    return 2 * shared / (len(said) + len(there))
