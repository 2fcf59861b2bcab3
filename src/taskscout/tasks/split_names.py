"""What names of splits mean: ``dev``, ``eval``, ``validation_matched``, ``test_ood``.

A name is read by its first word (:data:`WORDS`); what follows an underscore, hyphen, dot or space
tells apart several splits of one purpose. A name with another first word is not understood, and
so is one with words of two purposes, such as ``train_dev``: whoever reads it has to refuse it or
leave it alone, for its rows may be the official test rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Words and what they stand for. ``eval`` is decided by its neighbours (:func:`meanings`).
WORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "devel": "validation", "development": "validation",
    "eval": "eval", "evaluation": "eval",
    "test": "test", "testing": "test",
}  # fmt: skip
#: Endings that say no more than that it is a split: ``trainset``, ``Test set``, ``dev_split``.
_ENDING = re.compile(r"_?(set|split|data)$")


def _words(name: object) -> list[str]:
    plain = re.sub(r"[\W_]+", "_", str(name).strip().lower()).strip("_")
    return _ENDING.sub("", plain).split("_")


def is_understood(name: object) -> bool:
    """Whether a name says what its rows are for.

    Examples
    --------
    >>> [is_understood(n) for n in ("Dev", "test_ood", "train_dev", "later", None)]
    [True, True, False, False, False]
    """
    first, *rest = _words(name)
    return first in WORDS and not any(w in WORDS for w in rest)


def meanings(names: Iterable[object]) -> dict[object, str]:
    """Say for which split each of the names of a table stands.

    - ``eval`` is validation, or the test where validation rows stand beside it and no test rows.
    - A name with more words, such as ``validation_matched``, stands for its first word's split
      where no name stands for that split alone. Where one does, as ``test`` beside ``test_ood``,
      the longer name is a split of its own: its rows neither train nor test.
    - A name that is not understood stands for itself.

    Examples
    --------
    >>> meanings(["train", "dev", "eval"])
    {'train': 'train', 'dev': 'validation', 'eval': 'test'}
    >>> meanings(["train", "validation_matched", "test", "test_ood"])
    {'train': 'train', 'validation_matched': 'validation', 'test': 'test', 'test_ood': 'test_ood'}
    """
    names = list(names)
    purpose = {n: WORDS[_words(n)[0]] for n in names if is_understood(n)}
    others = set(purpose.values()) - {"eval"}
    is_test = "validation" in others and "test" not in others
    evaluated = "test" if is_test else "validation"
    purpose = {n: evaluated if p == "eval" else p for n, p in purpose.items()}
    alone = {p for n, p in purpose.items() if len(_words(n)) == 1}
    out: dict[object, str] = {}
    for name in names:
        split = purpose.get(name, str(name))
        extra = name in purpose and len(_words(name)) > 1 and split in alone
        out[name] = "_".join(_words(name)) if extra else split
    return out
