"""Splits by content: every class in every split as far as its rows allow.

Rows are put in order by a hash of their first text, so the split does not depend on the order of
the file, and rows that share a text stay together. Of each class, the first rows in that order are
for testing, the next for validation, the rest for training. A row with several classes, such as a
tagged sentence, is placed with its rarest, as in the iterative stratification of Sechidis,
Tsoumakas and Vlahavas (2011, On the Stratification of Multi-Label Data, algorithm 1), but by hash
instead of by chance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Positions of the splits in what :func:`places` returns.
TRAIN, VALIDATION, TEST = range(3)


def shares(n: int, validation: float, test: float) -> tuple[int, int, int]:
    """Share ``n`` texts of one class among training, validation and test.

    One text is for training; of two the second is for testing; from three on every split that is
    asked for has one at least.

    Examples
    --------
    >>> [shares(n, 0.1, 0.2) for n in (1, 2, 3, 6, 10, 100)]
    [(1, 0, 0), (1, 0, 1), (1, 1, 1), (4, 1, 1), (7, 1, 2), (70, 10, 20)]
    """
    for_test = min(max(round(test * n), 1), n - 1) if test and n > 1 else 0
    left = n - for_test
    for_validation = min(max(round(validation * n), 1), left - 1) if validation and left > 1 else 0
    return left - for_validation, for_validation, for_test


def places(
    texts: Sequence[str],
    classes: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
    *,
    validation: float,
    test: float,
    seed: int,
) -> NDArray[np.int64]:
    """Say in which split each row belongs.

    Parameters
    ----------
    texts
        The first text of each of n rows.
    classes
        Pairs of a row and a class that it has, as two arrays of one length; None where rows have no
        classes.
    validation, test
        Shares of these splits, 0 to 1.
    seed
        Key of the hash.

    Returns
    -------
    n positions: :data:`TRAIN`, :data:`VALIDATION` or :data:`TEST`.
    """
    # A group is what shares a text; groups are numbered in the order of their hashes.
    hashes, group_of_row = np.unique(
        np.array([_hash(t, seed) for t in texts], np.uint64), return_inverse=True
    )
    members = [np.arange(len(hashes))]
    if classes is not None:
        rows, labels = classes
        pairs = np.unique(np.stack([labels, group_of_row[rows]]), axis=1)
        cuts = np.flatnonzero(np.diff(pairs[0])) + 1
        members = [*np.split(pairs[1], cuts), *members]
    place = np.full(len(hashes), -1)
    for groups in sorted(members, key=len):  # the rarest class first; all rows last
        free = groups[place[groups] < 0]
        wanted = shares(len(groups), validation, test)
        for split in (TEST, VALIDATION):
            lacking = max(wanted[split] - int((place[groups] == split).sum()), 0)
            place[free[:lacking]] = split
            free = free[lacking:]
        place[free] = TRAIN
    return place[group_of_row]


def _hash(text: str, seed: int) -> int:
    key = b"split%d" % seed
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=key)
    return int.from_bytes(digest.digest(), "little")
