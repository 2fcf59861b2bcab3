"""Which tasks share texts: sketches small enough to travel with a source's card.

A sketch keeps the k smallest 64-bit hashes of a task's distinct normalised texts (bottom-k,
Cohen & Kaplan 2007). A hash below a sketch's largest is in the sketch exactly if its text is in
the task, so of a target's texts those below it are a fair sample, and the share of them that
the sketch holds estimates the share of the target that the source contains.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from taskscout.tasks.task import Task

#: A source that holds more than this share of a target's texts is flagged, and left out of studies.
MOST_OVERLAP = 0.01
#: Hashes kept per source: 4 KB.
SKETCH_SIZE = 512
#: Runs of letters and digits, by the same tables as ``str.isalnum``.
_WORD = re.compile(r"[^\W_]+")
#: Texts of fewer words are shared by chance ("yes", "thank you") and do not count.
_FEWEST_WORDS = 4


def normalise(text: str) -> str:
    """Unicode NFKC, case folded, letters and digits only, single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(folded))


def text_hashes(task: Task, splits: Iterable[str] | None = None) -> NDArray[np.uint64]:
    """Sorted distinct hashes of a task's texts and second texts, of four words or more."""
    hashes = set()
    for split in task.splits if splits is None else splits:
        texts, pairs = task.inputs(split)
        for text in (*texts, *(pairs or ())):
            clean = normalise(text)
            if clean.count(" ") >= _FEWEST_WORDS - 1:
                digest = hashlib.blake2b(clean.encode(), digest_size=8).digest()
                hashes.add(int.from_bytes(digest, "little"))
    return np.array(sorted(hashes), np.uint64)


def sketch(hashes: NDArray[np.uint64], size: int = SKETCH_SIZE) -> NDArray[np.uint64]:
    """The ``size`` smallest of sorted hashes; all of them where there are no more."""
    return hashes[:size]


def share_contained(
    target: NDArray[np.uint64], source: NDArray[np.uint64], size: int = SKETCH_SIZE
) -> float:
    """Estimated share of a target's texts that a source contains.

    Parameters
    ----------
    target
        All hashes of the target, sorted.
    source
        Sketch of the source.
    size
        Size the sketch was made with; a shorter one holds the whole source.

    Returns
    -------
    A share between 0 and 1; NaN where none of the target's hashes can be looked up.
    """
    if len(source) >= size:
        target = target[: np.searchsorted(target, source[-1], "right")]
    if not len(target):
        return float("nan")
    if not len(source):
        return 0.0
    at = np.searchsorted(source, target)
    return float((source.take(at, mode="clip") == target).mean())
