"""The kinds of tasks, the columns of each, and the names of splits."""

from __future__ import annotations

from typing import Literal, get_args

Kind = Literal[
    "classification", "regression", "tagging", "span_qa", "multiple_choice", "text_to_text"
]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: Canonical columns of each kind; those in the second tuple may be absent.
COLUMNS: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "classification": (("text", "label"), ("text_pair",)),
    "regression": (("text", "label"), ("text_pair",)),
    "tagging": (("tokens", "label"), ()),
    "span_qa": (("question", "context", "answer_text", "answer_start"), ()),
    "multiple_choice": (("text", "choices", "label"), ("text_pair",)),
    "text_to_text": (("prompt", "completion"), ()),
}

#: The column that says what is right.
LABEL: dict[Kind, str] = {
    **dict.fromkeys(KINDS, "label"),
    "span_qa": "answer_text",
    "text_to_text": "completion",
}

#: Kinds whose label belongs to the whole sequence.
SEQUENCE_KINDS: tuple[Kind, ...] = ("classification", "regression")

#: Kinds of sources that a pool can keep: those whose answers a head on an encoder gives.
SOURCE_KINDS: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "text_to_text")

SPLITS = ("train", "validation", "test")
