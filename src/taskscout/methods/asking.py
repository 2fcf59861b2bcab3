"""Asking a method: what rankings and studies do alike, and what it costs.

Descriptions come from a :class:`Shelf`: a pool's, or those that a study made.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from taskscout.methods.joint import LazyDescriptions, gather
from taskscout.methods.method import Description, Method
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task
from taskscout.tasks.names import NONE


class Shelf(Protocol):
    """Where descriptions of sources lie."""

    def holds(self, source: str, key: str) -> bool:
        """Whether it has the description of a key."""

    def read(self, source: str, key: str) -> Description:
        """Read a description that it holds."""

    def seconds(self, source: str, key: str) -> float:
        """What making a description that it holds took; NaN where that is not known."""


@dataclass(frozen=True)
class MethodCost:
    """What one method cost for one target.

    Attributes
    ----------
    seconds
        To score the target against all sources, embedding included where this method was the
        first to ask for it.
    seconds_per_pair
        The same by source.
    bytes_per_source
        Mean size of what the method reads of a source.
    offline_seconds
        Mean time to make that for one source, its tuning included where the method reads the
        tuned model; NaN where it is not known.
    """

    seconds: float
    seconds_per_pair: float
    bytes_per_source: float
    offline_seconds: float


@dataclass(frozen=True)
class Answer:
    """What one method says of one target.

    Attributes
    ----------
    sources
        Names of the sources, in the order given.
    scores
        One number per source; NaN where the method does not apply.
    none
        Score of "use no source"; None where the method has none.
    cost
        What it cost.
    """

    sources: tuple[str, ...]
    scores: NDArray[np.float64]
    none: float | None
    cost: MethodCost


def held(method: Method, names: Iterable[str], shelf: Shelf) -> tuple[str, ...]:
    """Name the sources of which a shelf has anything that a method reads."""
    return tuple(n for n in names if any(shelf.holds(n, k) for k in method.reads))


def ask(
    method: Method,
    target: Task,
    names: Sequence[str],
    shelf: Shelf,
    bench: Workbench,
    *,
    weighed: int | None = 20,
) -> Answer:
    """Ask a method for its score of every source, and of "use no source" where it has one.

    Parameters
    ----------
    method, target, bench
        Of the score.
    names
        Sources of which the shelf has something that the method reads (:func:`held`).
    shelf
        Where descriptions are read, each when the method asks for it.
    weighed
        How many sources' descriptions are read again for their size; None for all.
    """

    def read(name: str) -> Description:
        if name == NONE and none is not None:
            return none
        description = gather(name, method.reads, partial(shelf.holds, name), partial(
            shelf.read, name
        ))  # fmt: skip
        assert description is not None  # only sources that have it are named
        return description

    none = method.none(bench)
    sources = LazyDescriptions((*names, NONE) if none is not None else tuple(names), read)
    start = time.perf_counter()
    scores = method.score(target, sources, bench)
    seconds = time.perf_counter() - start
    sizes = [sources[i].size for i in range(len(names))[:weighed]]
    cost = MethodCost(
        seconds=seconds,
        seconds_per_pair=seconds / len(names),
        bytes_per_source=float(np.mean(sizes)) if sizes else float("nan"),
        offline_seconds=offline_seconds(method, names, shelf),
    )
    rest = float(scores[-1]) if none is not None else None
    return Answer(tuple(names), scores[: len(names)], rest, cost)


def offline_seconds(method: Method, names: Iterable[str], shelf: Shelf) -> float:
    """Mean seconds to make what a method reads of one source; NaN where that is not known."""
    totals = [sum(shelf.seconds(n, k) for k in method.reads if shelf.holds(n, k)) for n in names]
    return float(np.mean(totals)) if totals else float("nan")
