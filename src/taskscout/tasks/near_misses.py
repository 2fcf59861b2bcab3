"""What is nearly right: answers that are nearly in their context, broken tags, padding."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Likeness, from 0 to 1, below which a part of a context is no near match of an answer.
_LEAST_LIKENESS = 0.6
#: Characters of a context that are looked at.
_LOOKED_AT = 20_000
#: Tag that marks what is no word of its own, such as padding and sub-words.
PADDING = -100


def nearest_part(answer: str, context: str) -> str:
    """Find the words of a context that are most like an answer; empty where none are."""
    context = context[:_LOOKED_AT]
    at = context.casefold().find(answer.casefold())
    if at >= 0 and len(context.casefold()) == len(context):
        return context[at : at + len(answer)]
    words, length = context.split(), len(answer.split())
    matcher = difflib.SequenceMatcher(b=answer.casefold(), autojunk=False)
    best, likeness = "", _LEAST_LIKENESS
    for begin in range(max(len(words) - length + 1, 0)):
        part = " ".join(words[begin : begin + length])
        matcher.set_seq1(part.casefold())
        if matcher.real_quick_ratio() > likeness and matcher.quick_ratio() > likeness:
            ratio = matcher.ratio()
            if ratio > likeness:
                best, likeness = part, ratio
    return best


def broken_rows(
    names: Sequence[str], tags: NDArray[np.int64], owners: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Find rows in which an entity goes on (I-, E-) that did not begin with the same name before.

    Parameters
    ----------
    names
        Of the tags.
    tags
        Tags of all words of all rows, one row after the other (n).
    owners
        Number of the row of each word (n).

    Returns
    -------
    Numbers of the rows, each once; none where no tag marks a beginning (the scheme IO).
    """
    if not any(name.startswith("B-") for name in names):
        return np.empty(0, np.int64)
    open_after = np.array([n[2:] if n[:2] in ("B-", "I-") else "" for n in names], dtype=object)
    goes_on = np.array([n[2:] if n[:2] in ("I-", "E-") else "" for n in names], dtype=object)
    before = np.concatenate([[""], open_after[tags[:-1]]]) if len(tags) else open_after[tags]
    before[np.flatnonzero(np.diff(owners, prepend=-1))] = ""
    wanted = goes_on[tags]
    return np.unique(owners[(wanted != "") & (wanted != before)])


def without_padding(
    tokens: Sequence[Sequence[str] | None], tags: Sequence[Sequence[int | str] | None]
) -> tuple[list[list[str] | None], list[list[int | str] | None], int]:
    """Leave out words tagged -100, and -100 behind the last word; say how many tags went."""
    gone = 0
    out: tuple[list[list[str] | None], list[list[int | str] | None]] = ([], [])
    for tokens_here, tags_here in zip(tokens, tags, strict=True):
        words = None if tokens_here is None else list(tokens_here)
        of_words = None if tags_here is None else list(tags_here)
        if words and of_words:
            padding = [str(tag) == str(PADDING) for tag in of_words]
            if all(padding[len(words) :]):
                of_words = of_words[: len(words)]
            if len(of_words) == len(words):
                words = [w for w, p in zip(words, padding, strict=False) if not p]
                of_words = [t for t, p in zip(of_words, padding, strict=False) if not p]
                gone += sum(padding)
        out[0].append(words)
        out[1].append(of_words)
    return *out, gone
