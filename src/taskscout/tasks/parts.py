"""The parts of an example: the choices of a question, and the sentences of a context."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from taskscout.tasks.task import Task

#: Words of the longest sentence; what has no full stops is cut into pieces of so many.
LONGEST_SENTENCE = 40
_END_OF_SENTENCE = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))\s+|\n+")
_PIECE = re.compile(rf"\S+(?:\s+\S+){{0,{LONGEST_SENTENCE - 1}}}")


def choices(task: Task, split: str) -> tuple[list[str], list[str], NDArray[np.int64]]:
    """List all choices of a multiple-choice task, each with what is read before it.

    A second text, mostly a question, comes before the first, so that a long passage is cut and not
    its question.

    Returns
    -------
    The text before each choice, the choice, and the number of its example.
    """
    texts: list[str] = task.column(split, "text")
    if "text_pair" in task.tables[split].column_names:
        pairs = task.column(split, "text_pair")
        texts = [
            f"{pair} {text}" if pair else text for text, pair in zip(texts, pairs, strict=True)
        ]
    of_examples: list[list[str]] = task.column(split, "choices")
    owners = np.repeat(np.arange(len(of_examples)), [len(each) for each in of_examples])
    return [texts[i] for i in owners.tolist()], [c for each in of_examples for c in each], owners


def sentences(context: str) -> list[tuple[int, int]]:
    """Find the sentences of a context, each at most :data:`LONGEST_SENTENCE` words long.

    Returns
    -------
    First character and the one behind the last, of every sentence that is not blank.
    """
    out = []
    begin = 0
    for end, following in [
        *((m.start(), m.end()) for m in _END_OF_SENTENCE.finditer(context)),
        (len(context), len(context)),
    ]:
        for piece in _PIECE.finditer(context, begin, end) if begin < end else ():
            out.append((piece.start(), piece.end()))
        begin = following
    return out
